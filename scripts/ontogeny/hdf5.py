"""HDF5 files of contiguous arrays: written whole, read as memory maps, refused when damaged."""

import io
import mmap
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ontogeny.errors import UserError
from ontogeny.files import atomic

if TYPE_CHECKING:
    from typing_extensions import Buffer

MEND = "delete it and run again"
"""What to do about a damaged file: Snakemake makes what is missing."""

PAGE = 4096
"""Bytes that the start of a long array is a multiple of."""


class _Sink(io.FileIO):
    """A file that remembers the first error of writing instead of raising it.

    HDF5 loses errors of the writes that it puts off until it closes, and crashes after some; here it meets none.
    """

    failure: OSError | None = None

    def write(self, data: "Buffer", /) -> int:
        left = memoryview(data)
        while left and self.failure is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return 0


class Arrays(NamedTuple):
    """The open file: its arrays as memory maps and its attributes."""

    path: Path
    arrays: dict[str, NDArray[Any]]
    attributes: dict[str, str | int]

    def verify(self) -> None:
        """Read every byte and compare the checksum with the one that was stored.

        Raises:
            UserError: bytes have changed since they were written.
        """
        found, written = checksum(self.arrays.values()), self.attributes.get("crc32", "")
        if found != written:
            raise UserError(f"{self.path}: its bytes have changed on disk (checksum {found}, not {written}); {MEND}")


def checksum(arrays: Iterable[NDArray[Any]]) -> str:
    """CRC-32 of the bytes of arrays one after the other, as eight hexadecimal digits."""
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return f"{value:08x}"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, str | int]) -> None:
    """Write arrays and attributes as one HDF5 file, whole or not at all; equal content gives equal bytes.

    The layout of HDF5 1.10 carries checksums of all headers, and text of fixed length lies in them; `crc32` covers
    the arrays, in the order given. So no byte that is read can change unnoticed. Arrays go straight to the disk, from
    their memory or from the memory map that they are; long ones begin on a page.

    Raises:
        UserError: the disk is full.
    """
    stored = {**attributes, "crc32": checksum(arrays.values())}
    with atomic(path) as temporary, _Sink(temporary, "w+") as sink:
        with h5py.File(sink, "w", libver="v110", alignment_threshold=PAGE, alignment_interval=PAGE) as file:
            for name, value in stored.items():
                file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
        if sink.failure is not None:
            raise sink.failure


def open_arrays(path: Path, dtypes: Mapping[str, tuple[str, ...]], attributes: Iterable[str]) -> Arrays:
    """Open a file of `write_arrays` as one memory map.

    Files are never changed once they have their name, so that locks, which some cluster file systems refuse, are left
    out.

    Args:
        path: the file.
        dtypes: arrays that it must hold, with the types that each may have.
        attributes: names of attributes that it must have.

    Raises:
        UserError: one line for a file that is missing, no HDF5, cut short, or lacks an array or an attribute.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; run the rule that writes it")
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = {name: _attribute(value) for name, value in file.attrs.items()}
            for name in attributes:
                if name not in found:
                    raise UserError(f"{path}: attribute {name!r} is missing; {MEND}")
            places = {name: _place(path, file, name, allowed) for name, allowed in dtypes.items()}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no whole HDF5 file ({reason}); {MEND}") from None
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {name: np.ndarray(shape, dtype, pages, offset) for name, (shape, dtype, offset) in places.items()}
    return Arrays(path, arrays, found)


def _place(
    path: Path, file: h5py.File, name: str, allowed: tuple[str, ...]
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Find the shape, the type and the byte offset of a dataset."""
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: dataset {name!r} is missing; {MEND}")
    offset = dataset.id.get_offset()
    if dataset.dtype.name not in allowed or offset is None:
        layout = "contiguous" if offset is not None else "chunked or empty"
        expected = " or ".join(allowed)
        raise UserError(f"{path}: dataset {name!r} is {layout} {dataset.dtype}, not contiguous {expected}; {MEND}")
    return dataset.shape, dataset.dtype, offset


def _attribute(value: object) -> str | int:
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, str) else int(value)  # type: ignore[call-overload]
