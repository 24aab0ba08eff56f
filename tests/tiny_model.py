"""A tokenizer, tokens and models small enough to make in a moment."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from ontogeny.tokens import Contexts, write_tokens

VOCABULARY = 32

torch.set_num_threads(1)


def write_tokenizer(folder: Path, vocabulary: int = VOCABULARY) -> Path:
    folder.mkdir(parents=True)
    words = {"<|endoftext|>": 0} | {f"word{n}": n for n in range(1, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text("{}")
    return folder / "tokenizer.json"


def counting_tokens(contexts: int, length: int, seed: int) -> NDArray[np.uint16]:
    """Contexts that count upwards from a random number: a model can learn all but their first token."""
    start = np.random.default_rng(seed).integers(1, VOCABULARY, (contexts, 1))
    tokens = (start + np.arange(length) - 1) % (VOCABULARY - 1) + 1
    tokens[:, 0] = 0
    return tokens.astype(np.uint16)


def write_contexts(
    path: Path,
    tokens: NDArray[np.uint16],
    length: NDArray[np.int32] | None = None,
    document: NDArray[np.int32] | None = None,
) -> Path:
    """Write contexts, which are full and of documents of their own where nothing else is said."""
    contexts, positions = tokens.shape
    length = np.full(contexts, positions, np.int32) if length is None else length
    document = np.arange(contexts, dtype=np.int32) if document is None else document
    attributes = {
        "bos_id": 0,
        "vocab_size": VOCABULARY,
        "context_length": positions,
        "split": "train",
        "tokenizer_hash": "none",
        "provenance": "{}",
    }
    write_tokens(path, [Contexts(tokens, length, document)], attributes)
    return path


def tiny_model(seed: int = 0, parallel: bool = True) -> GPTNeoXForCausalLM:
    """A GPT-NeoX whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        initializer_range=0.3,
        use_parallel_residual=parallel,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )
    return GPTNeoXForCausalLM(config).eval()
