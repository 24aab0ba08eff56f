"""Randomness from counters: a draw depends on (seed, purpose, counters) and on nothing that was drawn before."""

import hashlib

import numpy as np


def derived_seed(seed: int, purpose: str, *counters: int | str) -> int:
    """Derive a seed of 63 bits, for generators of other libraries."""
    digest = hashlib.blake2b(repr((seed, purpose, *counters)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, purpose: str, *counters: int | str) -> np.random.Generator:
    """Make the generator that belongs to a seed, a purpose such as `rows` and counters such as a shard's number."""
    return np.random.Generator(np.random.Philox(derived_seed(seed, purpose, *counters)))
