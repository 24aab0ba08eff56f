"""What made an artefact: the study's hash, the commit and the versions of packages."""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "transformer-lens", "tokenizers", "datasets", "numpy", "h5py", "safetensors")
"""Packages whose versions every artefact names, as far as its rule's environment holds them."""


def provenance(study_file: Path | None) -> dict[str, str]:
    """Read what made an artefact as flat text values, ready for attributes and metadata.

    Args:
        study_file: the study's `study.json`, or None for a command typed by hand.

    Returns:
        `study`, `study_hash`, `commit`, `study_seed` (absent without a study file) and `versions` of packages.
    """
    versions = ", ".join(_versions())
    if study_file is None or not study_file.is_file():
        return {"versions": versions}
    study = json.loads(study_file.read_text())
    return {
        "study": study["study"],
        "study_hash": study["hash"],
        "commit": study["commit"],
        "study_seed": str(study["seed"]),
        "versions": versions,
    }


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
