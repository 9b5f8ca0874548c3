"""Work that takes a while: how far it is, and ending it before it is done."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from bokehdiff.errors import BokehDiffError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
UNFORESEEN = "something went wrong that was not foreseen; the program's log tells what"


class Cancelled(BokehDiffError):  # noqa: N818  not a failure: somebody asked for it
    """The user did not want to wait any longer."""

    def __init__(self) -> None:
        super().__init__("cancelled")


class Job(Generic[Result]):
    """One piece of work, done on a thread of its own once it has begun.

    Args:
        work: Is given the job, calls its `step` now and then, and gives the result.
    """

    def __init__(self, work: Callable[[Job[Result]], Result]) -> None:
        self._work = work
        self._share = 0.0
        self._cancelled = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        """Start the thread; a job that was cancelled before ends at its first step."""
        self._began = time.monotonic()
        self._thread.start()

    def step(self, n_done: int, n_all: int) -> None:
        """Tell how far the work is; raises `Cancelled` once nobody wants it any more.

        Args:
            n_done: Parts that are done.
            n_all: Parts that there are.
        """
        if self._cancelled.is_set():
            raise Cancelled
        self._share = n_done / max(n_all, 1)

    def cancel(self) -> None:
        """Have the work end at its next step."""
        self._cancelled.set()

    @property
    def share(self) -> float:
        """Share of the work that is done, as far as it tells, in [0, 1]."""
        return self._share

    @property
    def seconds(self) -> float:
        """Since it began [s]."""
        return time.monotonic() - self._began

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the work; gives whether it has ended.

        Args:
            seconds: At most so long [s]; None for as long as it takes.
        """
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Result:
        """What the work gave, once it has ended.

        Raises:
            BokehDiffError: As the work raised it; anything else is logged, and told as unforeseen.
        """
        if isinstance(self._error, BokehDiffError):
            raise self._error
        if self._error is not None:
            raise BokehDiffError(UNFORESEEN) from self._error
        assert self._result is not None  # noqa: S101  work gives something or raises
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work(self)
        except BokehDiffError as error:
            self._error = error
        except Exception as error:  # a thread's last word would be lost otherwise
            logger.exception("a piece of work failed")
            self._error = error
