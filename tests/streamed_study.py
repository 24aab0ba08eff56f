"""One small study twice over, its activations cached and streamed, for the tests that compare the two."""

import json
from pathlib import Path
from typing import Any

from test_harvest import write_checkpoint, write_contexts

from ontogeny.activations.harvest import harvest
from ontogeny.activations.rows import write_rows
from ontogeny.activations.statistics import write_statistics, write_streamed_statistics
from ontogeny.config.activations import HarvestSettings, RowsSettings
from ontogeny.config.dictionaries import RunSettings
from ontogeny.config.streamed import FILE, StreamedSettings
from ontogeny.files import write_json
from ontogeny.sites import Site, shard_name

HOOKS = ("blocks.0.mlp.hook_out", "blocks.1.hook_resid_post")
CHECKPOINTS = (("neox", 0), ("neox", 8), ("other", 8))
SITES = (
    *(Site(model, step, HOOKS[1]) for model, step in CHECKPOINTS),
    Site("neox", 8, HOOKS[0]),
)
"""Two models, two checkpoints of one of them, two hooks of one of those, apart from each other."""

TRAIN_SHARDS, HELDOUT_SHARDS, ROWS_PER_SHARD = 5, 2, 96
OPEN_SHARDS = 2
"""Shards that are open at a time in tests, so that an epoch has three groups of them."""


def make_study(root: Path, dtype: str = "float16") -> Path:
    """Write tokens, checkpoints, rows, shards and statistics, and what a streamed study has in place of shards."""
    settings = HarvestSettings.model_validate({"dtype": dtype, "batch_contexts": 7})
    for split in ("train", "heldout"):
        write_contexts(root / f"tokens/{split}.h5", seed=len(split))
    for seed, (model, step) in enumerate(CHECKPOINTS):
        folder = root / f"models/{model}/step{step}"
        write_checkpoint(folder, seed)
        record = json.loads((folder / "checkpoint.json").read_text())
        write_json(folder / "checkpoint.json", {**record, "model": model, "step": step})
    streamed = root / "activations/streamed"
    write_json(streamed / FILE, StreamedSettings(**settings.model_dump()).model_dump(mode="json"))
    for split, shards in (("train", TRAIN_SHARDS), ("heldout", HELDOUT_SHARDS)):
        for number in range(shards):
            _write_shard(root, settings, split, number)
    (streamed / "rows").symlink_to(root / "activations/rows")
    for site in SITES:
        shards = [root / f"activations/{site.key}/{shard_name('train', n)}.h5" for n in range(TRAIN_SHARDS)]
        write_statistics(shards, root / f"activations/{site.key}/statistics.json", None)
    return root


def _write_shard(root: Path, settings: HarvestSettings, split: str, number: int) -> None:
    rows = root / f"activations/rows/{shard_name(split, number)}.h5"
    tokens = root / f"tokens/{split}.h5"
    chosen = {"seed": 0, "split": split, "number": number, "rows_per_shard": ROWS_PER_SHARD, "rows": ROWS_PER_SHARD}
    write_rows(RowsSettings.model_validate({**chosen, "keep_first_position": False}), tokens, rows, None)
    for model, step in CHECKPOINTS:
        hooks = [site.hook for site in SITES if (site.model, site.step) == (model, step)]
        checkpoint = root / f"models/{model}/step{step}/checkpoint.json"
        harvest(settings, checkpoint, tokens, rows, hooks, root / f"activations/{model}/step{step}", None)


def stream_statistics(root: Path) -> None:
    """Measure the statistics of all sites anew."""
    shards = [shard_name("train", number) for number in range(TRAIN_SHARDS)]
    write_streamed_statistics(root / "activations/streamed", SITES, shards, None)


def settings_of(**changes: Any) -> RunSettings:
    """Describe a run over all sites."""
    plain: dict[str, Any] = {
        "dictionary": "crosscoder",
        "run": "run",
        "sites": SITES,
        "latents": 48,
        "k": 3,
        "sparsity": None,
        "seed": 0,
        "shards": tuple(shard_name("train", number) for number in range(TRAIN_SHARDS)),
        "batch_size": 48,
        "rows": TRAIN_SHARDS * ROWS_PER_SHARD,
        "learning_rate": 3e-3,
        "epochs": 3,
        "log_every": 3,
        "save_every": 5,
    }
    return RunSettings.model_validate({**plain, **changes})


def activation_files(root: Path) -> list[Path]:
    """Find every file of a streamed study that is not known to be none of activations."""
    known = {FILE, "statistics.json"}
    return [file for file in (root / "activations/streamed").rglob("*") if file.is_file() and file.name not in known]
