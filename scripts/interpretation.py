"""Let a language model explain features of a run, rate their complexity, and be tested on its explanations."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.interpretation.ratings import write_interpretations


def main(arguments: Namespace) -> dict[str, float]:
    """Write one table."""
    return write_interpretations(arguments.settings, arguments.windows, arguments.cache, arguments.out, arguments.study)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument(
        "--settings", type=settings(InterpretationSettings), required=True, help="interpretation as JSON"
    )
    parser.add_argument("--windows", type=Path, required=True, help="windows.parquet of the run")
    parser.add_argument("--cache", type=Path, required=True, help="folder of answers that are kept")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    run(parser, main)
