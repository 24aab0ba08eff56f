"""Safetensors files, written whole or not at all, and with the same word about a full disk as all others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ontogeny.files import atomic


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: str) -> None:
    """Write tensors as one safetensors file.

    Args:
        path: the file.
        tensors: contiguous tensors of any shape, on the CPU.
        metadata: JSON about them. One text alone, because safetensors writes several of them in no fixed order.

    Raises:
        UserError: the disk is full.
    """
    with atomic(path) as temporary, system_errors():
        save_file(dict(tensors), temporary, metadata={"ontogeny": metadata})


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise what safetensors could not write as the error of the system that it was, so that a full disk is known.

    Raises:
        OSError: safetensors failed in the block.
    """
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
