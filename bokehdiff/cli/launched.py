"""This process among those that `accelerate launch` started: which one it is, and what all of them found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE = timedelta(days=30)  # for the slowest of the processes: one may have all the large photographs


@dataclass(frozen=True)
class Launched:
    """A process among several that share work out.

    Args:
        rank: Number of this process, from 0.
        world_size: How many there are.
        local_rank: Its number among those of this machine, and of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def gathered(self, item: Item) -> list[Item]:
        """What each process has, in their order; waits for all of them.

        Args:
            item: Of this process; picklable.
        """
        if self.world_size == 1:
            return [item]
        from accelerate.utils import gather_object

        return gather_object([item])


@contextmanager
def launched() -> Iterator[Launched]:
    """Find out, and part from the others at the end. Only reports go between them, so that gloo serves everywhere."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Launched()
        return
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=PATIENCE)
    try:
        yield Launched(state.process_index, state.num_processes, state.local_process_index)
    finally:
        state.destroy_process_group()
