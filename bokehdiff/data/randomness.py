"""One source of chance: every sample, foreground and background is a function of (seed, n)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bokehdiff.errors import InputError

Purpose = Literal["sample", "foreground", "background"]
_STREAMS = {"sample": 0, "foreground": 1, "background": 2}
_KEY_LIMIT = 2**64  # Philox takes two words of 64 bits as its key


def generator_for(seed: int, n: int, *, purpose: Purpose = "sample") -> np.random.Generator:
    """The random numbers of item `n`: the same in every process, whatever was drawn before.

    A counter-based generator (Philox) keyed by (seed, n) costs nothing to start, so that sample 10^9 is as quick as
    sample 0. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.

    Args:
        seed: Seed of the whole run, in [0, 2^64).
        n: Number of the item, in [0, 2^64).
        purpose: Items of different purposes draw from streams that never meet.
    """
    for name, value in (("seed", seed), ("n", n)):
        if not 0 <= value < _KEY_LIMIT:
            raise InputError(f"{name} must be in [0, 2^64); got {value}")
    key = np.array([seed, n], dtype=np.uint64)
    counter = np.array([0, 0, 0, _STREAMS[purpose]], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
