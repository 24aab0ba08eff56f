"""A results root belongs to one config file, and says which."""

import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

from ontogeny.config.study import Study
from ontogeny.errors import UserError
from ontogeny.files import write_json


def claim(study: Study, config_file: str) -> None:
    """Check that the study may write to its results root.

    Raises:
        UserError: the root belongs to another config file, or nothing can be written there.
    """
    file = Path(study.root) / "study.json"
    _check_writable(Path(study.root))
    owner = json.loads(file.read_text())["config"] if file.is_file() else config_file
    if owner != config_file:
        raise UserError(
            f"{config_file}: study {study.study!r} writes to {study.root}/, which belongs to {owner}; "
            f"give `study:` another name, or remove {file} if the config was renamed"
        )


def _check_writable(root: Path) -> None:
    """Refuse a results root that is no folder, or one in which this user may not write."""
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists() or folder.is_symlink())
    if not there.is_dir():
        raise UserError(f"{there}: results go into this folder, but it is no folder; move it away")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}/: results go here, but it cannot be written to; change its permissions")


def record(study: Study, config_file: str, folder: Path) -> None:
    """Write `<root>/study.json`: the study, its config file, its hash, and the commit of the code in `folder`.

    Its `origin`, machine and folder where the root was first used, stands for the root wherever it is moved to.
    """
    settings = study.model_dump_json()
    file = Path(study.root) / "study.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    value = {
        "study": study.study,
        "config": config_file,
        "hash": hashlib.sha256(settings.encode()).hexdigest()[:12],
        "commit": commit(folder),
        "seed": study.seed,
        "origin": before.get("origin") or f"{socket.gethostname()}:{Path(study.root).resolve()}",
    }
    write_json(file, value)


def commit(folder: Path) -> str:
    """Name the commit checked out in `folder`, with `+changes` where tracked files differ; `unknown` outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
