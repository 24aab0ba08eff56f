"""What a study finds on disk of its text: the files of its corpus and of its tokenizer."""

import re
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

from ontogeny.config.corpus import (
    TOKENIZER_FILES,
    CorpusSettings,
    FilesCorpus,
    GgufTokenizer,
    PretrainedTokenizer,
    SavedCorpus,
    TokenizerSettings,
)
from ontogeny.errors import UserError

DATASET_FILES = ("dataset_dict.json", "state.json", "dataset_info.json")
"""What `datasets` writes beside the rows; `state.json` holds a fingerprint of them."""

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What an id of the hub looks like; a path with more parts is none."""


def matching_files(patterns: tuple[str, ...]) -> list[Path]:
    """List the files that patterns match: patterns in their order, the files of one by name, none twice, no folders.

    Raises:
        UserError: a pattern matches no file.
    """
    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        found = [path] if path.is_file() else [Path(name) for name in sorted(glob(pattern, recursive=True))]
        found = [file for file in found if file.is_file()]
        if not found:
            hint = f"is a folder; write {pattern.rstrip('/')}/*" if path.is_dir() else "matches no file"
            raise UserError(f"corpus.paths: {pattern!r} {hint}; expected a file or a pattern such as texts/*.txt")
        files += found
    return list(dict.fromkeys(files))


def corpus_files(corpus: CorpusSettings) -> list[str]:
    """List the files by which a change of the corpus is told; none for a package or the hub."""
    if isinstance(corpus, FilesCorpus):
        return [str(file) for file in matching_files(corpus.paths)]
    if isinstance(corpus, SavedCorpus):
        splits = [path for path in sorted(Path(corpus.path).glob("*/")) if corpus.split in (None, path.name)]
        return _existing(folder / name for folder in (Path(corpus.path), *splits) for name in DATASET_FILES)
    return []


def corpus_problems(corpus: CorpusSettings) -> Iterator[str]:
    """Say what is missing on disk of the corpus."""
    try:
        files = corpus_files(corpus)
    except UserError as error:
        yield str(error)
        return
    if isinstance(corpus, SavedCorpus) and not any(Path(file).parent == Path(corpus.path) for file in files):
        yield f"corpus.path: {corpus.path}/ is no folder that `datasets` wrote with save_to_disk"


def tokenizer_files(tokenizer: TokenizerSettings) -> list[str]:
    """List the files of a tokenizer in a local folder; none for the hub's, a GGUF file's or one that is trained."""
    if not isinstance(tokenizer, PretrainedTokenizer):
        return []
    return _existing(Path(tokenizer.name) / name for name in TOKENIZER_FILES)


def tokenizer_problems(tokenizer: TokenizerSettings) -> Iterator[str]:
    """Say what is missing on disk of the tokenizer."""
    if isinstance(tokenizer, GgufTokenizer):
        yield from tokenizer.problems("tokenizer")
    if not isinstance(tokenizer, PretrainedTokenizer):
        return
    folder = Path(tokenizer.name)
    if folder.is_dir() and not (folder / TOKENIZER_FILES[0]).is_file():
        yield (
            f"tokenizer.name: no fast tokenizer in {tokenizer.name!r}; expected a {TOKENIZER_FILES[0]}, "
            "as save_pretrained of `transformers` writes it"
        )
    if not folder.is_dir() and not HUB_ID.fullmatch(tokenizer.name):
        yield f"tokenizer.name: there is no folder {tokenizer.name}; expected one, or an id of the Hugging Face hub"


def _existing(files: Iterable[Path]) -> list[str]:
    return [str(file) for file in files if file.is_file()]
