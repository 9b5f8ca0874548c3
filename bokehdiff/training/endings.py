"""How a run ends before its last step: asked to, out of memory, out of disk, or because the loss is no number.

Whatever happens, the newest whole checkpoint stays and the same command goes on from it.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bokehdiff.errors import BokehDiffError, InputError, first_line
from bokehdiff.images import write_atomically

logger = logging.getLogger(__name__)

FAILURE_FILE = "diverged.json"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class DivergenceError(BokehDiffError):
    """A loss or a gradient that is no number, or pictures that are worse than any picture can be."""


class Stopped(BokehDiffError):  # noqa: N818  not a failure: the run is saved and goes on when called again
    """A run that was asked to stop, and has saved a checkpoint.

    Args:
        message: What was done.
        signal_number: What asked for it.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """SIGTERM or Ctrl-C asks a run to stop after the step it is in; a second one stops it where it is."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this block signals are requests. Only a process's main thread can listen; others are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.signal_number = number


def signal_name(number: int) -> str:
    """What people call a signal: Ctrl-C, SIGTERM.

    Args:
        number: Of the signal.
    """
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def memory_errors_told() -> Iterator[None]:
    """Within this block, running out of memory becomes one line that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _memory_error(error) from error
    except RuntimeError as error:  # what torch raises on a CPU
        if not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise _memory_error(error) from error


def _memory_error(error: BaseException) -> BokehDiffError:
    return BokehDiffError(
        f"out of memory ({first_line(error)}): try --gradient-checkpointing, --mixed-precision bf16, --use-8bit-adam, "
        "a smaller --train-batch-size with more --gradient-accumulation-steps, or a smaller --resolution; --dry-run "
        "estimates what each needs. The newest checkpoint is kept"
    )


def disk_error(run_dir: Path, error: BaseException) -> InputError:
    """A write that failed, with the room that is left and what stays.

    Args:
        run_dir: Where it should have gone.
        error: What the system said.
    """
    free = shutil.disk_usage(run_dir).free
    return InputError(
        f"{run_dir} could not be written ({first_line(error)}; {free / 1e9:.1f} GB are free there): make room and run "
        "the same command again, which goes on from the newest whole checkpoint",
        flag="--output-dir",
    )


def refuse_full_disk(run_dir: Path, needed_bytes: int) -> None:
    """Before any work: there must be room for what the run keeps.

    Args:
        run_dir: The run's folder.
        needed_bytes: What its checkpoints take.
    """
    free = shutil.disk_usage(run_dir).free
    if free < needed_bytes:
        raise InputError(
            f"{run_dir} has {free / 1e9:.2f} GB free, the checkpoints take {needed_bytes / 1e9:.2f} GB: make room, or "
            "keep fewer with --checkpoints-total-limit",
            flag="--output-dir",
        )


def write_failure(run_dir: Path, record: dict[str, Any]) -> Path:
    """Write down what a run diverged on, so that those samples can be looked at.

    Args:
        run_dir: The run's folder.
        record: The step, the samples' numbers, the losses.
    """
    path = run_dir / FAILURE_FILE
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path
