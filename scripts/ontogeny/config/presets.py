"""Published recipes of dictionaries, as values of the keys of `ontogeny.config.dictionaries`.

Coefficients of penalties are for activations scaled to a mean norm of sqrt(D) at every site, and for errors and
penalties that are means over the batch, which is how this project counts; where a publication counts otherwise, they
are converted.
"""

from collections.abc import Mapping
from typing import Any

_EVOLUTION: dict[str, Any] = {
    "nonlinearity": "jumprelu",
    "gate": "site",
    "threshold": 0.1,
    "bandwidth": 4.0,
    "penalty": "tanh_quad",
    "tanh_scale": 4.0,
    "frequency_scale": 0.01,
    "sparsity": [0.3],
    "site_error": "mean",
    "initialisation": "tied",
    "decoder_norm": "search",
    "batch_size": 2048,
    "betas": [0.9, 0.999],
    "gradient_clip": None,
    # 5,000 of the 390,625 steps in which 800 million tokens are read.
    "warmup": 0.0128,
    "decay": 0.2,
    "final_learning_rate": 0.03125,
    "sparsity_warmup": 0.1,
}

PRESETS: dict[str, dict[str, Any]] = {
    # Ge et al. 2025, Evolution of Concepts in Language Model Pre-Training: the code frozen with the paper.
    "pythia-160m": _EVOLUTION | {"latents": [24576], "learning_rate": 5e-5, "threshold_learning_rate": 0.1},
    "pythia-6.9b": _EVOLUTION | {"latents": [32768], "learning_rate": 1e-5, "threshold_learning_rate": 0.3},
    # Bricken et al. 2023, Towards Monosemanticity. Its penalty is for activations as they are: on scaled ones it is
    # multiplied by their scale, about 1 where the mean norm is sqrt(D).
    "towards-monosemanticity": {
        "nonlinearity": "relu",
        "penalty": "l1",
        "sparsity": [1.26],
        "latents": [4096],
        "decoder": "unit",
        "pre_bias": True,
        "dead": {"policy": "resample", "interval": 25000, "times": 4, "candidates": 819200, "encoder_scale": 0.2},
        "learning_rate": 3e-4,
        "batch_size": 8192,
        "betas": [0.9, 0.999],
        "gradient_clip": None,
        "warmup": 0.0,
        "decay": 0.0,
        "sparsity_warmup": 0.0,
    },
    # The acausal cross-layer crosscoder on the residual streams of GPT-2 small (Nanda 2024, after Lindsey et al. 2024).
    "gpt2-cross-layer": {
        "nonlinearity": "relu",
        "penalty": "l1",
        "sparsity": [2.0],
        "latents": [65536],
        "initialisation": "independent",
        "decoder_norm": 0.005,
        "learning_rate": 2e-5,
        "batch_size": 2048,
        "betas": [0.9, 0.999],
        "gradient_clip": 1.0,
        "warmup": 0.05,
        "decay": 0.2,
        "sparsity_warmup": 0.05,
    },
}


def with_presets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the keys of every dictionary that names a preset and does not give them itself.

    Args:
        config: a study's config, not checked yet; what is not as expected is left for the check.
    """
    dictionaries = config.get("dictionaries")
    if not isinstance(dictionaries, Mapping):
        return dict(config)
    return {**config, "dictionaries": {name: _with_preset(given) for name, given in dictionaries.items()}}


def _with_preset(given: object) -> object:
    name = given.get("preset") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(name, str) or name not in PRESETS:
        return given
    return {**PRESETS[name], **given}
