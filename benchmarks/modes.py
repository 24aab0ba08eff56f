"""What a study takes with activations cached or streamed, its sweeps apart or together, and whether its files differ.

It reads the models and the tokens of a study that is there (`snakemake --configfile configs/pythia-sae-topk-small.yaml
results/pythia-sae-topk-small/models/ results/pythia-sae-topk-small/tokens/`), and makes rows, shards, statistics, runs
and their reconstruction in a temporary folder, all in this process and the processes of streaming, with the library's
own calls. Seconds are those of the processor, of all processes together.

PYTHONPATH=scripts python benchmarks/modes.py --config configs/pythia-sae-topk-small.yaml
"""

import argparse
import logging
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
import transformers
import yaml

from ontogeny.activations.harvest import harvest
from ontogeny.activations.rows import write_rows
from ontogeny.activations.statistics import write_statistics, write_streamed_statistics
from ontogeny.activations.streaming import ROWS_RUN
from ontogeny.config.activations import HarvestSettings
from ontogeny.config.load import load_study
from ontogeny.config.streamed import FILE, StreamedSettings
from ontogeny.config.study import SPLITS, Study
from ontogeny.crosscoder.sweep_trainer import train_sweep
from ontogeny.crosscoder.trainer import train
from ontogeny.evaluation.reconstruction import write_reconstruction
from ontogeny.files import write_json
from ontogeny.memory import keep_freed_memory


class RowsRun(logging.Handler):
    """Adds up the rows that streaming says its models ran over."""

    total = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of one line of the log."""
        if record.msg == ROWS_RUN and isinstance(record.args, tuple):
            self.total += int(str(record.args[0]))


class Cost(NamedTuple):
    """What a part of a study took."""

    seconds: float
    rows: int
    """Rows that models ran over, those of each checkpoint counted."""


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="the study")
    parser.add_argument("--root", type=Path, help="its results, if they are not where the study has them")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    transformers.utils.logging.disable_progress_bar()
    study = load_study(yaml.safe_load(given.config.read_text()), str(given.config))
    heard = RowsRun()
    logging.getLogger("ontogeny").addHandler(heard)
    logging.getLogger("ontogeny").setLevel(logging.INFO)
    write("| activations | bytes of them on disk | made: s, rows run | sweep | trained: s, rows run |")
    write("|---|---|---|---|---|")
    found = {}
    for mode in ("cached", "streamed"):
        with TemporaryDirectory() as folder:
            root = Path(folder)
            for part in ("models", "tokens"):
                (root / part).symlink_to((given.root or Path(study.root)).resolve() / part)
            activations = root / "activations" / ("streamed" if mode == "streamed" else "")
            made = measured(heard, partial(make_activations, study, root, mode == "streamed"))
            size = sum(file.stat().st_size for file in activations.rglob("*.h5") if file.parent.name != "rows")
            for sweep in ("apart", "together"):
                out = root / sweep
                run = measured(heard, partial(train_all, study, activations, out, sweep == "together"))
                found[mode, sweep] = files_of(study, activations, out)
                write(
                    f"| {mode} | {size:,} | {made.seconds:.1f}, {made.rows:,} | {sweep} "
                    f"| {run.seconds:.1f}, {run.rows:,} |"
                )
    first = found["cached", "apart"]
    differing = [name for name in first if any(one[name] != first[name] for one in found.values())]
    write(f"\n{len(first)} files of each, of which differ: {', '.join(differing) or 'none'}")


def measured(heard: RowsRun, work: Callable[[], int]) -> Cost:
    """Do some work, which returns the rows that it has run models over itself."""
    start, rows = processor_seconds(), heard.total
    own = work()
    return Cost(processor_seconds() - start, own + heard.total - rows)


def processor_seconds() -> float:
    """Seconds of the processor so far, in this process and those that were begun here."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def make_activations(study: Study, root: Path, streamed: bool) -> int:
    """Write rows and statistics, and shards if they are cached."""
    folder = root / "activations" / ("streamed" if streamed else "")
    for split in SPLITS:
        for shard, chosen in study.rows(split).items():
            write_rows(chosen, root / f"tokens/{split}.h5", folder / f"rows/{shard}.h5", None)
    sites, train_shards = study.all_sites(), list(study.shards("train"))
    settings = {key: getattr(study.activations, key) for key in HarvestSettings.model_fields}
    if streamed:
        write_json(folder / FILE, StreamedSettings(**settings).model_dump(mode="json"))
        for checkpoint in dict.fromkeys(site.checkpoint for site in sites):
            own = [site for site in sites if site.checkpoint == checkpoint]
            write_streamed_statistics(folder, own, train_shards, None)
        return 0
    rows = 0.0
    for hooks, checkpoints in study.hook_groups().items():
        for checkpoint in checkpoints:
            record = root / f"models/{checkpoint}/checkpoint.json"
            for shard in (name for split in SPLITS for name in study.shards(split)):
                paths = root / f"tokens/{shard.partition('-')[0]}.h5", folder / f"rows/{shard}.h5"
                rows += harvest(HarvestSettings(**settings), record, *paths, hooks, folder / checkpoint, None)["rows"]
    for site in sites:
        shards = [folder / site.key / f"{shard}.h5" for shard in train_shards]
        write_statistics(shards, folder / site.key / "statistics.json", None)
    return int(rows)


def train_all(study: Study, activations: Path, out: Path, together: bool) -> int:
    """Train every run of every dictionary."""
    for name in study.dictionaries:
        runs = study.runs(name)
        if not together:
            for run, settings in runs.items():
                train(settings, activations, out / "state", out / name / run)
            continue
        for seed in study.dictionaries[name].seeds:
            of_seed = [settings for settings in runs.values() if settings.seed == seed]
            train_sweep(of_seed, activations, out / "state", out / name)
    return 0


def files_of(study: Study, activations: Path, out: Path) -> dict[str, bytes]:
    """Measure every run, and read what was written of it."""
    heldout = list(study.shards("heldout"))
    for name in study.dictionaries:
        for run in study.runs(name):
            write_reconstruction(out / name / run, activations, heldout, out / name / run / "reconstruction.csv")
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
