"""A GPT-NeoX of a given shape, with the initial weights of the GPT-NeoX library."""

import math

import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ontogeny.config.models import Architecture
from ontogeny.randomness import derived_seed

RESIDUAL_WRITERS = ("attention.dense.weight", "mlp.dense_4h_to_h.weight")
"""Matrices whose product is added to the residual stream."""


def new_model(
    architecture: Architecture, vocab_size: int, context_length: int, bos_id: int, seed: int
) -> GPTNeoXForCausalLM:
    """Make a model before training.

    Weights are normal: those that write to the residual stream with deviation 2 / (layers sqrt(d_model)) (Wang and
    Komatsuzaki 2021), all others with sqrt(2 / (5 d_model)) (Nguyen and Salazar 2019), as in Pythia. Biases are 0.

    Args:
        architecture: shape of the model.
        vocab_size: entries of the vocabulary.
        context_length: most positions of a context.
        bos_id: id of the BOS token, which ends a text as well.
        seed: seed of the weights, together with their names.
    """
    small = math.sqrt(2 / (5 * architecture.d_model))
    model = GPTNeoXForCausalLM(_config(architecture, vocab_size, context_length, bos_id, small))
    residual = 2 / (architecture.layers * math.sqrt(architecture.d_model))
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            draws = torch.Generator().manual_seed(derived_seed(seed, "language-model-weights", name))
            deviation = residual if name.endswith(RESIDUAL_WRITERS) else small
            nn.init.normal_(weight, std=deviation, generator=draws)
    return model


def _config(
    architecture: Architecture, vocab_size: int, context_length: int, bos_id: int, deviation: float
) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=architecture.d_model,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.d_mlp or 4 * architecture.d_model,
        max_position_embeddings=context_length,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": architecture.rotary_fraction,
        },
        initializer_range=deviation,
        bos_token_id=bos_id,
        eos_token_id=bos_id,
        use_cache=False,
        attn_implementation="sdpa",
    )
