"""A language model from a hook point on: what comes before it runs once, however often it is continued."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from ontogeny.language_model.bridge import last_logits


class Continuation:
    """The model's next-token logits by what stands at a hook point, for given texts.

    Attributes:
        x_BTD: the model's own activations at the hook point, (B, T, D).
    """

    def __init__(self, model: TransformerBridge, hook: str, tokens_BT: Tensor) -> None:
        """Run the model once.

        Args:
            model: from `load_model`.
            hook: hook point by its transformer-lens name.
            tokens_BT: token ids, (B, T), none of them padding.

        Raises:
            UserError: a hook point that the model has not, or that carries no vector per position.
        """
        self._model, self._hook, self._tokens_BT = model, hook, tokens_BT
        last = _last_block_before(hook, len(model.blocks))
        self._blocks: Sequence[nn.Module] = list(model.blocks)[: last + 1]
        self._ends_block = hook == f"blocks.{last}.hook_resid_post"
        self._block_output: Tensor | tuple[Tensor, ...] | None = None
        handles = [block.register_forward_hook(self._keep_output) for block in self._blocks[-1:]]
        with torch.no_grad():
            last_logits(model, tokens_BT, {hook: self._keep_activations})
        for handle in handles:
            handle.remove()

    def _keep_activations(self, own_BTD: Tensor) -> Tensor:
        self.x_BTD = own_BTD.clone()
        return own_BTD

    def _keep_output(self, _block: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self._block_output = output

    def __call__(self, x_MTD: Tensor, item_M: Tensor) -> Tensor:
        """Continue from other activations; gradients lead back to them.

        Args:
            x_MTD: what stands at the hook point, (M, T, D).
            item_M: which of the texts each of them is of.

        Returns:
            Logits of the next token, (M, V).
        """
        patches = {} if self._ends_block else {self._hook: lambda own_MTD: x_MTD.to(own_MTD)}
        with _repeated(self._blocks, self._output_for(x_MTD, item_M)):
            return last_logits(self._model, self._tokens_BT[item_M.to(self._tokens_BT.device)], patches)

    def _output_for(self, x_MTD: Tensor, item_M: Tensor) -> Tensor | tuple[Tensor, ...] | None:
        """Make what the last of the blocks that do not run returns: its own output, or what stands at the hook."""
        kept = self._block_output
        if kept is None:
            return None
        hidden_BTD = kept if isinstance(kept, Tensor) else kept[0]
        hidden_MTD = x_MTD.to(hidden_BTD) if self._ends_block else hidden_BTD[item_M.to(hidden_BTD.device)]
        return hidden_MTD if isinstance(kept, Tensor) else (hidden_MTD, *kept[1:])


def _last_block_before(hook: str, blocks: int) -> int:
    """Number the last block whose output does not depend on what stands at a hook, or is it; -1 if there is none."""
    if hook.startswith("ln_final."):
        return blocks - 1
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if not found:
        return -1
    return int(found[1]) - (found[2] != "hook_resid_post")


@contextmanager
def _repeated(blocks: Sequence[nn.Module], output: object) -> Iterator[None]:
    """Let blocks do nothing but return `output` for as long as the `with` block runs."""
    try:
        for block in blocks:
            # Not by setattr, which transformer-lens hands on to the module that it wraps.
            vars(block)["forward"] = lambda *_, **__: output
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]
