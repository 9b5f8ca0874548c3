"""A training on the command line: runs, and tells what signal ended it."""

from __future__ import annotations

import sys
from collections.abc import Callable

SIGNAL_STATUS = 128  # as a shell tells that a signal ended a program: 130 after Ctrl-C, 143 after SIGTERM


def until_stopped(train: Callable[[], object], *, program: str) -> int:
    """Train to the end, or until a signal asks to stop.

    Args:
        train: Does it.
        program: What messages call it.

    Returns:
        Exit status.
    """
    from bokehdiff.training.endings import Stopped

    try:
        train()
    except Stopped as asked:
        print(f"{program}: {asked}", file=sys.stderr)
        return SIGNAL_STATUS + asked.signal_number
    return 0
