"""What can be said of a hook point before its model exists."""

import difflib
import re

from ontogeny.config.shapes import ModelShape

BLOCK_HOOKS = (
    "hook_in",
    "hook_out",
    "hook_resid_pre",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "ln1.hook_in",
    "ln1.hook_out",
    "ln1.hook_normalized",
    "ln2.hook_in",
    "ln2.hook_out",
    "ln2.hook_normalized",
    "attn.hook_in",
    "attn.hook_out",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_z",
    "attn.q.hook_in",
    "attn.q.hook_out",
    "attn.k.hook_in",
    "attn.k.hook_out",
    "attn.v.hook_in",
    "attn.v.hook_out",
    "attn.o.hook_in",
    "attn.o.hook_out",
    "mlp.hook_in",
    "mlp.hook_out",
    "mlp.hook_pre",
    "mlp.hook_post",
    "mlp.in.hook_in",
    "mlp.in.hook_out",
    "mlp.gate.hook_in",
    "mlp.gate.hook_out",
    "mlp.out.hook_in",
    "mlp.out.hook_out",
)
"""Hook points of a block that carry one vector per position, by their transformer-lens names."""

MODEL_HOOKS = (
    "hook_embed",
    "embed.hook_out",
    "ln_final.hook_in",
    "ln_final.hook_out",
    "ln_final.hook_normalized",
)
"""Hook points outside the blocks that carry one vector per position."""

GATE_HOOKS = ("mlp.gate.hook_in", "mlp.gate.hook_out")
"""Hook points of a gated MLP."""

MLP_WIDE = ("mlp.hook_pre", "mlp.hook_post", "mlp.in.hook_out", "mlp.gate.hook_out", "mlp.out.hook_in")
"""Hook points as wide as the MLP's hidden layer."""

HEADS_WIDE = (
    *(f"attn.hook_{name}" for name in "qkvz"),
    *(f"attn.{name}.hook_out" for name in "qkv"),
    "attn.o.hook_in",
)
"""Hook points as wide as all heads together."""

PLAIN = ("gpt_neox", "gpt2")
"""Families without a gate in the MLP, whose heads together are as wide as the residual stream."""


def hook_problem(hook: str, shape: ModelShape) -> str | None:
    """Say what is wrong with a hook point's name, or None if a model of this shape can have it."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if match and match[2] in GATE_HOOKS and shape.family in PLAIN:
        other = hook.replace("gate", "in")
        return f"hook {hook!r} is of a gated MLP, which a {shape.family} has not; did you mean {other!r}?"
    if match and match[2] in BLOCK_HOOKS:
        if shape.layers is None or int(match[1]) < shape.layers:
            return None
        last = shape.layers - 1
        return f"hook {hook!r} is in block {match[1]}, but the model has {shape.layers}: blocks.0 to blocks.{last}"
    if hook in MODEL_HOOKS:
        return None
    block = match[1] if match else "0"
    known = [f"blocks.{block}.{name}" for name in BLOCK_HOOKS] + list(MODEL_HOOKS)
    close = difflib.get_close_matches(hook, known, n=1, cutoff=0)
    return f"hook {hook!r} is no hook point with one vector per position; did you mean {close[0]!r}?"


def hook_width(hook: str, shape: ModelShape) -> int | None:
    """Channels of a hook point; None where the shape of the model does not tell.

    Other families may have fewer key than query heads, heads of any width, or several MLPs a block.
    """
    name = hook.split(".", 2)[-1] if hook.startswith("blocks.") else hook
    if shape.family not in PLAIN and (name in MLP_WIDE or name in HEADS_WIDE or "embed" in name):
        return None
    return shape.d_mlp if name in MLP_WIDE else shape.d_model
