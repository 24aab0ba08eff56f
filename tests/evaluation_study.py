"""A tiny study for the tests of the evaluation, in the files that the commands exchange."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from ontogeny.activations.rows import read_rows, write_rows
from ontogeny.activations.statistics import write_statistics
from ontogeny.activations.store import write_shard
from ontogeny.config.activations import RowsSettings
from ontogeny.crosscoder.model import Crosscoder, save_crosscoder
from ontogeny.sites import Site, shard_name
from ontogeny.tokens import Contexts, write_tokens

# As commands do: another number of threads changes the last bits.
torch.set_num_threads(1)

HOOK = "blocks.1.hook_resid_post"
SITES = (Site("neox", 0, HOOK), Site("neox", 4, HOOK))
CONTEXT_LENGTH = 12
BOS = 0

TEXT = "The snow \u2603 fell \U0001f600 na\u00efve and slow over the old town, and nobody there had seen the like. "


def make_tokenizer(folder: Path) -> Tokenizer:
    """Train a byte-level tokenizer so small that most characters beyond ASCII are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT.encode("ascii", "ignore").decode()], trainer)
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer/tokenizer.json"))
    return tokenizer


def make_tokens(folder: Path, contexts: int = 9) -> Contexts:
    """Write contexts of different lengths, two to a document."""
    tokenizer = make_tokenizer(folder)
    ids = np.array(tokenizer.encode(TEXT * 20).ids)
    length = np.array([CONTEXT_LENGTH - n % 3 for n in range(contexts)], np.int32)
    tokens = np.zeros((contexts, CONTEXT_LENGTH), np.uint16)
    for n in range(contexts):
        tokens[n, 0] = BOS
        tokens[n, 1 : length[n]] = ids[n * 17 : n * 17 + length[n] - 1]
    made = Contexts(tokens, length, np.arange(contexts, dtype=np.int32) // 2)
    attributes: dict[str, str | int] = {
        "bos_id": BOS,
        "vocab_size": tokenizer.get_vocab_size(),
        "context_length": CONTEXT_LENGTH,
        "split": "heldout",
        "tokenizer_hash": "0",
        "provenance": "{}",
    }
    write_tokens(folder / "tokens/heldout.h5", [made], attributes)
    return made


def make_rows(folder: Path, shards: Sequence[int]) -> list[str]:
    """Choose rows of the heldout split, `shards` of them in each shard, the first as large as any."""
    for number, rows in enumerate(shards):
        settings = RowsSettings(
            seed=0, split="heldout", number=number, rows_per_shard=shards[0], rows=rows, keep_first_position=False
        )
        out = folder / f"activations/rows/{shard_name('heldout', number)}.h5"
        write_rows(settings, folder / "tokens/heldout.h5", out, None)
    return [shard_name("heldout", number) for number in range(len(shards))]


def make_shards(
    folder: Path, shards: Sequence[str], d_model: int, sites: Sequence[Site] = SITES
) -> NDArray[np.float32]:
    """Write random activations of unlike size and mean at every site; return them, (rows, S, D)."""
    parts = []
    for number, shard in enumerate(shards):
        rows = read_rows(folder / f"activations/rows/{shard}.h5")
        normal = np.random.default_rng(number).standard_normal((len(rows.context), len(sites), d_model))
        scale = np.linspace(1.0, 6.0, len(sites))[:, None]
        parts.append((normal * scale + 2.0 * scale).astype(np.float16).astype(np.float32))
        for s, site in enumerate(sites):
            path = folder / f"activations/{site.key}/{shard}.h5"
            write_shard(path, np.ascontiguousarray(parts[-1][:, s]), site, rows.hash, "float16", {})
    for site in sites:
        paths = [folder / f"activations/{site.key}/{shard}.h5" for shard in shards]
        write_statistics(paths, folder / f"activations/{site.key}/statistics.json", None)
    return np.concatenate(parts)


def make_models(folder: Path, d_model: int, sites: Sequence[Site]) -> None:
    """Save language models with weights so large that it matters what stands at a hook."""
    for seed, site in enumerate(dict.fromkeys(sites)):
        torch.manual_seed(seed)
        config = GPTNeoXConfig(
            vocab_size=270, hidden_size=d_model, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=CONTEXT_LENGTH, initializer_range=0.4, bos_token_id=BOS, eos_token_id=BOS,
        )  # fmt: skip
        model = GPTNeoXForCausalLM(config)
        checkpoint = folder / "models" / site.checkpoint
        model.save_pretrained(checkpoint)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>").save_pretrained(checkpoint)
        (checkpoint / "checkpoint.json").write_text(json.dumps({"parameters": model.num_parameters()}))


def identity(d_model: int, sites: Sequence[Site] = SITES) -> Crosscoder:
    """Build the dictionary that changes nothing: a latent for each direction and sign of each site."""
    width = len(sites) * d_model
    crosscoder = Crosscoder(sites, d_model, 2 * width, "relu")
    signed = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        crosscoder.W_dec.copy_(signed.reshape(-1, len(sites), d_model))
        crosscoder.W_enc.copy_(signed.T.reshape(len(sites), d_model, -1))
    return crosscoder


def constant(values_SD: NDArray[np.floating], sites: Sequence[Site] = SITES) -> Crosscoder:
    """Build the dictionary whose latents are silent and whose reconstruction is always `values_SD`."""
    crosscoder = Crosscoder(sites, values_SD.shape[1], 4, "relu")
    with torch.no_grad():
        crosscoder.b_dec.copy_(torch.from_numpy(values_SD))
    return crosscoder


def random_crosscoder(
    d_model: int, nonlinearity: str, gate: str = "shared", latents: int = 40, sites: Sequence[Site] = SITES
) -> Crosscoder:
    """Build a dictionary of random directions, with scales, centers and a latent that can never fire."""
    crosscoder = Crosscoder(sites, d_model, latents, nonlinearity, gate, k=5 if "topk" in nonlinearity else None)
    chance = torch.Generator().manual_seed(7)
    with torch.no_grad():
        crosscoder.W_dec.copy_(torch.randn(crosscoder.W_dec.shape, generator=chance) * 0.3)
        crosscoder.W_enc.copy_(crosscoder.W_dec.permute(1, 2, 0))
        crosscoder.b_dec.copy_(torch.randn(crosscoder.b_dec.shape, generator=chance) * 0.1)
        crosscoder.b_enc[3] = -1e6
        crosscoder.scales.copy_(torch.linspace(1.0, 0.2, len(sites)))
        crosscoder.centers.copy_(torch.randn(crosscoder.centers.shape, generator=chance))
        if crosscoder.threshold is not None:
            crosscoder.threshold.fill_(3.0)
    return crosscoder


def save(folder: Path, crosscoder: Crosscoder, dictionary: str = "crosscoder", run: str = "run") -> Path:
    """Save a dictionary as a trained run."""
    out = folder / "dictionaries" / dictionary / run
    out.mkdir(parents=True, exist_ok=True)
    description = {"dictionary": dictionary, "run": run, "sparsity": 5.0, "seed": 0, "tokens": 0, "study": {}}
    save_crosscoder(out, crosscoder, {**description, "versions": {}})
    return out


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a rule does."""
    file = Path(__file__).parents[1] / "scripts" / name
    return subprocess.run([sys.executable, file, *map(str, arguments)], capture_output=True, text=True, check=False)
