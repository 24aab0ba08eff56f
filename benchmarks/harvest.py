"""Speed of reading activations beside the bare forward pass to the same layer, and what streaming makes training wait.

All ratios are medians of turns in one process, cached and bare one after the other; the models are drawn at random.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from ontogeny.activations.harvest import batches, open_checkpoint, read_activations, rows_of_tokens
from ontogeny.activations.reader import Reader
from ontogeny.activations.rows import write_rows
from ontogeny.activations.statistics import read_statistics, write_streamed_statistics
from ontogeny.activations.store import write_shard
from ontogeny.config.activations import HarvestSettings, RowsSettings
from ontogeny.config.dictionaries import RunSettings
from ontogeny.config.streamed import FILE, StreamedSettings
from ontogeny.crosscoder.step import Stepper
from ontogeny.files import crc32, write_json
from ontogeny.language_model.bridge import hooked_activations, logits
from ontogeny.memory import keep_freed_memory
from ontogeny.sites import Site, shard_name
from ontogeny.tokens import Contexts, read_tokens, write_tokens

VOCABULARY = 4096


class Shape(NamedTuple):
    """Sizes of a benchmark."""

    layers: int
    layer: int
    d_model: int
    context: int
    sites: int
    shards: int
    rows: int

    @property
    def hook(self) -> str:
        """Where activations are read."""
        return f"blocks.{self.layer}.hook_resid_post"


def main() -> None:
    """Measure, and write two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in zip(Shape._fields, (4, 2, 128, 128, 12, 16, 8192), strict=True):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--latents", type=int, default=2048)
    given = parser.parse_args()
    keep_freed_memory()
    transformers.utils.logging.disable_progress_bar()
    shape = Shape(*(getattr(given, name) for name in Shape._fields))
    sys.stdout.write(f"{shape}, {torch.get_num_threads()} threads, of which reading a shard takes one\n\n")
    with TemporaryDirectory() as folder:
        make_study(Path(folder), shape)
        threads = torch.get_num_threads()
        # As the rule that writes shards has.
        torch.set_num_threads(1)
        harvest_speed(Path(folder), shape, given.turns)
        torch.set_num_threads(threads)
        waiting(Path(folder), shape, given.latents)


def make_study(root: Path, shape: Shape) -> None:
    """Write tokens, rows, checkpoints and what a streamed study has in place of shards."""
    count = shape.shards * shape.rows // (shape.context - 1) + 1
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (count, shape.context)).astype(np.uint16)
    contexts = Contexts(tokens, np.full(count, shape.context, np.int32), np.arange(count, dtype=np.int32))
    words: dict[str, str | int] = {"split": "train", "tokenizer_hash": "0", "provenance": "{}", "bos_id": 0}
    sizes: dict[str, str | int] = {"vocab_size": VOCABULARY, "context_length": shape.context}
    write_tokens(root / "tokens/train.h5", [contexts], words | sizes)
    for number in range(shape.shards):
        chosen = RowsSettings(
            seed=0, split="train", number=number, rows_per_shard=shape.rows, rows=shape.rows, keep_first_position=False
        )
        write_rows(chosen, root / "tokens/train.h5", root / f"activations/rows/{shard_name('train', number)}.h5", None)
    for step in range(shape.sites):
        write_checkpoint(root / f"models/neox/step{step}", shape)
    write_json(root / "activations" / FILE, StreamedSettings(models="../models", tokens="../tokens").model_dump())


def write_checkpoint(folder: Path, shape: Shape) -> None:
    """Save a GPT-NeoX as it was drawn."""
    sizes = {"hidden_size": shape.d_model, "intermediate_size": 4 * shape.d_model, "num_hidden_layers": shape.layers}
    heads = {"num_attention_heads": shape.d_model // 32, "max_position_embeddings": shape.context}
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **sizes, **heads)).save_pretrained(folder)
    vocabulary = {f"t{number}": number for number in range(VOCABULARY)}
    first = next(iter(vocabulary))
    words = Tokenizer(models.WordLevel(vocabulary, first))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token=first, eos_token=first).save_pretrained(folder)
    record = {
        "model": "neox",
        "step": int(folder.name[4:]),
        "weights_crc32": {"w": crc32(folder / "model.safetensors")},
    }
    write_json(folder / "checkpoint.json", record)


def harvest_speed(root: Path, shape: Shape, turns: int) -> None:
    """Time ways to run one shard, in turns."""
    settings, path = HarvestSettings(), root / "tokens/train.h5"
    tokens = read_tokens(path)
    rows = rows_of_tokens(root / "activations/rows/train-00000.h5", tokens, path)
    model = open_checkpoint(settings, root / "models/neox/step0/checkpoint.json", tokens, path)
    work = list(batches(rows, settings.batch_contexts))
    inputs = [torch.from_numpy(tokens.tokens[batch.contexts, : batch.length].astype(np.int64)) for batch in work]
    site, out = Site("neox", 0, shape.hook), root / "written/train-00000.h5"

    plain = GPTNeoXForCausalLM.from_pretrained(root / "models/neox/step0").gpt_neox.eval()
    plain.layers = plain.layers[: shape.layer + 1]

    @torch.inference_mode()
    def bare() -> None:
        for tokens_BT in inputs:
            plain(tokens_BT, use_cache=False)

    def read() -> None:
        found = read_activations(model, tokens, work, len(rows.context), [shape.hook])
        write_shard(out, found[shape.hook], site, rows.hash, settings.dtype, {})

    def hooked() -> None:
        for tokens_BT in inputs:
            hooked_activations(model, tokens_BT, [shape.hook])

    def whole() -> None:
        for tokens_BT in inputs:
            logits(model, tokens_BT)

    times = in_turns([bare, hooked, read, whole], turns)
    seconds = [statistics.median(own) for own in times]
    sys.stdout.write("| | rows/s | CPU s | share of the bare rate |\n|---|---|---|---|\n")
    names = ("plain transformers, to the block", "to the hook, nothing kept", "shard read and written", "to the logits")
    for name, own, cost in zip(names, times, seconds, strict=True):
        share = statistics.median(first / other for first, other in zip(times[0], own, strict=True))
        sys.stdout.write(f"| {name} | {len(rows.context) / cost:,.0f} | {cost:.2f} | {share:.0%} |\n")


def in_turns(calls: Sequence[Callable[[], None]], turns: int) -> list[list[float]]:
    """Time each call in CPU seconds, in turns, the first turn left out."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 1):
        for call, own in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            own += [time.process_time() - start] if turn else []
    return times


def waiting(root: Path, shape: Shape, latents: int) -> None:
    """Time an epoch of streamed training, and how much of it waits for rows."""
    folder = root / "activations"
    sites = tuple(Site("neox", step, shape.hook) for step in range(shape.sites))
    shards = tuple(shard_name("train", number) for number in range(shape.shards))
    write_streamed_statistics(folder, sites, shards, None)
    names = {"dictionary": "crosscoder", "run": "run", "shards": shards, "sites": sites, "seed": 0}
    recipe = {"nonlinearity": "batchtopk", "k": 32, "sparsity": None, "batch_size": 1024, "precision": "bfloat16"}
    sizes = {"latents": latents, "rows": shape.shards * shape.rows}
    settings = RunSettings.model_validate({**names, **recipe, **sizes})
    reader = Reader(folder, sites, shards, settings.batch_size, 1, 0)
    measured = [read_statistics(folder / site.key / "statistics.json") for site in sites]
    stepper = Stepper(settings, reader.steps, reader.d_model, measured)
    start = time.monotonic()
    stepper.initialise(reader.read(0).raw_BSD)
    first = time.monotonic() - start
    with closing(reader.batches()) as rows:
        for batch in rows:
            stepper.step(batch.raw_BSD, False)
    whole = time.monotonic() - start
    waited, steps = reader.seconds_waited, whole - first - reader.seconds_waited
    sys.stdout.write(f"\nstreamed epoch of {settings.rows} rows: {whole:.1f} s; first group {first / whole:.0%}, ")
    sys.stdout.write(f"waited for later ones {waited / whole:.0%}, steps {steps / whole:.0%}\n")


if __name__ == "__main__":
    main()
