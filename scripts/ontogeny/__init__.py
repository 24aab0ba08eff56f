"""Ontogeny: how the concepts inside a language model form while it trains."""
