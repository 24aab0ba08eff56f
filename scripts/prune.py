"""Remove from the database the runs of the study that its config no longer has, and their receipts."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.config.database import EMBEDDED
from ontogeny.config.load import read_study
from ontogeny.database.removal import remove_runs
from ontogeny.errors import UserError
from ontogeny.ownership import claim


def main(arguments: Namespace) -> None:
    """Remove them, and name each on standard output."""
    study = read_study(arguments.config)
    claim(study, os.path.relpath(arguments.config))
    root = Path(study.root)
    folder = root / "database"
    if study.database.uri == EMBEDDED and not (folder / "server").is_dir():
        raise UserError(f"{folder}/: study {study.study!r} has no database here; `make database` makes it")
    kept = {(dictionary, name) for dictionary in study.dictionaries for name in study.runs(dictionary)}
    for gone in remove_runs(study.database, folder / "server", folder, study.study, kept, root / "study.json"):
        sys.stdout.write(f"removed {gone.id}\n")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the study (default: config.yaml)")
    run(parser, main)
