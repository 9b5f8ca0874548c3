"""One source of chance: every sample, foreground and background is a function of (seed, n)."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from bokehdiff.errors import InputError

Purpose = Literal[
    "sample", "foreground", "background", "pair", "source", "told", "grain", "picture", "crop", "turn", "buffer"
]
_STREAMS: dict[Purpose, int] = {
    "sample": 0, "foreground": 1, "background": 2, "pair": 3, "source": 4, "told": 5, "grain": 6, "picture": 7,
    "crop": 8, "turn": 9, "buffer": 10,
}  # fmt: skip
_KEY_LIMIT = 2**64  # Philox takes two words of 64 bits as its key
_MASK = _KEY_LIMIT - 1
_ROUNDS = 6  # of the Feistel network: four already pass for random (Luby and Rackoff 1988), two more cost nothing


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


def shuffled(n: int, size: int, *, seed: int) -> int:
    """Item `n` of an endless row of shuffled decks of `size` cards each, without any deck in memory.

    Concretely, the items n = e * size ... (e + 1) * size - 1 are a permutation of 0 ... size - 1, keyed by (seed, e): a
    Feistel network on the next power of 4, walked until it lands below `size` (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains").

    Args:
        n: Place in the row, from 0.
        size: Cards of a deck, at least 1.
        seed: Another seed gives other shuffles.
    """
    if size < 1 or n < 0:
        raise InputError(f"a deck needs at least 1 card and a place from 0 on; got {size} cards, place {n}")
    deck, card = divmod(n, size)
    half = ((size - 1).bit_length() + 1) // 2
    keys = [_mixed(seed, deck, turn) for turn in range(_ROUNDS)]
    while True:
        card = _encrypted(card, keys, half)
        if card < size:
            return card


@lru_cache(maxsize=4)
def _through_buffer(size: int, buffer: int, seed: int, deck: int) -> tuple[int, ...]:
    rng = generator_for(seed, deck, purpose="buffer")
    waiting, order = list(range(min(buffer, size))), []
    for coming in range(len(waiting), size):
        drawn = int(rng.integers(len(waiting)))
        order.append(waiting[drawn])
        waiting[drawn] = coming
    rng.shuffle(waiting)
    return (*order, *waiting)


def shuffled_in_buffer(n: int, size: int, buffer: int, *, seed: int) -> int:
    """Item `n` of an endless row of decks of `size` cards, each shuffled through a buffer as tf.data does it.

    A deck passes through a buffer of so many cards in its order; each card that is dealt is drawn from the buffer, and
    the next of the deck takes its place. So card c comes no earlier than place c - buffer + 1.

    Args:
        n: Place in the row, from 0.
        size: Cards of a deck, at least 1.
        buffer: Cards in the buffer, at least 1, which shuffles nothing.
        seed: Another seed gives other shuffles.
    """
    if size < 1 or n < 0 or buffer < 1:
        raise InputError(f"a deck needs cards, a buffer and a place from 0 on; got {size}, {buffer} and {n}")
    deck, place = divmod(n, size)
    return _through_buffer(size, buffer, seed, deck)[place]


def _encrypted(value: int, keys: list[int], half: int) -> int:
    """One pass of a Feistel network over 2 * half bits: a permutation whatever the keys."""
    low = (1 << half) - 1
    left, right = value >> half, value & low
    for key in keys:
        left, right = right, left ^ (_mixed(key, right) & low)
    return (left << half) | right


def _mixed(*words: int) -> int:
    """64 well-mixed bits of some integers: the finaliser of SplitMix64 (Steele et al. 2014) after each."""
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state
