"""Train a language model on the study's tokens, and save it at every checkpoint."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run, settings
from ontogeny.config.models import TrainedModel
from ontogeny.language_model.training import TrainingFiles, train_language_model


def main(arguments: Namespace) -> dict[str, float]:
    """Write one folder per checkpoint, and training.csv."""
    inputs = arguments.tokens, arguments.heldout, arguments.tokenizer, arguments.start
    files = TrainingFiles(*inputs, arguments.out, arguments.study)
    return train_language_model(arguments.settings, arguments.seed, files)


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--settings", type=settings(TrainedModel), required=True, help="the model, as JSON")
    parser.add_argument("--seed", type=int, required=True, help="seed of the weights and of the order of contexts")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="tokens that the loss is measured on")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the study's tokenizer")
    parser.add_argument("--start", type=Path, help="folder of the checkpoint that training starts from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, models/<model>")
    run(parser, main)
