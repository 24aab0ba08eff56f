"""Ontogeny: how the concepts inside a language model form while it trains."""

from ontogeny.memory import collect_rarely

collect_rarely()
