"""A process of its own that runs models and sends what their hooks carry: it shares neither threads nor settings.

One thread computes, as in the rule that writes shards, so that what is streamed has the bytes of what is cached.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformer_lens.model_bridge import TransformerBridge

from ontogeny.activations.harvest import Batch, batches, open_checkpoint, read_activations, rows_of_tokens
from ontogeny.activations.planted import planted_activations
from ontogeny.activations.rows import read_rows
from ontogeny.activations.store import Floats, shard_arrays
from ontogeny.config.streamed import StreamedSettings
from ontogeny.errors import UserError
from ontogeny.sites import Site
from ontogeny.tokens import read_tokens

KEPT_MODELS = 2**30
"""Bytes of weights that a process keeps from one shard to the next; the model that it needs it keeps in any case."""


class Task(NamedTuple):
    """One shard of one checkpoint, at all hooks that are asked for."""

    folder: Path
    """Folder of `streamed.json`, rows and statistics."""
    settings: StreamedSettings
    """The content of `streamed.json`."""
    sites: tuple[Site, ...]
    """Sites of one checkpoint."""
    shard: str
    """Name of the shard, such as `train-00000`."""


class Models:
    """The language models that a process has loaded."""

    def __init__(self) -> None:
        """Begin without any."""
        self._loaded: dict[Path, TransformerBridge] = {}
        self._tokens = lru_cache(read_tokens)

    def read(self, task: Task) -> dict[str, Floats]:
        """Run the model of a task.

        Returns:
            Activations by hook (shape: [rows, d_model] each, float32).

        Raises:
            UserError: a file is missing or damaged, or files do not belong together.
        """
        tokens_path = task.folder / task.settings.tokens / f"{task.shard.partition('-')[0]}.h5"
        tokens = self._tokens(tokens_path)
        rows = rows_of_tokens(rows_file(task.folder, task.shard), tokens, tokens_path)
        checkpoint = task.folder / task.settings.models / task.sites[0].checkpoint / "checkpoint.json"
        if checkpoint not in self._loaded:
            self._make_room()
            self._loaded[checkpoint] = open_checkpoint(task.settings, checkpoint, tokens, tokens_path)
        work = _while_wanted(batches(rows, task.settings.batch_contexts))
        hooks = [site.hook for site in task.sites]
        return read_activations(self._loaded[checkpoint], tokens, work, len(rows.context), hooks)

    def _make_room(self) -> None:
        while sum(p.nbytes for model in self._loaded.values() for p in model.parameters()) > KEPT_MODELS:
            del self._loaded[next(iter(self._loaded))]


def rows_file(folder: Path, shard: str) -> Path:
    """Name the rows of a shard."""
    return folder / "rows" / f"{shard}.h5"


def arrays_of(task: Task, models: Models) -> list[dict[str, NDArray[Any]]]:
    """Make the arrays of a shard of each site of a task, rounded as they would be on disk.

    Raises:
        UserError: a file is missing or damaged, files do not belong together, or a value cannot be kept.
    """
    planted = task.settings.planted.get(task.sites[0].model)
    if planted is None:
        by_hook = models.read(task)
    else:
        rows = len(read_rows(rows_file(task.folder, task.shard)).context)
        by_hook = {site.hook: planted_activations(planted, site, task.shard, rows) for site in task.sites}
    paths = [task.folder / site.key / task.shard for site in task.sites]
    return [
        shard_arrays(path, by_hook.pop(site.hook), site, task.settings.dtype)
        for path, site in zip(paths, task.sites, strict=True)
    ]


def serve(connection: Connection) -> None:
    """Do tasks until there are no more, or nobody waits for them.

    The answer to a task is the text of a UserError; or, for each site, name, type and shape of its arrays, which
    follow as bytes.
    """
    models = Models()
    while True:
        task = connection.recv()
        try:
            found = arrays_of(task, models)
        except UserError as error:
            connection.send(str(error))
            continue
        connection.send([[(name, array.dtype.str, array.shape) for name, array in arrays.items()] for arrays in found])
        for arrays in found:
            for array in arrays.values():
                _send(connection, np.ascontiguousarray(array).data.cast("B"))


def _send(connection: Connection, left: memoryview) -> None:
    while left:
        left = left[os.write(connection.fileno(), left) :]


def _while_wanted(work: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches for as long as the process that asked for them is there."""
    parent = os.getppid()
    for batch in work:
        if os.getppid() != parent:
            raise BrokenPipeError
        yield batch


def main() -> None:
    """Serve the connection that is named by its descriptor, on the CUDA device that is named beside it."""
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        torch.cuda.set_device(int(sys.argv[2]))
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
