"""A text that somebody typed: which features fire on it, where, and from which checkpoint on."""

import base64
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymongo.database import Database

from ontogeny.browser.drawing import Sparkline, sparkline
from ontogeny.browser.errors import BadRequestError
from ontogeny.browser.head import RunHead
from ontogeny.browser.quantities import number, whole
from ontogeny.browser.tokens import Token, shaded
from ontogeny.database.connect import Document
from ontogeny.database.documents import Edit, RunName
from ontogeny.database.edits import edits_of
from ontogeny.database.feature_documents import Feature
from ontogeny.database.reading import NotFoundError, read_features
from ontogeny.errors import UserError

if TYPE_CHECKING:
    from ontogeny.evaluation.text import FeatureOnText, ReadText, TextReader

LONGEST = 2000
"""Characters of a text."""
MOST = 60
"""Features that are shown, those that fire most."""
KEPT = 2
"""Runs whose dictionary and models stay in memory."""


@dataclass(frozen=True)
class FiringFeature:
    """A feature that fires on the text."""

    number: int
    """Place on the page, from 0, by which scripts find its readings."""
    feature: Feature
    """Its document."""
    spark: Sparkline | None
    """Its norms over sites."""
    emerges: str
    """Step at which it emerges; empty where sites are no checkpoints."""
    activation: str
    """Its strongest activation on the text."""
    tokens: tuple[Token, ...]
    """The text, shaded by its activation."""
    says: str
    """What it stands for, as far as somebody said so."""


@dataclass(frozen=True)
class TextPage:
    """All that the page shows."""

    head: RunHead
    """The run."""
    text: str
    """What was typed."""
    tokens: int
    """Tokens that were read."""
    cut: int
    """Tokens at the end that did not fit into a context."""
    firing: int
    """Features that fire."""
    features: tuple[FiringFeature, ...]
    """Those that fire most, strongest first."""
    data: dict[str, Any]
    """What scripts read."""
    csrf: str
    """What the form sends along."""
    longest: int = LONGEST
    """Characters of a text."""


class TextReaders:
    """Dictionaries and models of the study on disk, loaded at the first text and used by one request at a time."""

    def __init__(self, study: str, root: Path, context_length: int) -> None:
        self._study, self._root, self._context_length = study, root, context_length
        self._readers: OrderedDict[RunName, TextReader] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: RunName, text: str) -> "ReadText":
        """Read a text through all sites of a run.

        Raises:
            BadRequestError: the text is empty or too long.
            NotFoundError: the run's dictionary, models or tokenizer are not on disk here.
        """
        if not text.strip():
            raise BadRequestError("there is no text; type a few words")
        if len(text) > LONGEST:
            raise BadRequestError(f"the text has {len(text):,} characters; shorten it to {LONGEST:,}")
        if name.study != self._study:
            raise NotFoundError(
                f"the models of the study {name.study} are not here; start the browser with that study's config "
                "to try a text on them"
            )
        with self._lock:
            try:
                return self._reader(name).read(text, MOST)
            except UserError as error:
                raise NotFoundError(str(error)) from error

    def _reader(self, name: RunName) -> "TextReader":
        # Imported here: torch and the models take seconds, and most readers type no text.
        from ontogeny.evaluation.text import TextReader

        if name not in self._readers:
            dictionary = self._root / "dictionaries" / name.dictionary / name.run
            tokenizer = self._root / "tokenizer" / "tokenizer.json"
            reader = TextReader(dictionary, self._root / "models", tokenizer, self._context_length)
            self._readers[name] = reader
            while len(self._readers) > KEPT:
                self._readers.popitem(last=False)
        self._readers.move_to_end(name)
        return self._readers[name]


def text_page(database: Database[Document], head: RunHead, text: str, read: "ReadText | None", csrf: str) -> TextPage:
    """Gather what the page shows.

    Args:
        database: where to read what is known of the features.
        head: the run.
        text: what was typed.
        read: what was read of it; None before anything was typed.
        csrf: what the form sends along.

    Raises:
        NotFoundError: the run was trained anew since it was put into the database.
    """
    if read is None:
        return TextPage(head, text, 0, 0, 0, (), {}, csrf)
    documents = read_features(database, head.run, [found.feature for found in read.features])
    for found, document in zip(read.features, documents, strict=True):
        stored_S = np.array(document.decoder_norms)
        if stored_S.shape != found.norms_S.shape or not np.allclose(found.norms_S, stored_S, rtol=1e-3):
            raise NotFoundError(
                f"{head.name.id}: the dictionary on disk is not the one in the database; put it there by make database"
            )
    edits = {edit.feature: edit for edit in edits_of(database, head.run)}
    features = tuple(
        _firing(place, head, read.texts, found, document, edits.get(found.feature))
        for place, (found, document) in enumerate(zip(read.features, documents, strict=True))
    )
    return TextPage(head, text, len(read.texts), read.cut, read.firing, features, _data(head, read, documents), csrf)


def _firing(
    place: int, head: RunHead, texts: Sequence[str], found: "FeatureOnText", feature: Feature, edit: Edit | None
) -> FiringFeature:
    largest = float(found.activation_T.max())
    machine = feature.interpretation.explanation if feature.interpretation else ""
    return FiringFeature(
        number=place,
        feature=feature,
        spark=sparkline(head.axis, feature, head.run.threshold),
        emerges=whole(feature.emergence_step) if head.axis.has_time else "",
        activation=number(largest),
        tokens=shaded(texts, found.activation_T.tolist(), largest),
        says=edit.interpretation if edit and edit.interpretation else machine,
    )


def _data(head: RunHead, read: "ReadText", documents: Sequence[Feature]) -> dict[str, Any]:
    """Gather the numbers for scripts, in the form in which a feature's page has those of its samples."""
    axis = head.axis
    samples = [
        {
            "activations": [float(f"{value:.4g}") for value in found.activation_T],
            "largest": float(found.activation_T.max()),
            "normalised": [float(f"{norm:.4g}") for norm in axis.arranged(document.normalised_norms)],
            **_readings(found.readings_ST[list(axis.order)]),
        }
        for found, document in zip(read.features, documents, strict=True)
    ]
    return {"axis": {"noun": axis.noun, "names": axis.names}, "samples": samples, "promotions": []}


def _readings(readings_ST: NDArray[np.float32]) -> dict[str, Any]:
    """Pack readings into signed bytes, as samples hold them."""
    scale = float(np.abs(readings_ST).max()) / 127 or 1.0
    packed = np.round(readings_ST / scale).astype(np.int8)
    return {"readings": base64.b64encode(packed.tobytes()).decode(), "scale": scale}
