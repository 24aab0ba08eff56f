"""What activations kept as int8 cost beside float16: disk, FVU, loss, and features that are found again.

Two studies are made of a finished one, `<study>-float16` and `<study>-int8`, which differ in `activations.dtype` and in
nothing else. Both read the finished study's checkpoints and tokenizer and train its featured run with two seeds, since
another seed is the yardstick of what differs anyway. Snakemake runs them up to reconstruction and loss.

make figures && make bench-storage
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from ontogeny.activations.source import source_of
from ontogeny.config.load import load_study, read_study
from ontogeny.config.study import Study
from ontogeny.crosscoder.initialisation import unit_decoder
from ontogeny.evaluation.activity import activity
from ontogeny.evaluation.agreement import ALL
from ontogeny.evaluation.encoding import LARGEST_BLOCK, load_dictionary
from ontogeny.evaluation.matching_tables import Side, agreement_table, matched_pairs, side
from ontogeny.evaluation.metrics import ReconstructionSums
from ontogeny.evaluation.reconstruction import reconstruction
from ontogeny.evaluation.tables import metrics_table, read_identity

DTYPES = ("float16", "int8")
CONFIGS = Path("results/benchmarks/storage")


def main() -> None:
    """Run both studies and write two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="a study whose results are there")
    parser.add_argument("--results", type=Path, help="where they are, if not where the study keeps them")
    given = parser.parse_args()
    finished = read_study(given.config)
    results = (given.results or Path(finished.root)).absolute()
    studies = {}
    for dtype in DTYPES:
        config = derived(finished, results, dtype)
        file = CONFIGS / f"{config['study']}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        studies[dtype] = load_study(config, str(file))
        make_metrics(studies[dtype], file)
    write_table(costs(studies))
    write_table(features(studies["float16"], studies["int8"]))


def derived(finished: Study, results: Path, dtype: str) -> dict[str, Any]:
    """Describe the study of one type on disk: the featured run, with its seed and the next, over finished checkpoints.

    Args:
        finished: the study that has been run.
        results: its results root.
        dtype: type on disk.
    """
    name, run = finished.featured_run()
    point, sites = finished.runs(name)[run], finished.sites(name)
    config = finished.model_dump(mode="json", include={"seed", "corpus", "tokens", "activations", "evaluation"})
    config["study"] = f"{finished.study}-{dtype}"
    config["tokenizer"] = {"source": "pretrained", "name": str(results / "tokenizer")}
    config["models"] = {
        model: {
            "source": "local",
            "path": str(results / "models" / model / "step{step}"),
            "checkpoints": sorted({site.step for site in sites if site.model == model}),
        }
        for model in dict.fromkeys(site.model for site in sites)
    }
    config["activations"] |= {"dtype": dtype, "mode": "cached"}
    config["evaluation"]["matching"]["against"] = []
    sweep = {
        key: None if getattr(point, key) is None else [getattr(point, key)] for key in ("latents", "k", "sparsity")
    }
    recipe = finished.dictionaries[name].model_dump(mode="json") | {"sweep": "apart"}
    config["dictionaries"] = {name: recipe | sweep | {"seeds": [point.seed, point.seed + 1]}}
    return config


def make_metrics(study: Study, file: Path) -> None:
    """Make reconstruction and loss of both runs, as a user would."""
    models = {site.model for site in study.all_sites()}
    tables = ["reconstruction.csv", *(f"nll-{model}.csv" for model in models)]
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--configfile", str(file)]
    targets = [f"{study.root}/metrics/{name}/{run}/{table}" for name, run in runs_of(study) for table in tables]
    # What it says goes to the other stream than the tables.
    subprocess.run([*command, "--quiet", "rules", "reason", "host", "--", *targets], check=True, stdout=sys.stderr)


def runs_of(study: Study) -> list[tuple[str, str]]:
    """List (dictionary, run) of both seeds."""
    return [(name, run) for name in study.dictionaries for run in study.runs(name)]


def folder_of(study: Study, name: str, run: str) -> Path:
    """Name the folder of a run."""
    return Path(study.root, "dictionaries", name, run)


def costs(studies: dict[str, Study]) -> pd.DataFrame:
    """Lay out disk, reconstruction and loss, a column for each type and seed."""
    exact = studies["float16"]
    columns: dict[str, dict[str, str]] = {}
    for name, run in runs_of(exact):
        for dtype, study in studies.items():
            identity = read_identity(folder_of(study, name, run))
            columns[f"{dtype}, seed {identity.seed}"] = {
                "bytes of shards": f"{bytes_of_shards(study):,}",
                "FVU of the stored rows themselves": f"{rounding(study, exact, name, run):.2e}",
                **reconstructed(study, exact, name, run),
                **losses(study, name, run),
            }
    return pd.DataFrame(columns)


def reconstructed(study: Study, exact: Study, name: str, run: str) -> dict[str, str]:
    """Read what the workflow measured on heldout rows as the study keeps them, and measure the run on float16 rows."""
    dictionary, shards = folder_of(study, name, run), list(exact.shards("heldout"))
    measured = reconstruction(load_dictionary(dictionary), Path(exact.root, "activations"), shards)
    tables = {
        "rows as stored": pd.read_csv(Path(study.root, "metrics", name, run, "reconstruction.csv")),
        "float16 rows": metrics_table(read_identity(dictionary), measured),
    }
    found = {}
    for metric, said in product(("fvu", "l0", "dead"), tables):
        table = tables[said]
        pooled = table[(table["metric"] == metric) & table["hook"].isna()]
        found[f"{metric}, {said}"] = f"{pooled['value'].item():.4f}"
    return found


def bytes_of_shards(study: Study) -> int:
    """Add up the shards of all sites and both splits."""
    folder = Path(study.root, "activations")
    return sum(file.stat().st_size for site in study.all_sites() for file in (folder / site.key).glob("*.h5"))


@torch.inference_mode()
def rounding(study: Study, exact: Study, name: str, run: str) -> float:
    """Measure heldout rows as a study keeps them as reconstructions of the float16 rows: pooled FVU."""
    sites, shards = study.sites(name), list(study.shards("heldout"))
    folders = [Path(kept.root, "activations") for kept in (exact, study)]
    sources = [source_of(folder, sites, shards) for folder in folders]
    groups = [[number] for number in range(len(shards))]
    openers = [source.opener(groups) for source in sources]
    sums = ReconstructionSums(len(sites), sources[0].described()[0].d_model)
    for number in range(len(shards)):
        true, stored = (opened(number) for opened in openers)
        for start in range(0, true.rows, LARGEST_BLOCK):
            stop = min(start + LARGEST_BLOCK, true.rows)
            sums.add(torch.from_numpy(true.read(start, stop)), torch.from_numpy(stored.read(start, stop)))
    return sums.pooled_fvu(load_dictionary(folder_of(study, name, run)).scales)


def losses(study: Study, name: str, run: str) -> dict[str, str]:
    """Read loss with reconstruction and loss recovered at the last checkpoint of each model, hook by hook."""
    found = {}
    for model in dict.fromkeys(site.model for site in study.sites(name)):
        table = pd.read_csv(Path(study.root, "metrics", name, run, f"nll-{model}.csv"))
        last = table[table["step"] == table["step"].max()]
        for metric in ("nll_clean", "nll_reconstructed", "recovered_mean"):
            for row in last[last["metric"] == metric].itertuples():
                found[f"{metric}, {model}/step{row.step}/{row.hook}"] = f"{row.value:.4f}"
    return found


def features(exact: Study, coarse: Study) -> pd.DataFrame:
    """Match features of runs of both studies, all encoded on float16 rows."""
    (name, first), (_, second) = runs_of(exact)
    sides = {
        f"{dtype}, seed {study.runs(name)[run].seed}": side_of(study, name, run, exact)
        for dtype, study, run in (("int8", coarse, first), ("float16", exact, first), ("float16", exact, second))
    }
    coarse_first, exact_first, exact_second = sides
    sides["its start"] = start_of(exact, name, first, sides[exact_first].decoder.shape[2])
    pairs = (
        (coarse_first, exact_first),
        (coarse_first, exact_second),
        (exact_first, exact_second),
        (exact_first, "its start"),
    )
    cosine = exact.evaluation.matching.cosine
    # Over layers or models the order of sites is no time, and nothing has emerged at the start.
    over_steps = len({site.step for site in exact.sites(name)}) == len(exact.sites(name)) > 1
    return pd.DataFrame(
        {f"{a} in {b}": found_again(sides[a], sides[b], cosine, over_steps and b != "its start") for a, b in pairs}
    )


def side_of(study: Study, name: str, run: str, exact: Study) -> Side:
    """Take the features of a run that fire on the heldout float16 rows."""
    folder = folder_of(study, name, run)
    crosscoder = load_dictionary(folder)
    counts = activity(crosscoder, Path(exact.root, "activations"), list(exact.shards("heldout")))
    firing = np.flatnonzero(counts.count_L.numpy())
    decoder_LSD = crosscoder.W_dec.cpu().numpy()[firing]
    return side(
        read_identity(folder), firing, decoder_LSD, crosscoder.sites, study.evaluation.features.emergence_threshold
    )


def start_of(study: Study, name: str, run: str, d_model: int) -> Side:
    """Take the directions from which a run starts, which runs of one seed share."""
    settings, tau = study.runs(name)[run], study.evaluation.features.emergence_threshold
    decoder_LSD = unit_decoder(settings, d_model).numpy()
    identity = read_identity(folder_of(study, name, run))
    return side(identity, np.arange(settings.latents), decoder_LSD, settings.sites, tau)


def found_again(reference: Side, other: Side, cosine: float, dated: bool) -> dict[str, str]:
    """Say how many features of the reference the other run has, and whether both date them alike."""
    pairs = matched_pairs(reference, other, reference.sites, cosine)
    table = agreement_table(reference, other, reference.sites, pairs)
    values = table.set_index(["group", "metric"])["value"]
    found = {
        "live features": f"{len(reference.features):,}",
        f"matched (cosine > {cosine:g})": f"{pairs['matched'].sum():,}",
        "share matched": f"{values[ALL, 'matched_share']:.3f}",
        "median cosine of mutual best matches": f"{pairs['cosine'].median():.3f}",
    }
    if dated:
        found["of matched, emerge at the same checkpoint"] = f"{values[ALL, 'equal']:.3f}"
        found["the same of random pairs"] = f"{values[ALL, 'equal_by_chance']:.3f}"
    return found


def write_table(table: pd.DataFrame) -> None:
    """Write a table as docs have it."""
    rows: Iterable[Sequence[Any]] = table.fillna("").itertuples()
    lines = [["", *table.columns], ["---"] * (len(table.columns) + 1), *rows]
    sys.stdout.write("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n\n")


if __name__ == "__main__":
    main()
