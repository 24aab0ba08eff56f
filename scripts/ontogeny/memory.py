"""How a command keeps house with memory: when garbage is looked for, and what becomes of memory that is freed."""

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of two parameters of glibc's `mallopt`."""

THRESHOLD = (700, 10, 10)
"""Python's own thresholds of garbage collection."""

RARELY = 10**6
"""Objects made between two collections while libraries are imported."""


def collect_rarely() -> None:
    """Look for garbage after every million objects only, until `collect_as_usual`.

    Importing PyTorch and transformers makes a million objects that stay as long as the process: looking among them for
    garbage after every 700 takes a quarter of the import, which is most of what a short command takes.
    """
    gc.set_threshold(RARELY)


def collect_as_usual() -> None:
    """Look for garbage as Python does by default, though never again among what was imported."""
    gc.freeze()
    gc.set_threshold(*THRESHOLD)


def keep_freed_memory() -> None:
    """Keep freed memory for what is made next; elsewhere than under glibc it goes where it went before.

    By default glibc returns the memory of a freed tensor to the system, which clears every page that the next tensor
    touches; while two threads train a small model that is a quarter of the time.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(M_MMAP_THRESHOLD, 2**25)
