"""A bounded store of decoded images in memory that worker processes share."""

from __future__ import annotations

import math
import mmap
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor

WAIT_S = 1.0  # for the lock: a worker that died with it must not stop the others
NEVER = -1  # place of an image that was not stored


class SharedCache:
    """Half-precision images by number in a ring of memory, where the oldest makes room for the newest.

    Made before the workers start, it is one memory for all that are forked (anonymous, so /dev/shm may be small); a
    process that is started otherwise gets an empty one of its own. What is stored changes speed, never a value.

    Args:
        n_bytes: Bound of its memory; 0 stores nothing. Only what is written to is taken from the system.
        n_keys: How many images there may be.
    """

    def __init__(self, n_bytes: int, *, n_keys: int) -> None:
        self.capacity = n_bytes // 2
        self.n_keys = n_keys
        self._begin()

    def _begin(self) -> None:
        self._lock = multiprocessing.Lock()
        self._ring = _shared(self.capacity, np.dtype(np.float16))
        # Of each key: where its image begins, counted without end, and its shape. The last row: where the next begins.
        self._places = _shared(4 * (self.n_keys + 1), np.dtype(np.int64)).reshape(-1, 4)
        self._places[:-1, 0] = NEVER

    def __getstate__(self) -> dict[str, Any]:
        return {"capacity": self.capacity, "n_keys": self.n_keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def get(self, key: int, make: Callable[[], Float16[Tensor, "c h w"]]) -> Float16[Tensor, "c h w"]:
        """The image of a number: the stored one, or one made now.

        Args:
            key: Number of the image, below `n_keys`; always of the same content.
            make: Makes it.
        """
        stored = self._locked(self._read, key)
        if stored is not None:
            return stored
        image = make()
        if image.numel() <= self.capacity:
            self._locked(self._write, key, image)
        return image

    def _locked(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if not self.capacity or not self._lock.acquire(timeout=WAIT_S):
            return None
        try:
            return work(*arguments)
        finally:
            self._lock.release()

    def _read(self, key: int) -> Float16[Tensor, "c h w"] | None:
        begin, *shape = self._places[key].tolist()
        if begin == NEVER or int(self._places[-1, 0]) - begin > self.capacity:
            return None
        first = begin % self.capacity
        return torch.from_numpy(self._ring[first : first + math.prod(shape)].reshape(shape).copy())

    def _write(self, key: int, image: Float16[Tensor, "c h w"]) -> None:
        n_items = image.numel()
        begin = int(self._places[-1, 0])
        if begin % self.capacity + n_items > self.capacity:
            begin += -begin % self.capacity  # it would cross the end: on from the start
        self._places[-1, 0] = begin + n_items  # first of all: what will be overwritten is not there any more
        first = begin % self.capacity
        self._ring[first : first + n_items] = image.numpy().reshape(-1)
        self._places[key] = (begin, *image.shape)


def _shared(n_items: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that forked processes share; pages that nobody writes take no memory."""
    if not n_items:
        return np.zeros(0, dtype)
    return np.frombuffer(mmap.mmap(-1, n_items * dtype.itemsize), dtype)
