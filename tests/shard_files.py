"""Shards of one site or several, and what befalls them, for the tests of the store."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from disk_limits import file_size_limit

from ontogeny.activations.store import Floats, write_shard
from ontogeny.errors import UserError
from ontogeny.hdf5 import checksum
from ontogeny.sites import Site

SITE = Site("neox", 512, "blocks.2.hook_resid_post")
MIB = 2**20
SITES = tuple(SITE._replace(step=step) for step in (0, 8, 512))


def write(path: Path, activations_BD: Floats, dtype: str = "float16", site: Site = SITE, rows: str = "a1b2") -> Path:
    write_shard(path, activations_BD, site, rows, dtype, {"study": "default", "versions": "torch 2"})
    return path


def normal(rows: int, d_model: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, d_model)).astype(np.float32)


def bits(values: Floats) -> list[int]:
    return np.ascontiguousarray(values).view(np.uint32).ravel().tolist()


def refusal(act: Callable[[], object]) -> str:
    """Return the one line that `act` is refused with."""
    with pytest.raises(UserError) as error:
        act()
    line = str(error.value)
    assert "\n" not in line
    return line


def flip(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["activations"].id.get_offset() + 1001
    with path.open("rb+") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def foreign(path: Path, values: np.ndarray, **layout: object) -> None:
    """Write what another program might have written."""
    with h5py.File(path, "w") as file:
        file.create_dataset("activations", data=values, **layout)
        file.attrs.update({**SITE._asdict(), "dtype": "float16", "rows_hash": "a1b2", "crc32": checksum([values])})


def aligned_files(folder: Path, sites: tuple[Site, ...], **changed: str) -> dict[Site, Path]:
    paths = {site: folder / site.key / "train-00000.h5" for site in sites}
    for number, (site, path) in enumerate(paths.items()):
        write(path, normal(20, 4, seed=number), site=site, rows=changed.get(f"step{site.step}", "a1b2"))
    return paths


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Make `folder` a disk of 1 MiB where the system allows mounts, else limit the size of files to 1 MiB."""
    folder.mkdir()
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        with file_size_limit(MIB):
            yield
        return
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
