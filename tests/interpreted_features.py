"""Windows of made-up features whose explanation, complexity and scores are known."""

from pathlib import Path

import figure_tables
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ontogeny.config.interpretation import InterpretationSettings
from ontogeny.interpretation.ratings import write_interpretations
from ontogeny.interpretation.window_table import SCHEMA

WORDS = ("snow", "rain", "hail", "wind")
FILL = ("and", "so", "on", "it", "went")
METADATA = {"dictionary": "crosscoder", "run": "latents2048-k32-seed0", "sites": "[]", "rows": "99", "study": "made"}


def settings(endpoint: str | None, **changes: object) -> InterpretationSettings:
    given = {"endpoint": endpoint, "model": "judge-1", "timeout": 5.0, **changes}
    return InterpretationSettings.model_validate(given)


def row(feature: int, role: str, number: int, truth: bool | None, word: str | None, marked: int) -> tuple[object, ...]:
    """A window of six tokens, the third of them `word`; `marked` is the place of the token that is marked, -1 for none."""
    texts = [*FILL[:2], word or "none", *FILL[2:]]
    marks = [place == marked for place in range(len(texts))]
    return feature, role, number, truth, None, 1.0, 0, 0, texts, marks


def features(count: int) -> list[tuple[object, ...]]:
    """Features that fire on one word each: 4 examples, 3 and 3 windows of detection, 2 and 2 of fuzzing."""
    rows = []
    for feature in range(count):
        word = f"{WORDS[feature % 4]}{feature}"
        rows += [row(feature, "example", number, None, word, 2) for number in range(4)]
        rows += [
            row(feature, "detection", number, number % 2 == 0, word if number % 2 == 0 else None, -1)
            for number in range(6)
        ]
        rows += [row(feature, "fuzzing", number, number < 2, word, 2 if number < 2 else 4) for number in range(4)]
    return rows


def of_two_words() -> list[tuple[object, ...]]:
    """A feature of two words, of which the examples show one three times and the other once.

    Who holds on to the first finds 2 of 5 true windows and rejects 4 of 4 others; of the marks, 1 of 2 right ones and
    both wrong ones.
    """
    examples = [row(0, "example", number, None, "snow" if number < 3 else "rain", 2) for number in range(4)]
    true = [row(0, "detection", number, True, "snow" if number < 2 else "rain", -1) for number in range(5)]
    other = [row(0, "detection", number + 5, False, None, -1) for number in range(4)]
    right = [row(0, "fuzzing", number, True, word, 2) for number, word in enumerate(("snow", "rain"))]
    wrong = [row(0, "fuzzing", number + 2, False, "snow", 0) for number in range(2)]
    return [*examples, *true, *other, *right, *wrong]


def write(file: Path, rows: list[tuple[object, ...]]) -> Path:
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=SCHEMA).replace_schema_metadata(METADATA), file)
    return file


def rated_of(folder: Path, table: Path, most: int = 5, unrated: int = 7, **types: float) -> list[Path]:
    """Write what `complexity` reads where a language model has rated features, from 1 to `most`, later ones higher."""
    read = pq.read_table(table)
    frame = read.select(["feature", "emergence_site"]).to_pandas()
    random = np.random.default_rng(11)
    rating = np.clip(1 + frame["emergence_site"].to_numpy() // 3 + random.integers(0, 2, len(frame)), 1, most)
    missing = np.arange(len(frame)) % unrated == 0
    rated = pa.table(
        {
            "feature": frame["feature"].to_numpy(dtype=np.int32),
            "complexity": pa.array(rating.astype(np.int8), mask=missing),
            "detection": pa.array(random.uniform(0.5, 1, len(frame)), mask=missing),
            "fuzzing": pa.array(random.uniform(0.4, 0.9, len(frame)), mask=missing | (np.arange(len(frame)) % 5 == 0)),
        }
    )
    labels = {name: read.schema.metadata[name.encode()] for name in ("dictionary", "run", "sites")}
    file = table.with_name("interpretations.parquet")
    pq.write_table(rated.replace_schema_metadata({**labels, "model": "judge-1"}), file)
    return [*figure_tables.types_of(folder, table, **types), file]


def interpret(folder: Path, settings: InterpretationSettings, rows: list[tuple[object, ...]]) -> pd.DataFrame:
    """Have features explained, rated and tested, and read the table of them."""
    windows = write(folder / "windows.parquet", rows)
    write_interpretations(settings, windows, folder / "cache", folder / "interpretations.parquet", None)
    return pq.read_table(folder / "interpretations.parquet").to_pandas().set_index("feature")
