"""The state of a training run on disk: saved whole, checked when loaded, removed when the run is finished."""

import json
import logging
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ontogeny.tensors import write_tensors

log = logging.getLogger("ontogeny")

KEPT = 2
"""States that are kept: if the last one turns out damaged, the one before it is there."""


class Interrupted(SystemExit):
    """Training was asked to stop and has saved its state.

    It ends the process with code 75 (EX_TEMPFAIL), by which a scheduler tells `again` from `failed`.
    """

    def __init__(self) -> None:
        super().__init__(75)


class SavedState(NamedTuple):
    """What a run needs to go on as if it had never stopped."""

    step: int
    """Optimiser steps done."""
    tensors: dict[str, Tensor]
    """Weights, moments of the optimiser, and counters."""
    rows: list[dict[str, str]]
    """Rows of the training log so far."""


class StateFolder:
    """The folder of a run's states, `state-<step>.safetensors`."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Name the folder; nothing is read or written yet.

        Args:
            folder: where states are kept; it belongs to this run alone.
            fingerprint: hash of everything that decides the run's result; a state with another one is of no use.
        """
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, state: SavedState) -> None:
        """Write a state and let go of the one before the one before.

        Raises:
            UserError: the disk is full; the states before are kept.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        header = {
            "fingerprint": self.fingerprint,
            "step": state.step,
            "crc32": _checksum(tensors),
            "rows": state.rows,
        }
        write_tensors(self.folder / f"state-{state.step:09d}.safetensors", tensors, json.dumps(header))
        for file in self._files()[KEPT:]:
            file.unlink()

    def load(self) -> SavedState | None:
        """Load the last state that is whole; None if there is none, or if it belongs to another run."""
        files = self._files()
        for file in files:
            try:
                header, tensors = _read(file)
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                log.warning("%s: damaged (%s); looking for the state before it", file, error)
                continue
            if header["fingerprint"] != self.fingerprint:
                log.warning("%s: made by other settings, inputs or code; training starts anew", file)
                self.remove()
                return None
            return SavedState(int(header["step"]), tensors, header["rows"])
        if files:
            log.warning("%s: no state is whole; training starts anew", self.folder)
        return None

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """List states, the last one first."""
        return sorted(self.folder.glob("state-*.safetensors"), reverse=True)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM has arrived since; the process goes on until it asks."""
    arrived = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: arrived
    finally:
        signal.signal(signal.SIGTERM, before)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["ontogeny"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    found = _checksum(tensors)
    if found != header["crc32"]:
        raise ValueError(f"checksum {found}, not {header['crc32']}")
    return header, tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the bytes of tensors in the order of their names."""
    value = 0
    for _, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.numpy().data, value)
    return f"{value:08x}"
