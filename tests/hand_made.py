"""A GPT-NeoX of two layers that was made by hand, with a dictionary whose features are what it was made of.

At `blocks.1.hook_resid_post` its residual stream holds, in directions of their own: the current token; the previous
token, by a head of layer 0 that attends one position back; how often token `RARE` and BOS stood in the context, over
its length, by a head that attends to all positions alike; and whether the current token has occurred before with
something after it, by an induction head of layer 1 that rests on BOS otherwise.
"""

import json
from pathlib import Path

import numpy as np
import torch
from evaluation_study import make_rows, make_tokenizer, save
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from ontogeny.activations.rows import read_rows
from ontogeny.activations.store import write_shard
from ontogeny.crosscoder.model import Crosscoder
from ontogeny.language_model.bridge import hooked_activations, load_model
from ontogeny.sites import Site
from ontogeny.tokens import Contexts, write_tokens

HOOK = "blocks.1.hook_resid_post"
SITES = (Site("made", 0, HOOK), Site("made", 4, HOOK))
VOCABULARY, BOS, RARE = 12, 0, 11
CONTEXT_LENGTH, D_MODEL, HEAD = 24, 64, 32
ROTARY = 8
CURRENT, PREVIOUS, INDUCTION, COUNT, POSITION, NOISE = range(6)
"""Features: of token 5, of a previous token 4, of induction, of `RARE` anywhere, of the position, and a silent one."""


def directions() -> dict[str, Tensor]:
    """Directions of the residual stream, of mean 0, so that layer norms only scale what they read."""
    eye_DD = torch.eye(D_MODEL)
    token_VD = eye_DD[0:24:2] - eye_DD[1:24:2]
    previous_VD = eye_DD[24:48:2] - eye_DD[25:48:2]
    single = [eye_DD[at] - eye_DD[at + 1] for at in (48, 50, 52)]
    return {"token": token_VD, "previous": previous_VD, **dict(zip(("seen", "rare", "bos"), single, strict=True))}


def make_model() -> GPTNeoXForCausalLM:
    rope = {"rope_theta": 10.0, "partial_rotary_factor": ROTARY / HEAD, "rope_type": "default"}
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4,
        max_position_embeddings=CONTEXT_LENGTH, rope_parameters=rope, bos_token_id=BOS, eos_token_id=BOS,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "layernorm.weight" in name or name.endswith("norm.weight") else 0.0)
        model.gpt_neox.embed_in.weight.copy_(directions()["token"])
        _look_back(model.gpt_neox.layers[0].attention)
        _induce(model.gpt_neox.layers[1].attention)
    return model


def _look_back(attention: torch.nn.Module) -> None:
    """Layer 0: head 0 copies the previous token, head 1 takes the mean over the context of `RARE` and BOS."""
    to, scale = directions(), np.sqrt(D_MODEL / 2)
    qkv, bias = attention.query_key_value.weight, attention.query_key_value.bias
    angle = 10.0 ** (-2 * torch.arange(ROTARY // 2) / ROTARY)
    half = ROTARY // 2
    bias[:half], bias[half:ROTARY] = 60 * angle.cos(), -60 * angle.sin()
    bias[HEAD : HEAD + half] = 10
    qkv[2 * HEAD : 2 * HEAD + VOCABULARY] = to["token"] / 2 / scale
    attention.dense.weight[:, :VOCABULARY] = to["previous"].T
    values = 3 * HEAD + 2 * HEAD
    qkv[values], qkv[values + 1] = to["token"][RARE] / 2 / scale, to["token"][BOS] / 2 / scale
    attention.dense.weight[:, HEAD], attention.dense.weight[:, HEAD + 1] = to["rare"], to["bos"]


def _induce(attention: torch.nn.Module) -> None:
    """Layer 1: head 0 looks for what came after the current token before, and rests on the first position."""
    to, place = directions(), ROTARY + torch.arange(VOCABULARY)
    qkv, bias = attention.query_key_value.weight, attention.query_key_value.bias
    qkv[place] = 6 * to["token"] / 2
    qkv[HEAD + place] = 6 * to["previous"] / 2
    rest = ROTARY + VOCABULARY
    bias[rest], qkv[HEAD + rest] = 42, to["token"][BOS] / 2
    first = np.sqrt(D_MODEL / 6)  # what the layer norm of the first position multiplies by: token, previous and BOS
    qkv[2 * HEAD], bias[2 * HEAD] = -to["token"][BOS] / 2 / first, 1
    attention.dense.weight[:, 0] = to["seen"]


def make_dictionary() -> Crosscoder:
    """Read every feature by halves at both sites."""
    to = directions()
    read = torch.stack([to["token"][5], to["previous"][4], to["seen"], to["rare"], -7.5 * to["bos"], 0 * to["bos"]]) / 2
    crosscoder = Crosscoder(SITES, D_MODEL, len(read), "relu")
    with torch.no_grad():
        crosscoder.W_enc_LSD.copy_(read[:, None].expand(-1, len(SITES), -1) / len(SITES))
        crosscoder.b_enc[POSITION], crosscoder.b_enc[NOISE] = 1, -1
        crosscoder.b_enc[INDUCTION] = -0.01
        crosscoder.W_dec.copy_(read[:, None].expand(-1, len(SITES), -1) + 0.1)
        crosscoder.W_dec[[PREVIOUS, INDUCTION], 0] = 0
    return crosscoder


def make_study(folder: Path, tokens: NDArray[np.integer]) -> Path:
    """Write tokens, rows, shards, checkpoints and the dictionary; return the folder of the run."""
    make_tokenizer(folder)
    count = len(tokens)
    length = np.full(count, CONTEXT_LENGTH, np.int32)
    attributes: dict[str, str | int] = {
        "bos_id": BOS, "vocab_size": VOCABULARY, "context_length": CONTEXT_LENGTH, "split": "heldout",
        "tokenizer_hash": "0", "provenance": "{}",
    }  # fmt: skip
    contexts = Contexts(tokens.astype(np.uint16), length, np.arange(count, dtype=np.int32))
    write_tokens(folder / "tokens/heldout.h5", [contexts], attributes)
    (shard,) = make_rows(folder, (count * (CONTEXT_LENGTH - 1),))
    rows = read_rows(folder / f"activations/rows/{shard}.h5")
    for site in SITES:
        checkpoint = folder / "models" / site.checkpoint
        model = make_model()
        model.save_pretrained(checkpoint)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>").save_pretrained(checkpoint)
        (checkpoint / "checkpoint.json").write_text(json.dumps({"parameters": model.num_parameters()}))
        x_BTD = hooked_activations(load_model(checkpoint), torch.from_numpy(tokens.astype(np.int64)), [HOOK])[HOOK]
        own_ND = np.ascontiguousarray(x_BTD.numpy()[rows.context, rows.position])
        write_shard(folder / f"activations/{site.key}/{shard}.h5", own_ND, site, rows.hash, "float16", {})
    return save(folder, make_dictionary())
