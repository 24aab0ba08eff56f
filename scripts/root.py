"""Say where a study keeps its results, for `make`."""

import sys
from pathlib import Path

from ontogeny.command import Parser
from ontogeny.config.load import read_study
from ontogeny.errors import UserError


def main() -> None:
    """Write the results root to standard output, and nothing else."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="the study (default: config.yaml)")
    try:
        sys.stdout.write(read_study(parser.parse_args().config).root + "\n")
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
