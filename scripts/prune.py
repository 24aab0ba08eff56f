"""Remove from the database the runs of the study that its config no longer has, and their receipts."""

import sys
from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.config.load import read_study
from ontogeny.database.removal import remove_runs


def main(arguments: Namespace) -> None:
    """Remove them, and name each on standard output."""
    study = read_study(arguments.config)
    root = Path(study.root)
    folder = root / "database"
    kept = {(dictionary, name) for dictionary in study.dictionaries for name in study.runs(dictionary)}
    for gone in remove_runs(study.database, folder / "server", folder, study.study, kept, root / "study.json"):
        sys.stdout.write(f"{gone.id}\n")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the study (default: config.yaml)")
    run(parser, main)
