"""Words by which features are found: an inverted index of what they fire on, promote and are said to be."""

import re
from array import array
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ontogeny.database.documents import Scope, Term
from ontogeny.database.feature_documents import Details, Feature, Sample

WORD = re.compile(r"\w+|[^\w\s]+")
"""A word, or a run of signs: features of punctuation are found by it."""
LONGEST = 64
"""Letters of a word that count."""


class TermBuilder:
    """Gathers the words of a run, feature by feature."""

    def __init__(self) -> None:
        self._features: dict[str, array[int]] = {}

    def add(self, feature: Feature, details: Details) -> None:
        """Add the next feature."""
        for term in feature_terms(feature, details):
            self._features.setdefault(term, array("i")).append(feature.feature)

    def documents(self, content: str) -> Iterator[Term]:
        """Make the documents of all terms, in alphabetical order."""
        for term, features in sorted(self._features.items()):
            packed = np.array(features, dtype="<i4").tobytes()
            yield Term(content=content, term=term, features=packed)


def words_of(text: str) -> list[str]:
    """Cut a text into the words by which it is found, in lower case."""
    return [word[:LONGEST] for word in WORD.findall(text.casefold())]


def feature_terms(feature: Feature, details: Details) -> set[str]:
    """List the terms of a feature, each `<scope>/<word>`."""
    promoted = (text for promotion in details.promotions for text in promotion.promoted)
    explanation = feature.interpretation.explanation if feature.interpretation else ""
    return {
        *_terms("text", (word for sample in details.samples for word in _words_fired_on(sample))),
        *_terms("context", (word for sample in details.samples for word in words_of("".join(sample.texts)))),
        *_terms("promoted", (word for text in promoted for word in words_of(text))),
        *_terms("interpretation", words_of(explanation)),
    }


def term_features(term: Term) -> NDArray[np.int64]:
    """Unpack the features of a term, ascending (shape: [N])."""
    return np.frombuffer(term.features, dtype="<i4").astype(np.int64)


def _terms(scope: Scope, words: Iterable[str]) -> set[str]:
    return {f"{scope}/{word}" for word in words}


def _words_fired_on(sample: Sample) -> Iterator[str]:
    """Cut the text of a window into words and keep those that hold a token on which the feature fires."""
    fired, text = bytearray(), "".join(sample.texts).casefold()
    for part, activation in zip(sample.texts, sample.activations, strict=True):
        # Folded part by part: the lower case of some letters is longer than they are.
        fired += bytes([bool(activation)]) * len(part.casefold())
    return (match[0][:LONGEST] for match in WORD.finditer(text) if any(fired[match.start() : match.end()]))
