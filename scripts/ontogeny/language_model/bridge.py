"""A checkpoint's model under transformer-lens: read activations at its hook points, and put others in their place."""

import difflib
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformer_lens.model_bridge.generalized_components import AttentionBridge
from transformers import PreTrainedTokenizerFast

from ontogeny.errors import UserError
from ontogeny.language_model.pretrained import pretrained_model
from ontogeny.onednn import OneDNNLinear

ATTENTION_MAPS = ("hook_attn_scores", "hook_pattern")
"""Ends of the names of hook points that carry one number for two positions."""

INSIDE_ATTENTION = re.compile(r"blocks\.\d+\.(attn\.|hook_attn_|hook_[qkv]_)")
"""Beginnings of the names of hook points that are reached where transformer-lens computes attention alone."""

Patch = Callable[[Tensor], Tensor]
"""Makes of the activations at a hook, (B, T, D), those that the rest of the model sees."""


def load_model(folder: Path, precision: str = "float32") -> TransformerBridge:
    """Load a checkpoint for inference, on the GPU if there is one, with its weights as they are on disk.

    Transformer-lens computes attention itself and unfused, whatever attention the weights were trained with, except
    where activations outside of attention are read.

    Args:
        folder: a checkpoint's folder, as in `models/<model>/step<k>/`.
        precision: `float32`, `bfloat16` or `float16`.

    Raises:
        UserError: the folder holds no model, or not all of its weights.
    """
    dtype = getattr(torch, precision)
    model = pretrained_model(folder, dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=model, tokenizer=tokenizer, dtype=dtype, device=device
    )
    return bridge.eval().requires_grad_(False)


def hooked_activations(model: TransformerBridge, tokens_BT: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
    """Read the activations at hook points in one forward pass, which ends when the last of them is reached.

    Those inside attention are read in a pass of their own: so what a hook carries, to the byte, does not depend on what
    else is read.

    Args:
        model: from `load_model`.
        tokens_BT: token ids, (B, T); there is no mask: what pads a context on its right reaches nothing before it.
        hooks: hook points by their transformer-lens names.

    Returns:
        Activations by hook, (B, T, D) each; those of a hook with one vector per head are joined to D = heads * d_head.

    Raises:
        UserError: a hook point that the model has not, or that carries no vector per position.
    """
    inside = [hook for hook in hooks if INSIDE_ATTENTION.match(hook)]
    outside = [hook for hook in hooks if hook not in inside]
    activations: dict[str, Tensor] = {}
    if outside:
        activations |= _read(model, tokens_BT, outside, _fused_attention(model))
    if inside:
        activations |= _read(model, tokens_BT, inside, nullcontext())
    return activations


def _read(
    model: TransformerBridge, tokens_BT: Tensor, hooks: Sequence[str], attention: AbstractContextManager[None]
) -> dict[str, Tensor]:
    activations: dict[str, Tensor] = {}

    def read(hook: str) -> Patch:
        def patch(x_BTD: Tensor) -> Tensor:
            activations[hook] = x_BTD
            if len(activations) == len(set(hooks)):
                raise StopAtLayerException(x_BTD)
            return x_BTD

        return patch

    with _patched(model, tokens_BT, {hook: read(hook) for hook in hooks}), attention, torch.no_grad():
        _forward(model, tokens_BT)
    _check_reached(hooks, activations)
    return activations


def token_losses(model: TransformerBridge, tokens_BT: Tensor, patches: Mapping[str, Patch] | None = None) -> Tensor:
    """Compute the next-token losses of a model whose activations are replaced at hook points.

    Args:
        model: from `load_model`.
        tokens_BT: token ids, (B, T).
        patches: by hook point, what makes of its activations, (B, T, D), those that the rest of the model sees.

    Returns:
        Losses in nats, (B, T - 1), float32: entry t is that of token t + 1.

    Raises:
        UserError: a hook point that the model has not, or that carries no vector per position.
    """
    with torch.no_grad():
        logits_BTV = _patched_logits(model, tokens_BT, patches or {})
    tokens_BT = tokens_BT.to(logits_BTV.device)
    losses = [
        functional.cross_entropy(logits_TV[:-1].float(), tokens_T[1:], reduction="none")
        for logits_TV, tokens_T in zip(logits_BTV, tokens_BT, strict=True)
    ]
    return torch.stack(losses)


def last_logits(model: TransformerBridge, tokens_BT: Tensor, patches: Mapping[str, Patch]) -> Tensor:
    """Compute the logits at the last position of a model whose activations are replaced at hook points.

    Gradients lead back to what patches put there.

    Args:
        model: from `load_model`.
        tokens_BT: token ids, (B, T), none of them padding.
        patches: as for `token_losses`.

    Returns:
        Logits of the next token, (B, V).

    Raises:
        UserError: a hook point that the model has not, or that carries no vector per position.
    """
    return _patched_logits(model, tokens_BT, patches, logits_to_keep=1)[:, -1]


def _patched_logits(
    model: TransformerBridge, tokens_BT: Tensor, patches: Mapping[str, Patch], **options: int
) -> Tensor:
    reached: set[str] = set()

    def replace(hook: str, patch: Patch) -> Patch:
        def replacement(x_BTD: Tensor) -> Tensor:
            reached.add(hook)
            return patch(x_BTD)

        return replacement

    with _patched(model, tokens_BT, {hook: replace(hook, patch) for hook, patch in patches.items()}):
        logits_BTV = _forward(model, tokens_BT, **options)
    _check_reached(list(patches), reached)
    return logits_BTV


@torch.no_grad()
def logits(model: TransformerBridge, tokens_BT: Tensor) -> Tensor:
    """Run a model to its logits, or to where a hook stops it.

    Args:
        model: from `load_model`.
        tokens_BT: token ids, (B, T).

    Returns:
        Logits of the token that follows each position, (B, T, V), on the model's device.
    """
    return _forward(model, tokens_BT)


def _forward(model: TransformerBridge, tokens_BT: Tensor, **options: int) -> Tensor:
    """Run a model to its logits, (B, T, V), or to where a hook stops it."""
    device = next(model.parameters()).device
    with OneDNNLinear():
        output: Tensor = model(tokens_BT.to(device), return_type="logits", use_cache=False, **options)
    return output


@contextmanager
def _fused_attention(model: TransformerBridge) -> Iterator[None]:
    """Let the Hugging Face modules compute attention, by a fused kernel if they can, for as long as the block runs."""
    config = model.original_model.config
    modules = [module for module in model.modules() if isinstance(module, AttentionBridge)]
    before = config._attn_implementation
    # What loading chose; the bridge turns it off.
    config._attn_implementation = "sdpa" if model.original_model._supports_sdpa else "eager"
    for module in modules:
        vars(module)["forward"] = module.original_component.forward
    try:
        yield
    finally:
        config._attn_implementation = before
        for module in modules:
            del vars(module)["forward"]


@contextmanager
def _patched(model: TransformerBridge, tokens_BT: Tensor, patches: Mapping[str, Patch]) -> Iterator[None]:
    """Hang patches into a model for as long as the block runs."""
    known = model.hook_dict
    for hook in patches:
        if hook not in known:
            close = difflib.get_close_matches(hook, known, n=1, cutoff=0)
            raise UserError(f"hook {hook!r}: the model has no such hook point; did you mean {close[0]!r}?")
    hung = [(hook, _as_hook(hook, patch, tuple(tokens_BT.shape))) for hook, patch in patches.items()]
    with ExitStack() as stack:
        try:
            stack.enter_context(model.hooks(fwd_hooks=hung))
        except ValueError as error:
            raise UserError(f"a hook point that transformer-lens leaves out by default: {error}") from error
        yield


def _as_hook(hook: str, patch: Patch, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    """Make of a patch a function as transformer-lens calls it, which sees one vector for each of (B, T) positions."""

    def call(x: Any, hook: object) -> Tensor:  # noqa: ANN401, ARG001
        if not isinstance(x, Tensor) or x.shape[:2] != shape or x.ndim not in (3, 4) or name.endswith(ATTENTION_MAPS):
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise UserError(f"hook {name!r} carries {found}, not one vector for each of {shape} positions")
        return patch(x.flatten(2)).view_as(x)

    name = hook
    return call


def _check_reached(hooks: Sequence[str], reached: Container[str]) -> None:
    silent = [hook for hook in hooks if hook not in reached]
    if silent:
        raise UserError(f"hook {silent[0]!r} is never reached in a forward pass of this model; choose another")
