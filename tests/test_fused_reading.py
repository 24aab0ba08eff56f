"""Activations outside of attention are read with the fused attention of Hugging Face, and are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import llama
from tiny_model import VOCABULARY, tiny_model, write_tokenizer
from torch import Tensor
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ontogeny.language_model.bridge import hooked_activations, load_model, token_losses

HOOKS = [
    "blocks.0.hook_resid_pre",
    "blocks.0.mlp.hook_post",
    "blocks.0.hook_mlp_out",
    "blocks.0.hook_resid_post",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_post",
]
INSIDE = "blocks.1.attn.hook_z"


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, initializer_range=0.3, **sizes)).eval()


def gemma2() -> Gemma2ForCausalLM:
    """Its scores are capped, which the fused kernel cannot do."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "num_key_value_heads": 1,
    }
    config = Gemma2Config(
        vocab_size=VOCABULARY, num_attention_heads=2, query_pre_attn_scalar=8, attn_logit_softcapping=2.0,
        initializer_range=0.3, **shape,
    )  # fmt: skip
    return Gemma2ForCausalLM(config).eval()


MODELS = {
    "parallel": tiny_model,
    "sequential": lambda: tiny_model(parallel=False),
    "gpt2": gpt2,
    "llama": llama,
    "gemma2": gemma2,
}


@pytest.fixture(params=MODELS)
def plain(request: pytest.FixtureRequest) -> PreTrainedModel:
    made: PreTrainedModel = MODELS[request.param]()
    return made


@pytest.fixture
def model(plain: PreTrainedModel, tmp_path: Path) -> TransformerBridge:
    write_tokenizer(tmp_path / "checkpoint")
    plain.save_pretrained(tmp_path / "checkpoint")
    return load_model(tmp_path / "checkpoint")


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the queries of every call of the fused kernel."""
    calls: list[int] = []
    kernel = functional.scaled_dot_product_attention

    def counted(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(query.shape[-2])
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    return calls


def test_what_is_read_with_fused_attention_is_the_same(
    plain: PreTrainedModel, model: TransformerBridge, fused_calls: list[int]
) -> None:
    tokens_BT = torch.randint(0, VOCABULARY, (5, 11), generator=torch.Generator().manual_seed(1))
    found = hooked_activations(model, tokens_BT, HOOKS)
    calls = [11, 11] if plain._supports_sdpa else []
    assert fused_calls == calls
    unfused: dict[str, Tensor] = {}

    def keep(hook: str) -> Callable[[Tensor], Tensor]:
        return lambda x: unfused.setdefault(hook, x)

    token_losses(model, tokens_BT, {hook: keep(hook) for hook in HOOKS})
    assert fused_calls == calls, "for patches, it is transformer-lens that computes attention"
    mixed = hooked_activations(model, tokens_BT, [INSIDE, *HOOKS])
    assert list(mixed) == [*found, INSIDE]
    for hook in HOOKS:
        assert (found[hook] - unfused[hook]).abs().max() < 1e-5 * unfused[hook].abs().max(), hook
        assert torch.equal(found[hook], mixed[hook]), hook
    with torch.no_grad():
        expected = plain(input_ids=tokens_BT, output_hidden_states=True).hidden_states[1]
    assert (found["blocks.0.hook_resid_post"] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_model_is_as_before_after_it_was_read(model: TransformerBridge, fused_calls: list[int]) -> None:
    tokens_BT = torch.arange(6).view(1, 6)
    losses = token_losses(model, tokens_BT)
    hooked_activations(model, tokens_BT, HOOKS[:1])
    with pytest.raises(IndexError):
        hooked_activations(model, tokens_BT + 1000, HOOKS)
    del fused_calls[:]
    assert torch.equal(token_losses(model, tokens_BT), losses)
    assert fused_calls == []
