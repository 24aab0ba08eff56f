"""Measure what features do for tasks at every checkpoint: attributions, and ablations that put them to the test."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.evaluation import TaskSettings
from ontogeny.evaluation.task_tables import write_task_tables


def main(arguments: Namespace) -> dict[str, float]:
    """Write the tables of tasks, of leading features, of ablations and of the attributions of all features."""
    return write_task_tables(
        arguments.dictionary,
        arguments.model,
        arguments.models,
        arguments.tokenizer,
        arguments.context_length,
        arguments.settings,
        arguments.keep_first_position,
        arguments.out,
        arguments.study,
    )


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(TaskSettings), required=True, help="evaluation.tasks as JSON")
    parser.add_argument("--dictionary", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", required=True, help="model whose sites are patched, one of the dictionary's")
    parser.add_argument("--models", type=Path, required=True, help="folder of all checkpoints")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, with its configuration beside")
    parser.add_argument("--context-length", type=int, required=True, help="tokens that the models read at most")
    parser.add_argument(
        "--keep-first-position", action="store_true", help="the dictionary was trained on position 0 of contexts too"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables, <table>-<model>")
    run(parser, main)
