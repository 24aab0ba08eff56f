"""How a language model explains and rates features."""

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator

from ontogeny.config.base import Count, NonNegative, Positive, Settings
from ontogeny.errors import UserError

if TYPE_CHECKING:
    from ontogeny.config.study import Study

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class WindowSettings(Settings):
    """Windows of heldout text that a language model is shown."""

    window: Annotated[Count, Field(ge=4)] = 32
    """Tokens of a window, about: contexts are cut into windows of equal length."""
    examples: Count = 10
    """Windows shown with the tokens on which the feature fires, those where it fires most, each of its own context."""
    tests: Annotated[Count, Field(ge=2)] = 20
    """Windows asked about in each of detection and fuzzing, none of them an example: half are true, half are not."""
    bands: Count = 5
    """Bands of activation, of equally many windows, from which the true ones are drawn by turns."""
    seed: int = 0
    """Seed of the windows asked about, their order and wrong marks."""


class InterpretationSettings(WindowSettings):
    """A language model explains features of the featured run, rates their complexity from 1 to 5, and is tested.

    Detection and fuzzing (Paulo et al. 2024, arXiv 2410.13928) ask which windows of text the explanation fits. Nothing
    is asked unless `endpoint` is set; every answer is kept in `<results>/cache/interpretation/` and paid for once.
    """

    endpoint: str | None = None
    """Address of a server that speaks OpenAI's protocol, up to where `/chat/completions` follows, such as
    `http://localhost:8000/v1`; off if left out."""
    model: Annotated[str, StringConstraints(min_length=1)] | None = None
    """The model's name on that server; needed with `endpoint`."""
    key: str | None = None
    """Environment variable that holds the API key, never the key itself; left out for servers that want none."""
    features: Count | None = None
    """Features that are rated, as many of each class as there are; those of `evaluation.feature_types` if left out."""
    temperature: NonNegative | None = 0.0
    """Sampling temperature; null for models that refuse to be told."""
    max_tokens: Count | None = 1000
    """Tokens of an answer at most, more for models that reason before they answer; null for those that refuse to be
    told."""
    concurrency: Count = 8
    """Requests under way at one time."""
    timeout: Positive = 120.0
    """Seconds that an answer may take before it is asked for again."""
    input_price: NonNegative | None = None
    """Price of a million tokens of questions, in any currency, for the costs that are told before they arise."""
    output_price: NonNegative | None = None
    """Price of a million tokens of answers."""

    @field_validator("endpoint")
    @classmethod
    def _check_address(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        try:
            parts = urlsplit(endpoint)
            there = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            there = False
        if not there or re.search(r"\s", endpoint):
            raise ValueError("expected an address such as http://localhost:8000/v1, or null")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "expected an address without a password, ? or #, such as http://localhost:8000/v1; "
                "interpretation.key names the environment variable with the key"
            )
        return endpoint.rstrip("/")

    @field_validator("key")
    @classmethod
    def _check_name(cls, key: str | None) -> str | None:
        # What was found is not said: it may be a key.
        if key is not None and not _VARIABLE.fullmatch(key):
            raise ValueError(
                "expected the name of an environment variable, in capitals such as OPENAI_API_KEY, never the key itself"
            )
        return key

    def api_key(self) -> str | None:
        """Read the key from the environment; never to be printed or stored.

        Raises:
            UserError: the variable is not set, or holds what cannot be a key.
        """
        if self.key is None:
            return None
        value = os.environ.get(self.key, "").strip()
        if not value:
            raise UserError(
                f"interpretation.key: the environment variable {self.key} is not set; export it and run again"
            )
        if not (value.isascii() and value.isprintable()):
            raise UserError(f"interpretation.key: what {self.key} holds is no key: it has signs beyond printable ASCII")
        return value


def interpreted(study: "Study") -> dict[str, int]:
    """Name what decides which features are rated: the choice of `evaluation.feature_types`, or as many as are given.

    The first of one choice are those of a smaller one.
    """
    typed, number = study.evaluation.feature_types, study.interpretation.features
    return {"features": number or typed.features, "seed": typed.seed, "firings": typed.firings}


def interpretation_problems(study: "Study") -> Iterator[str]:
    """Say what is wrong with `interpretation`, of a study without other mistakes."""
    settings = study.interpretation
    if settings.endpoint is None:
        return
    if settings.model is None:
        yield "interpretation.model: name the model that interpretation.endpoint serves"
    name = study.featured_run()[0]
    planted = study.planted_hooks()
    if any(site.model in planted for site in study.sites(name)):
        yield f"interpretation.endpoint: features of {name} are planted, and text says nothing about them; leave it out"
