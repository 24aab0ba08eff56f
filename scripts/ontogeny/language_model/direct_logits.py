"""What an activation adds to the logits of a model by itself, past all blocks that follow."""

import re

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

IN_RESIDUAL_STREAM = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
"""Hook points of a block that carry what the residual stream is, or what is added to it."""

WRITERS = {"attn.hook_z": ("attn.o", "ln1_post"), "mlp.hook_post": ("mlp.out", "ln2_post")}
"""Hook points of a block that a matrix carries to the residual stream: the matrix, and a norm that some families have
after it."""


def in_residual_stream(model: TransformerBridge, hook: str, v_BD: Tensor) -> Tensor | None:
    """Carry activations at a hook point to the residual stream, without biases.

    Args:
        model: from `load_model`.
        hook: hook point by its transformer-lens name.
        v_BD: activations there.

    Returns:
        (shape: [B, d_model]); None where they reach it by no linear map: the hook is none of `IN_RESIDUAL_STREAM` and
        `WRITERS`, or the family puts a norm after the matrix.
    """
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if match is None or match[2] not in (*IN_RESIDUAL_STREAM, *WRITERS):
        return None
    if match[2] in IN_RESIDUAL_STREAM:
        return v_BD
    block = model.blocks[int(match[1])]
    writer, norm = WRITERS[match[2]]
    if norm in dict(block.named_children()):
        return None
    matrix: nn.Module = block.get_submodule(writer)
    carried_BD: Tensor = matrix(v_BD) - matrix(torch.zeros_like(v_BD[:1]))
    return carried_BD


def direct_unembedding(model: TransformerBridge, tokens: int) -> Tensor:
    """Fold the final norm into the unembedding, but for the scale that it divides by, and centre over the vocabulary.

    A final LayerNorm gives w (x - mean(x)) / sigma(x) + b. Its centring and w are linear and are folded in, as
    transformer-lens folds them (`fold_ln`, `center_unembed`); b is the same for every x. 1 / sigma(x), one positive
    number at a position, is left out: it changes no order of tokens.

    Args:
        model: from `load_model`.
        tokens: entries of the vocabulary that count; a model may have more than its tokenizer.

    Returns:
        (shape: [d_model, V]): times x in the residual stream it is sigma(x) times the logits that x adds, less their
        mean over the vocabulary.
    """
    norm = model.ln_final
    unembedding_DV: Tensor = model.unembed.W_U.detach()[:, :tokens]
    weight_D = getattr(norm, "weight", None)
    if weight_D is not None:
        unembedding_DV = unembedding_DV * (1 + weight_D if norm.uses_weight_offset else weight_D)[:, None]
    if not norm.uses_rms_norm:
        unembedding_DV = unembedding_DV - unembedding_DV.mean(0)
    return unembedding_DV - unembedding_DV.mean(1, keepdim=True)
