"""Decoders of features: rotation, neighbours, and tokens, against plain float64 and against the true logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_study import make_tokenizer
from numpy.typing import NDArray
from tiny_model import VOCABULARY, tiny_model
from tokenizers import Tokenizer
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ontogeny.evaluation.decoders import extreme_tokens, nearest, rotations
from ontogeny.language_model.bridge import last_logits, load_model
from ontogeny.language_model.direct_logits import direct_unembedding, in_residual_stream

TOKEN = 7
HOOKS = {"hook_resid_post": 16, "hook_attn_out": 16, "hook_mlp_out": 16, "mlp.hook_post": 24, "attn.hook_z": 16}
"""Hooks of a block, and their widths."""


WEIGHTS = {
    GPTNeoXForCausalLM: {
        "norm": "gpt_neox.final_layer_norm.weight",
        "mlp.hook_post": "gpt_neox.layers.1.mlp.dense_4h_to_h.weight",
        "attn.hook_z": "gpt_neox.layers.1.attention.dense.weight",
    },
    GPT2LMHeadModel: {
        "norm": "transformer.ln_f.weight",
        "mlp.hook_post": "transformer.h.1.mlp.c_proj.weight",
        "attn.hook_z": "transformer.h.1.attn.c_proj.weight",
    },
    GemmaForCausalLM: {
        "norm": "model.norm.weight",
        "mlp.hook_post": "model.layers.1.mlp.down_proj.weight",
        "attn.hook_z": "model.layers.1.self_attn.o_proj.weight",
    },
}
"""Names of weights in families: with a LayerNorm; with that and matrices kept the other way round; with an RMSNorm whose
weights are off by one."""


def test_rotation_by_hand() -> None:
    W_BSD = torch.tensor([[[1.0, 0.0], [2.0, 2.0], [-3.0, 0.0]], [[0.0, 1.0], [0.0, 0.0], [0.0, 5.0]]])
    half = 0.5**0.5
    expected = [[[1.0, half, -1.0], [half, 1.0, -half], [-1.0, -half, 1.0]], [[1.0, np.nan, 1.0], [np.nan] * 3, [1.0, np.nan, 1.0]]]  # fmt: skip
    torch.testing.assert_close(rotations(W_BSD), torch.tensor(expected, dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize("block", [1, 40 * 7, 2**24])
def test_neighbours_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("ontogeny.evaluation.decoders.BLOCK", block)
    chance = torch.Generator().manual_seed(0)
    W_LV = torch.randn(40, 6, generator=chance) * torch.rand(40, 1, generator=chance) * 5
    W_LV[11] = 0
    W_LV[30] = 2 * W_LV[4]
    alive_L = torch.rand(40, generator=chance) < 0.7
    alive_L[[11, 30]] = True
    alive_L[4] = False
    latents, cosines = (torch.cat(parts) for parts in zip(*nearest(W_LV, alive_L, 5), strict=True))
    W = W_LV.double().numpy()
    with np.errstate(invalid="ignore"):
        cosine_LL = W @ W.T / np.outer(np.linalg.norm(W, axis=1), np.linalg.norm(W, axis=1))
    for latent in range(40):
        others = [other for other in range(40) if alive_L[other] and other not in (latent, 11)]
        expected = sorted(others, key=lambda other: -cosine_LL[latent, other])[:5]
        if latent == 11:
            assert torch.isinf(cosines[latent]).all(), "a feature without a decoder is near to none"
            continue
        assert latents[latent].tolist() == expected
        assert cosines[latent].tolist() == pytest.approx(cosine_LL[latent, expected], rel=1e-5)
    assert latents[4, 0] == 30, "a dead feature has live neighbours"
    assert not (latents[:11] == 4).any(), "and is nobody's"


def test_fewer_features_than_neighbours() -> None:
    latents, cosines = next(nearest(torch.eye(3) + 1, torch.tensor([True, True, False]), 8))
    assert torch.isfinite(cosines).tolist() == [[True, False, False]] * 2 + [[True, True, False]]
    assert latents[:2, 0].tolist() == [1, 0]


def saved(folder: Path, model: PreTrainedModel) -> TransformerBridge:
    """Save a model with a final norm that matters, and load it as rules do."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_f" in name:
                parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.5)
    make_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    model.save_pretrained(folder / "model")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>").save_pretrained(folder / "model")
    return load_model(folder / "model")


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=12, n_embd=16, n_layer=3, n_head=2, n_inner=24, initializer_range=0.3, bos_token_id=0, eos_token_id=0))  # fmt: skip


def gemma() -> GemmaForCausalLM:
    torch.manual_seed(0)
    return GemmaForCausalLM(GemmaConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, head_dim=8, max_position_embeddings=12, initializer_range=0.3))  # fmt: skip


def plain(model: PreTrainedModel, hook: str, v_BD: Tensor) -> NDArray[np.float64]:
    """Compute direct logits from the weights as their libraries keep them, in float64."""
    weights = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    names = WEIGHTS[type(model)]
    v = v_BD.double().numpy()
    if hook in names:
        matrix = weights[names[hook]]
        v = v @ (matrix if isinstance(model, GPT2LMHeadModel) else matrix.T)
    if isinstance(model, GemmaForCausalLM):
        v = v * (1 + weights[names["norm"]])
    else:
        v = (v - v.mean(axis=1, keepdims=True)) * weights[names["norm"]]
    logits: NDArray[np.float64] = v @ model.get_output_embeddings().weight.detach().double().numpy().T
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("make", [tiny_model, gpt2, gemma])
def test_direct_logits_are_those_of_the_weights(tmp_path: Path, make: type[PreTrainedModel]) -> None:
    model = make()
    bridge = saved(tmp_path, model)
    unembedding_DV = direct_unembedding(bridge, VOCABULARY)
    for hook, width in HOOKS.items():
        v_BD = torch.randn(5, width, generator=torch.Generator().manual_seed(2))
        carried_BD = in_residual_stream(bridge, f"blocks.1.{hook}", v_BD)
        assert carried_BD is not None
        expected = plain(model, hook, v_BD)
        np.testing.assert_allclose((carried_BD @ unembedding_DV).numpy(), expected, rtol=1e-4, atol=1e-5)
        (found,) = extreme_tokens(carried_BD, unembedding_DV, 4)
        assert found.promoted.tolist() == np.argsort(-expected)[:, :4].tolist()
        assert found.suppressed.tolist() == np.argsort(expected)[:, :4].tolist()
        np.testing.assert_allclose(found.suppressed_logits.numpy(), np.sort(expected)[:, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("hook", "width"), HOOKS.items())
def test_direct_logits_are_what_the_true_logits_gain(tmp_path: Path, hook: str, width: int) -> None:
    """A block that follows adds nothing here, and what is added does not change the scale of the norm."""
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[TOKEN] *= 5
        for name, parameter in model.gpt_neox.layers[2].named_parameters():
            if "dense." in name or "dense_4h_to_h" in name:
                parameter.zero_()
    bridge = saved(tmp_path, model)
    tokens_BT = torch.tensor([[0, 5, 9, 2]])
    seen: list[Tensor] = []
    last_logits(bridge, tokens_BT, {"ln_final.hook_in": lambda x: seen.append(x) or x})  # type: ignore[func-returns-value]
    x_D = seen[0][0, -1]
    centred_D = x_D - x_D.mean()
    sigma = (centred_D.square().mean() + 1e-5).sqrt()

    unembedding_DV = direct_unembedding(bridge, VOCABULARY)
    to_residual_DD = in_residual_stream(bridge, f"blocks.1.{hook}", torch.eye(width))
    assert to_residual_DD is not None
    wanted_D = to_residual_DD @ (unembedding_DV[:, TOKEN] - unembedding_DV.mean(1))
    along_D = to_residual_DD @ centred_D
    v_D = wanted_D - along_D * (wanted_D @ along_D) / (along_D @ along_D)

    def pushed(by: float) -> Tensor:
        return last_logits(bridge, tokens_BT, {f"blocks.1.{hook}": lambda own: own + by * v_D})[0].double()

    gained_V = (pushed(0.01) - pushed(-0.01)) / 0.02
    gained_V -= gained_V.mean()
    told = in_residual_stream(bridge, f"blocks.1.{hook}", v_D[None])
    assert told is not None
    torch.testing.assert_close((told @ unembedding_DV)[0].double(), gained_V * sigma, rtol=5e-3, atol=5e-3)
    (found,) = extreme_tokens(told, unembedding_DV, 1)
    assert found.promoted.tolist() == [[TOKEN]] == [[int(gained_V.argmax())]]


def test_hooks_without_a_linear_way_have_no_logits(tmp_path: Path) -> None:
    bridge = saved(tmp_path, tiny_model())
    for hook in ("blocks.1.attn.hook_q", "blocks.1.mlp.hook_pre", "blocks.1.ln1.hook_normalized", "hook_embed"):
        assert in_residual_stream(bridge, hook, torch.ones(2, 16)) is None
