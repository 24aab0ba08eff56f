"""Put a run's features, samples and metrics into the database, and write a receipt."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.database import DatabaseSettings
from ontogeny.database.artefacts import Besides
from ontogeny.database.ingest import write_receipt


def main(arguments: Namespace) -> dict[str, float]:
    """Ingest the run."""
    return write_receipt(
        arguments.settings,
        arguments.home,
        arguments.features,
        arguments.metrics,
        arguments.dictionary,
        arguments.out,
        arguments.study,
        not arguments.no_loss,
        Besides(arguments.decoders, arguments.types, arguments.interpretations, tuple(arguments.attributions)),
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(DatabaseSettings), required=True, help="DatabaseSettings as JSON")
    parser.add_argument("--home", type=Path, required=True, help="folder of the embedded server's files")
    parser.add_argument("--features", type=Path, required=True, help="folder of features.parquet and samples.parquet")
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the run's tables of metrics")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run, with its config.json")
    parser.add_argument("--decoders", type=Path, help="decoders.parquet of the run")
    parser.add_argument("--types", type=Path, help="feature_types.parquet of the run")
    parser.add_argument("--interpretations", type=Path, help="interpretations.parquet of the run")
    parser.add_argument("--attributions", type=Path, nargs="*", default=[], help="attributions-<model>.parquet")
    parser.add_argument("--no-loss", action="store_true", help="the models are planted: there is no loss of theirs")
    parser.add_argument("--out", type=Path, required=True, help="the receipt")
    run(parser, main)
