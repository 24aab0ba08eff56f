"""Write the reference of all config keys and the JSON schema of a config file."""

from argparse import Namespace
from pathlib import Path

from ontogeny.command import command, run
from ontogeny.config.documentation import configuration_page, configuration_schema
from ontogeny.files import atomic


def main(arguments: Namespace) -> None:
    """Write both files."""
    for name, text in (("configuration.md", configuration_page()), ("config.schema.json", configuration_schema())):
        with atomic(arguments.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = command(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the documentation")
    run(parser, main)
