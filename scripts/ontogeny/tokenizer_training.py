"""A tokenizer trained on the corpus, or one that exists, as a Hugging Face folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import snapshot_download
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ontogeny.command import log, progress
from ontogeny.config.corpus import (
    TOKENIZER_FILES,
    GgufTokenizer,
    PretrainedTokenizer,
    TokenizerSettings,
    TrainedTokenizer,
)
from ontogeny.errors import UserError, first_line
from ontogeny.files import atomic_folder, write_json
from ontogeny.provenance import provenance
from ontogeny.splits import read_split, text_batches
from ontogeny.tokenizer import CONFIG, first_token, read_tokenizer, use_threads

TOKENS_MAP = "special_tokens_map.json"
"""File beside `tokenizer.json` in which older folders name the special tokens."""

MODEL_CONFIG = "config.json"
"""File of a model, which knows the ids of BOS and EOS."""

CLASS = "PreTrainedTokenizerFast"
"""Class of `transformers` that takes `tokenizer.json` as it is; others rebuild it and may add tokens."""

END_OF_TEXT = "<|endoftext|>"
"""BOS and EOS token of a trained tokenizer; its id is 0."""


def write_tokenizer(
    settings: TokenizerSettings,
    corpus: Path,
    file: Path,
    study: Path | None,
    gguf: Path | None = None,
    threads: int = 1,
) -> dict[str, float]:
    """Write the folder of a tokenizer, whole or not at all.

    Args:
        settings: train one, or copy one.
        corpus: `manifest.json` of the corpus.
        file: the `tokenizer.json` to write; its folder becomes the tokenizer.
        study: the study's `study.json`.
        gguf: the GGUF file, if it was found already; its package need not be here then.
        threads: CPU threads.

    Returns:
        How many entries the vocabulary has.

    Raises:
        UserError: the corpus or the pretrained tokenizer cannot be read, or there is neither BOS nor EOS token.
    """
    use_threads(threads)
    with atomic_folder(file.parent) as folder:
        if isinstance(settings, TrainedTokenizer):
            train_tokenizer(settings.vocab_size, corpus).save(str(folder / file.name))
            write_json(folder / CONFIG, _trained_config())
        else:
            with _existing(settings, gguf) as source:
                _copy(settings, source, folder / file.name)
        tokenizer = read_tokenizer(folder / file.name)
        value = {
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "tokenizer_hash": tokenizer.hash,
            "source": settings.model_dump(mode="json"),
            "provenance": provenance(study),
        }
        write_json(folder / "manifest.json", value)
    return {"vocabulary": tokenizer.vocab_size}


def train_tokenizer(vocab_size: int, corpus: Path) -> Tokenizer:
    """Train a byte-level BPE (as GPT-2's; Radford et al. 2019, section 2.2) on the training documents.

    Ids: 0 is `<|endoftext|>`, 1 to 256 are the bytes, then come the merges. Text that spells `<|endoftext|>` is text.

    Args:
        vocab_size: entries wanted; there are fewer where the text has no more pairs to merge.
        corpus: `manifest.json` of the corpus.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    data = read_split(corpus, "train")
    tokenizer.train_from_iterator(progress(text_batches(data), len(data), "documents", len), trainer, len(data))
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        log.warning("the text has pairs for %d entries only, not %d (tokenizer.vocab_size)", found, vocab_size)
    return tokenizer


def _trained_config() -> dict[str, object]:
    return {
        "tokenizer_class": CLASS,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }


@contextmanager
def _existing(settings: PretrainedTokenizer | GgufTokenizer, gguf: Path | None) -> Iterator[Path]:
    """Yield the folder of a tokenizer that exists already."""
    if isinstance(settings, PretrainedTokenizer):
        yield _pretrained_folder(settings)
        return
    # Imported here, since it takes seconds that no other tokenizer needs.
    from ontogeny.language_model.gguf import save_gguf_tokenizer

    with TemporaryDirectory() as folder:
        save_gguf_tokenizer(gguf or settings.file(), Path(folder))
        yield Path(folder)


def _copy(settings: PretrainedTokenizer | GgufTokenizer, source: Path, file: Path) -> None:
    """Copy `tokenizer.json` byte for byte, and name BOS (EOS where there is none) in the config beside it."""
    name = settings.name if isinstance(settings, PretrainedTokenizer) else settings.path
    key = "name" if isinstance(settings, PretrainedTokenizer) else "path"
    try:
        data = (source / "tokenizer.json").read_bytes()
        tokenizer = Tokenizer.from_buffer(data)
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer.{key}: no fast tokenizer in {name!r} ({first_line(error)}); expected a tokenizer.json, "
            "as save_pretrained of `transformers` writes it"
        ) from None
    config = {item: value for part in (TOKENS_MAP, CONFIG) for item, value in _read_json(source / part).items()}
    token = first_token(config) or _token_by_id(source, tokenizer)
    if token is None or tokenizer.token_to_id(token) is None:
        found = "has neither a BOS nor an EOS token" if token is None else f"names {token!r}, which has no id, as BOS"
        raise UserError(
            f"tokenizer.{key}: {name!r} {found}, and contexts start with one; "
            f"name it as bos_token in its {CONFIG}, or take another tokenizer"
        )
    file.write_bytes(data)
    kept = {item: value for item, value in config.items() if item not in ("auto_map", "name_or_path", "tokenizer_file")}
    write_json(file.parent / CONFIG, {**kept, "tokenizer_class": CLASS, "bos_token": token})


def _pretrained_folder(settings: PretrainedTokenizer) -> Path:
    """Name the local folder, or fetch the few files of a hub id into the hub's own cache."""
    if Path(settings.name).is_dir():
        return Path(settings.name)
    try:
        return Path(snapshot_download(settings.name, revision=settings.revision, allow_patterns=list(TOKENIZER_FILES)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer.name: {settings.name!r} is no folder and cannot be read from the hub: {first_line(error)}; "
            "check name, revision, the network and, for a gated one, `hf auth login`"
        ) from None


def _token_by_id(source: Path, tokenizer: Tokenizer) -> str | None:
    """Find BOS or EOS by the ids in a model's `config.json`, the only place where GPT-2 names them."""
    config = _read_json(source / MODEL_CONFIG)
    ids = [config[key] for key in ("bos_token_id", "eos_token_id") if isinstance(config.get(key), int)]
    return next((token for token in map(tokenizer.id_to_token, ids) if token is not None), None)


def _read_json(file: Path) -> dict[str, Any]:
    """Read the values of a JSON object that are not null; nothing where there is no file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file}: no JSON: {error}") from None
    return {key: item for key, item in value.items() if item is not None}
