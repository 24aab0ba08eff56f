"""Settings of the interpretation are refused in one line, without what may be a secret."""

from typing import Any

import pytest
from test_config import changed

from ontogeny.config.interpretation import interpreted
from ontogeny.config.load import load_study
from ontogeny.errors import UserError

HERE: dict[str, Any] = {"endpoint": "http://localhost:8000/v1", "model": "judge"}


def with_interpretation(**settings: Any) -> dict[str, Any]:
    return changed("interpretation", value=settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": HERE["endpoint"]}, "interpretation.model: name the model that interpretation.endpoint serves"),
        ({**HERE, "endpoint": "localhost:8000/v1"}, "interpretation.endpoint: expected an address such as http://localhost:8000/v1, or null"),
        ({**HERE, "endpoint": "http://"}, "interpretation.endpoint: expected an address"),
        ({**HERE, "endpoint": "http://host:port/v1"}, "interpretation.endpoint: expected an address"),
        ({**HERE, "endpoint": "http://me:secret@host/v1"}, "interpretation.endpoint: expected an address without a password"),
        ({**HERE, "endpoint": "https://host/v1?key=secret"}, "interpretation.endpoint: expected an address without a password"),
        ({**HERE, "key": "sk-secret"}, "interpretation.key: expected the name of an environment variable, in capitals"),
        ({**HERE, "key": "gsk_secret1"}, "interpretation.key: expected the name of an environment variable"),
        ({**HERE, "model": ""}, "interpretation.model: string should have at least 1 character"),
        ({**HERE, "window": 3}, "interpretation.window: input should be greater than or equal to 4, not 3"),
        ({**HERE, "tests": 1}, "interpretation.tests: input should be greater than or equal to 2, not 1"),
        ({**HERE, "timeout": 0}, "interpretation.timeout: input should be greater than 0, not 0"),
        ({**HERE, "endpont": "http://host"}, "interpretation.endpont: unknown key; did you mean 'endpoint'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_study(with_interpretation(**settings))
    assert message in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_planted_features_are_not_interpreted() -> None:
    config = with_interpretation(**HERE)
    config["models"]["toy"] = {"source": "planted", "checkpoints": [0, 8]}
    config["dictionaries"]["toy"] = {
        "sites": [{"model": "toy", "hooks": ["blocks.0.hook_resid_post"]}],
        "latents": [8],
        "k": [2],
    }
    load_study(config)
    config["figures"]["run"] = ["toy", "latents8-k2-seed0"]
    del config["evaluation"]["matching"]
    with pytest.raises(UserError, match=r"interpretation.endpoint: features of toy are planted, and text says nothing"):
        load_study(config)


def test_nothing_is_asked_unless_it_is_asked_for() -> None:
    study = load_study(changed("seed", value=0))
    assert study.interpretation.endpoint is None


@pytest.mark.parametrize("endpoint", ["http://localhost:8000/v1", "https://host/v1/", "http://127.0.0.1/"])
def test_an_address_is_kept_without_its_last_slash(endpoint: str) -> None:
    study = load_study(with_interpretation(**{**HERE, "endpoint": endpoint}))
    assert study.interpretation.endpoint == endpoint.rstrip("/")


def test_the_features_are_those_whose_types_are_measured() -> None:
    assert interpreted(load_study(with_interpretation(**HERE))) == {"features": 384, "seed": 0, "firings": 32}
    assert interpreted(load_study(with_interpretation(**HERE, features=50)))["features"] == 50
