"""Activations are those of the model that Hugging Face runs, and patches act where their hook point says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_model import VOCABULARY, tiny_model, write_tokenizer
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXForCausalLM

from ontogeny.config.hooks import BLOCK_HOOKS, GATE_HOOKS, MODEL_HOOKS, hook_problem, hook_width
from ontogeny.config.models import LocalModel
from ontogeny.config.shapes import model_shape
from ontogeny.errors import UserError
from ontogeny.language_model.bridge import hooked_activations, load_model, token_losses
from ontogeny.language_model.sources import bring_checkpoint

USABLE = [f"blocks.1.{name}" for name in BLOCK_HOOKS if name not in GATE_HOOKS] + list(MODEL_HOOKS)
"""Hook points of a GPT-NeoX."""


def local(folder: Path) -> LocalModel:
    return LocalModel(source="local", checkpoints=(0,), path=str(folder / "there"))


def brought(folder: Path, model: GPTNeoXForCausalLM) -> Path:
    model.save_pretrained(folder / "there")
    checkpoint = folder / "models" / "tiny" / "step0"
    bring_checkpoint(local(folder), 0, write_tokenizer(folder / "tokenizer"), checkpoint, None)
    return checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brought(tmp_path_factory.mktemp("study"), tiny_model())


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> TransformerBridge:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def tokens_BT() -> Tensor:
    return torch.randint(0, VOCABULARY, (5, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def hidden_states(tokens_BT: Tensor) -> tuple[Tensor, ...]:
    """Residual stream before and after every block, as Hugging Face gives it; its last entry is after the final norm."""
    with torch.no_grad():
        return tiny_model()(input_ids=tokens_BT, output_hidden_states=True).hidden_states


def attached(model: TransformerBridge) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Compare to one part in a million of the largest value: attention is fused on one side and not on the other."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def resid(block: int) -> str:
    return f"blocks.{block}.hook_resid_post"


def test_residual_streams_are_those_of_hugging_face(
    model: TransformerBridge, tokens_BT: Tensor, hidden_states: tuple[Tensor, ...]
) -> None:
    found = hooked_activations(model, tokens_BT, [resid(1), "blocks.0.hook_resid_pre", resid(0), "ln_final.hook_out"])
    assert list(found) == ["blocks.0.hook_resid_pre", resid(0), resid(1), "ln_final.hook_out"]
    for hook, layer in ((resid(0), 1), (resid(1), 2), ("blocks.0.hook_resid_pre", 0), ("ln_final.hook_out", 3)):
        assert_same(found[hook], hidden_states[layer])
    assert (found[resid(1)] - hidden_states[1]).abs().max() > 0.1, "a wrong layer would pass unseen"


def test_the_last_block_is_read_before_the_final_norm(model: TransformerBridge, tokens_BT: Tensor) -> None:
    expected = tiny_model().gpt_neox
    seen: list[Tensor] = []
    expected.layers[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        expected(input_ids=tokens_BT)
    found = hooked_activations(model, tokens_BT, [resid(2)])[resid(2)]
    assert_same(found, seen[0])


def test_the_forward_pass_ends_at_the_deepest_hook(model: TransformerBridge, tokens_BT: Tensor) -> None:
    reached: list[str] = []
    watched = [resid(0), resid(1), "blocks.2.hook_in", "ln_final.hook_in"]

    def watch(x: Tensor, hook: torch.nn.Module) -> Tensor:
        reached.append(str(hook.name))
        return x

    with model.hooks(fwd_hooks=[(name, watch) for name in watched]):
        hooked_activations(model, tokens_BT, [resid(1), resid(0)])
    assert reached == ["blocks.0.hook_out", "blocks.1.hook_out"]


def test_what_pads_a_context_reaches_nothing_before_it(model: TransformerBridge, tokens_BT: Tensor) -> None:
    padded = tokens_BT.clone()
    padded[:, 6:] = 0
    for hook in (resid(0), resid(2)):
        clean, other = (hooked_activations(model, tokens, [hook])[hook] for tokens in (tokens_BT, padded))
        assert_same(clean[:, :6], other[:, :6])


def test_losses_are_those_of_hugging_face(model: TransformerBridge, tokens_BT: Tensor) -> None:
    logits = tiny_model()(input_ids=tokens_BT).logits.double()
    expected = functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens_BT[:, 1:], reduction="none")
    torch.testing.assert_close(token_losses(model, tokens_BT).double(), expected, rtol=1e-5, atol=1e-5)


def test_losses_of_three_tokens_by_hand(model: TransformerBridge) -> None:
    """Logits that depend on the token alone: a zero stream with one marked direction, and an unembedding by hand."""
    final = torch.zeros(1, 3, 16)
    final[0, :, 0] = torch.tensor([1.0, 2.0, 5.0])
    unembedding = model.unembed.original_component.weight
    before = unembedding.detach().clone()
    unembedding.data.zero_()
    unembedding.data[7, 0] = 1.0
    losses = token_losses(model, torch.tensor([[0, 7, 3]]), {"ln_final.hook_out": lambda _: final})
    unembedding.data.copy_(before)
    others = VOCABULARY - 1
    e = 2.718281828459045
    assert losses.shape == (1, 2)
    expected = torch.tensor([[e + others, e**2 + others]], dtype=torch.float64).log() - torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("hook", USABLE)
def test_every_hook_of_the_config_is_read_and_replaced(model: TransformerBridge, tokens_BT: Tensor, hook: str) -> None:
    before, clean = attached(model), token_losses(model, tokens_BT)
    activations = hooked_activations(model, tokens_BT, [hook])[hook]
    assert activations.shape[:2] == tokens_BT.shape
    assert activations.ndim == 3
    own = activations.clone()
    unchanged = token_losses(model, tokens_BT, {hook: lambda _: own})
    torch.testing.assert_close(unchanged, clean, rtol=1e-5, atol=1e-5)
    changed = token_losses(model, tokens_BT, {hook: lambda x: 2 * x.abs()})
    assert (changed - clean).abs().max() > 1e-3
    assert attached(model) == before
    assert torch.equal(token_losses(model, tokens_BT), clean)


@pytest.mark.parametrize("hook", [*USABLE, *(f"blocks.1.{name}" for name in GATE_HOOKS)])
def test_the_config_knows_which_hooks_the_model_has_and_how_wide_they_are(
    checkpoint: Path, model: TransformerBridge, tokens_BT: Tensor, hook: str
) -> None:
    shape = model_shape(local(checkpoint.parents[2]))
    assert (hook_problem(hook, shape) is None) == (hook in model.hook_dict)
    if hook in USABLE:
        assert hook_width(hook, shape) == hooked_activations(model, tokens_BT, [hook])[hook].shape[2]


def test_activations_of_another_layer_change_the_loss(model: TransformerBridge, tokens_BT: Tensor) -> None:
    clean = token_losses(model, tokens_BT)
    own = hooked_activations(model, tokens_BT, [resid(0), resid(1), resid(2)])
    for there in (0, 2):
        moved = token_losses(model, tokens_BT, {resid(1): lambda _, there=there: own[resid(there)]})
        assert (moved - clean).abs().max() > 0.1


def test_two_patches_act_together(model: TransformerBridge, tokens_BT: Tensor) -> None:
    seen: dict[str, Tensor] = {}

    def note(hook: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def patch(x: Tensor) -> Tensor:
            seen[hook] = x.clone()
            return change(x)

        return patch

    own = hooked_activations(model, tokens_BT, [resid(0), resid(1)])
    losses = token_losses(
        model, tokens_BT, {resid(0): note(resid(0), torch.zeros_like), resid(1): note(resid(1), torch.neg)}
    )
    torch.testing.assert_close(seen[resid(0)], own[resid(0)])
    assert (seen[resid(1)] - own[resid(1)]).abs().max() > 0.1
    torch.testing.assert_close(losses, token_losses(model, tokens_BT, {resid(1): lambda _: -seen[resid(1)]}))


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        ("blocks.1.hook_resid_pots", "did you mean 'blocks.1.hook_resid_post'?"),
        ("blocks.9.hook_resid_post", "the model has no such hook point; did you mean 'blocks."),
        ("blocks.1.attn.hook_pattern", "carries (5, 2, 11, 11), not one vector for each of (5, 11) positions"),
        ("blocks.1.attn.hook_cos", "not one vector for each of (5, 11) positions"),
        ("blocks.1.hook_mlp_in", "use_hook_mlp_in"),
        ("blocks.1.attn.hook_rot_q", "is never reached"),
    ],
)
def test_hooks_that_cannot_be_used_are_one_line(
    model: TransformerBridge, tokens_BT: Tensor, hook: str, text: str
) -> None:
    before = attached(model)
    for run in (
        lambda: hooked_activations(model, tokens_BT, [resid(0), hook]),
        lambda: token_losses(model, tokens_BT, {resid(0): lambda x: x, hook: lambda x: x}),
    ):
        with pytest.raises(UserError) as error:
            run()
        assert text in str(error.value)
        assert hook in str(error.value)
        assert "\n" not in str(error.value)
        assert attached(model) == before


@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"])
def test_attention_maps_are_no_vectors_even_with_as_many_positions_as_heads(
    model: TransformerBridge, tokens_BT: Tensor, hook: str
) -> None:
    with pytest.raises(UserError, match=r"carries \(5, 2, 2, 2\), not one vector"):
        hooked_activations(model, tokens_BT[:, :2], [hook])


def test_a_failing_patch_leaves_no_hook_behind(model: TransformerBridge, tokens_BT: Tensor) -> None:
    before, clean = attached(model), token_losses(model, tokens_BT)
    with pytest.raises(ZeroDivisionError):
        token_losses(model, tokens_BT, {resid(1): lambda x: x * (1 // 0)})
    assert attached(model) == before
    assert torch.equal(token_losses(model, tokens_BT), clean)


def test_a_loaded_model_keeps_no_gradients_and_its_weights(checkpoint: Path, model: TransformerBridge) -> None:
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.training
    expected = tiny_model().state_dict()
    found = model.original_model.state_dict()
    assert {tensor.sum().item() for tensor in expected.values()} <= {tensor.sum().item() for tensor in found.values()}
    half = load_model(checkpoint, "bfloat16")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def test_a_folder_without_model_or_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model here"):
        load_model(tmp_path)
    checkpoint = brought(tmp_path, tiny_model())
    state = tiny_model().state_dict()
    state.pop("gpt_neox.layers.1.mlp.dense_h_to_4h.weight")
    tiny_model().save_pretrained(checkpoint, state_dict=state)
    with pytest.raises(UserError, match=r"1 weights are missing, such as gpt_neox\.layers\.1\.mlp"):
        load_model(checkpoint)
    (checkpoint / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(UserError, match="its weights cannot be read"):
        load_model(checkpoint)
