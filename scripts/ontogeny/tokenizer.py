"""A tokenizer as tokens are made with it: text to ids, and the BOS token."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from ontogeny.errors import UserError, first_line

CONFIG = "tokenizer_config.json"
"""File beside `tokenizer.json` that names the special tokens."""


class TextTokenizer(NamedTuple):
    """A tokenizer, and what the pipeline has to know of it."""

    tokenizer: Tokenizer
    """Reads text as nothing but text: what spells a special token becomes ordinary tokens."""
    bos_id: int
    """Id of the token that starts a context: BOS, or EOS where there is no BOS."""
    vocab_size: int
    """Ids are below it; a model may have more."""
    hash: str
    """Hash of `tokenizer.json` and of the BOS token."""


def read_tokenizer(file: Path) -> TextTokenizer:
    """Read a Hugging Face tokenizer folder by its `tokenizer.json`.

    Raises:
        UserError: one line for a folder that is missing, damaged or has neither BOS nor EOS token.
    """
    try:
        data = file.read_bytes()
        config = json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_buffer(data)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: no whole tokenizer ({first_line(error)}); delete {file.parent}/ and run again"
        ) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    token = first_token(config)
    bos_id = None if token is None else tokenizer.token_to_id(token)
    if token is None or bos_id is None:
        found = "names neither bos_token nor eos_token" if token is None else f"names {token!r}, which has no id"
        raise UserError(f"{file.parent / CONFIG}: {found}; contexts start with one of them: take another tokenizer")
    digest = hashlib.blake2b(data + b"\0" + token.encode(), digest_size=16).hexdigest()
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return TextTokenizer(tokenizer, bos_id, vocab_size, digest)


def first_token(config: Mapping[str, object]) -> str | None:
    """Name the token that starts a context by a tokenizer's config: BOS, or else EOS, as in Pythia."""
    for key in ("bos_token", "eos_token"):
        token = config.get(key)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            return content
    return None


def use_threads(threads: int) -> None:
    """Tell `tokenizers` how many threads it may use; it reads the environment at its first parallel call."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
