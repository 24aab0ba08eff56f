"""Documents of features, assembled from the rows of several tables."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ontogeny.database.artefacts import DECODERS, FEATURES, INTERPRETATIONS, SAMPLES, TYPES, Artefacts
from ontogeny.database.feature_documents import Attribution, Details, Feature, Promotion
from ontogeny.database.tables import rows
from ontogeny.errors import UserError
from ontogeny.evaluation.emergence import feature_classes

PROMOTED = 5
"""Promoted tokens in the row of a list."""
AROUND = 6
"""Tokens before and after the place of a snippet."""

Row = dict[str, Any]


def read_documents(artefacts: Artefacts, content: str) -> Iterator[tuple[Feature, Details]]:
    """Yield the documents of every feature, by number.

    Args:
        artefacts: where they come from.
        content: what they are said to belong to.

    Raises:
        UserError: a table is damaged, lacks a feature, or holds a value of the wrong type.
    """
    besides, latents = artefacts.besides, artefacts.identity.latents
    samples = _grouped(artefacts.samples, latents)
    decoders = _each(besides.decoders, DECODERS, latents)
    attributed = [
        _each(file, ("feature", *tasks), latents)
        for file, (_, tasks) in zip(besides.attributions, artefacts.tasks, strict=True)
    ]
    types, said = _some(besides.types, TYPES, latents), _some(besides.interpretations, INTERPRETATIONS, latents)
    for number, row in enumerate(_each(artefacts.features, FEATURES, latents)):
        decoder = next(decoders, None)
        found = _Found(artefacts, content, row, next(samples), decoder, [next(table) for table in attributed])
        yield found.feature(types.get(number), said.get(number)), found.details()
    # What is left over in a table that was read beside is found by asking once more.
    for table in (decoders, samples, *attributed):
        next(table, None)


class _Found:
    """What the tables hold of one feature."""

    def __init__(
        self,
        artefacts: Artefacts,
        content: str,
        row: Row,
        samples: list[Row],
        decoder: Row | None,
        attributed: Sequence[Row],
    ) -> None:
        self._artefacts, self._row, self._samples, self._decoder = artefacts, row, samples, decoder
        self._attributed = attributed
        self._key = {"content": content, "feature": row["feature"]}
        if len(row["decoder_norm"]) != len(artefacts.sites):
            raise UserError(
                f"{artefacts.features}: feature {row['feature']} has {len(row['decoder_norm'])} decoder norms; "
                f"expected one for each of {len(artefacts.sites)} sites; make the table again"
            )

    def feature(self, typed: Row | None, said: Row | None) -> Feature:
        """Make the row of a list."""
        row = {key: value for key, value in self._row.items() if key != "histogram"}
        norms, normalised = row.pop("decoder_norm"), row.pop("normalised_norm")
        exists = row["peak_site"] is not None
        promotions = self._promotions() if exists else []
        with self._valid(self._artefacts.features):
            return Feature.model_validate(
                {
                    **self._key,
                    **row,
                    "decoder_norms": norms,
                    "normalised_norms": normalised,
                    "peak_norm": max(norms, default=0.0),
                    "class": _class(normalised, self._artefacts.threshold) if exists else None,
                    "type": typed and typed["type"],
                    "context_needed": typed and _number(typed["context_needed"]),
                    "interpretation": _interpretation(said),
                    "promoted": promotions[row["peak_site"]].promoted[:PROMOTED] if promotions else [],
                    "snippet": _snippet(self._samples[0]) if self._samples else None,
                }
            )

    def details(self) -> Details:
        """Make what its own page shows besides."""
        decoder = self._decoder or {"rotation": [], "neighbours": [], "neighbour_cosines": []}
        with self._valid(self._artefacts.samples):
            return Details.model_validate(
                {
                    **self._key,
                    "histogram": self._row["histogram"],
                    "samples": [{key: row[key] for key in SAMPLES if key != "feature"} for row in self._samples],
                    "rotation": [_number(value) for value in decoder["rotation"]],
                    "neighbours": decoder["neighbours"],
                    "neighbour_cosines": decoder["neighbour_cosines"],
                    "promotions": self._promotions(),
                    "attributions": [
                        Attribution(model=model, task=task, values=row[task])
                        for (model, tasks), row in zip(self._artefacts.tasks, self._attributed, strict=True)
                        for task in tasks
                    ],
                }
            )

    def _promotions(self) -> list[Promotion]:
        if self._decoder is None:
            return []
        lists = (self._decoder[name] for name in DECODERS[4:])
        with self._valid(self._artefacts.besides.decoders or self._artefacts.features):
            return [
                Promotion(promoted=texts, promoted_logits=logits, suppressed=lower, suppressed_logits=lowest)
                for texts, logits, lower, lowest in zip(*lists, strict=True)
            ]

    @contextmanager
    def _valid(self, file: Path) -> Iterator[None]:
        try:
            yield
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{file}: feature {self._key['feature']}: {place}: {first['msg']}, not {first['input']!r}; "
                "make the table again"
            ) from None


def _each(file: Path | None, columns: Sequence[str], latents: int) -> Iterator[Row]:
    """Yield the rows of a table that has one for each feature."""
    if file is None:
        return
    number = -1
    for number, row in enumerate(rows(file, columns)):
        if row["feature"] != number or number >= latents:
            raise UserError(
                f"{file}: row {number} holds feature {row['feature']}; expected features 0 to {latents - 1} in order; "
                "make the table again"
            )
        yield row
    if number != latents - 1:
        raise UserError(f"{file}: {number + 1} features; expected {latents}; make the table again")


def _some(file: Path | None, columns: Sequence[str], latents: int) -> dict[int, Row]:
    """Read a table of some features by number."""
    found = {row["feature"]: row for row in rows(file, columns)} if file else {}
    strange = [number for number in found if not 0 <= number < latents]
    if strange:
        raise UserError(f"{file}: feature {strange[0]}; expected 0 to {latents - 1}; make the table again")
    return found


def _grouped(file: Path, latents: int) -> Iterator[list[Row]]:
    """Yield the samples of feature 0, 1 and so on, none for those that have no row."""
    number = 0
    for feature, group in itertools.groupby(rows(file, SAMPLES), lambda row: row["feature"]):
        if not number <= feature < latents:
            raise UserError(f"{file}: feature {feature} is not in its place; make the table again")
        yield from ([] for _ in range(number, feature))
        number = feature + 1
        yield list(group)
    while True:
        yield []


def _class(normalised: list[float], threshold: float) -> str:
    return str(feature_classes(np.array([normalised]), threshold)[0])


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _interpretation(said: Row | None) -> Row | None:
    if said is None or said["explanation"] is None:
        return None
    scores = {name: _number(said[name]) for name in ("detection", "fuzzing")}
    return {"explanation": said["explanation"], "complexity": said["complexity"], **scores}


def _snippet(sample: Row) -> Row:
    middle = sample["position"] - sample["start"]
    shown = slice(max(middle - AROUND, 0), middle + AROUND + 1)
    return {"texts": sample["texts"][shown], "activations": sample["activations"][shown]}
