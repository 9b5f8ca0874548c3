"""What a run tells people: one step's numbers, the log as JSON lines, the loss curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from bokehdiff.data import TrainBatch
from bokehdiff.images import write_atomically
from bokehdiff.training.endings import disk_error

LOG_FILE = "log.jsonl"
VALIDATION_FILE = "validation.jsonl"
CURVE_FILE = "loss.png"
TIMINGS = ("samples_per_s", "data_wait_s")  # what differs between two runs that are otherwise equal
FULL_SQUARE = 4.0  # square of the range of images in [-1, 1]


@dataclass
class Tally:
    """What one optimiser step is made of: the samples and losses of its batches, on this process.

    Args:
        batches: Numbers of the samples and losses of each batch, still on the device.
        grad_norms: Norm of each network's gradient before clipping.
        data_wait_s: Time in which no batch was ready [s].
        started: When it began, on a clock that only goes forward [s].
    """

    batches: list[tuple[tuple[int, ...], dict[str, Tensor]]] = field(default_factory=list)
    grad_norms: dict[str, float] = field(default_factory=dict)
    data_wait_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def waiting_for(self, batches: Iterable[TrainBatch]) -> Iterator[TrainBatch]:
        """The same batches; the time that each takes to come is counted.

        Args:
            batches: Made somewhere else.
        """
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.data_wait_s += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def add(self, batch: TrainBatch, losses: Mapping[str, Float[Tensor, ""]], **grad_norms: float | None) -> None:
        """Count one batch.

        Args:
            batch: Tells the samples.
            losses: By name, without their graph.
            grad_norms: Of each network; None while gradients are accumulated.
        """
        self.batches.append((batch.n, dict(losses)))
        self.grad_norms |= {name: norm for name, norm in grad_norms.items() if norm is not None}

    def close(self, accelerator: Accelerator, n_samples: int, *, stop: bool) -> tuple[dict[str, float], bool]:
        """End the step: its numbers, the same on all processes, and whether any of them was asked to stop.

        Args:
            accelerator: Asks the other processes, once.
            n_samples: Samples of the step, over all processes.
            stop: Whether this one was asked.
        """
        names = list(self.batches[0][1])
        means = torch.stack([torch.stack([losses[name].float() for name in names]) for _, losses in self.batches]).mean(
            0
        )
        told = torch.cat([means, means.new_tensor([float(stop)])])
        *values, stops = accelerator.reduce(told, reduction="mean").tolist()
        now = time.perf_counter()
        numbers = dict(zip(names, values, strict=True))
        numbers |= {"psnr": _psnr(numbers["mse"])} | {
            f"grad_norm_{name}": norm for name, norm in self.grad_norms.items()
        }
        numbers |= {"samples_per_s": n_samples / (now - self.started), "data_wait_s": self.data_wait_s}
        self.started = now
        return numbers, stops > 0

    def clear(self) -> None:
        """Begin the next step; its clock has been running since `close`."""
        self.batches, self.grad_norms, self.data_wait_s = [], {}, 0.0


def _psnr(mse: float) -> float:
    """Peak signal-to-noise ratio [dB] of images in [-1, 1]."""
    return 10.0 * math.log10(FULL_SQUARE / max(mse, 1e-12)) if mse < math.inf else -math.inf


def append_record(run_dir: Path, record: Mapping[str, float], *, file: str = LOG_FILE) -> None:
    """Add one line to the run's log.

    Args:
        run_dir: The run's folder.
        record: Numbers by name; "n_steps" is one of them.
        file: Name of the log: of training steps, or of measurements on held-out pairs.
    """
    try:
        with (run_dir / file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(record)) + "\n")
    except OSError as error:
        raise disk_error(run_dir, error) from error


def read_records(run_dir: Path, *, file: str = LOG_FILE) -> list[dict[str, float]]:
    """A log of the run, oldest first.

    Args:
        run_dir: The run's folder.
        file: As in `append_record`.
    """
    path = run_dir / file
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def last_scores(run_dir: Path) -> dict[str, float]:
    """The newest scores on held-out pairs, by name; empty if nothing was measured.

    Args:
        run_dir: The run's folder.
    """
    measured = read_records(run_dir, file=VALIDATION_FILE)
    return {name: value for name, value in measured[-1].items() if not name.startswith("n_")} if measured else {}


def truncate_records(run_dir: Path, n_steps: int) -> None:
    """Forget what was logged after a checkpoint, when a run goes on from it; a half-written last line too.

    Args:
        run_dir: The run's folder.
        n_steps: Steps that the checkpoint has done.
    """
    for path in (run_dir / LOG_FILE, run_dir / VALIDATION_FILE):
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            with write_atomically(path) as partial:
                partial.write_text("".join(line for line in lines if _is_within(line, n_steps)), encoding="utf-8")


def _is_within(line: str, n_steps: int) -> bool:
    try:
        return bool(json.loads(line)["n_steps"] <= n_steps)
    except json.JSONDecodeError:
        return False


def draw_loss_curve(run_dir: Path) -> Path:
    """Draw every part of the loss over the samples seen, each step pale and a running mean strong.

    Args:
        run_dir: The run's folder; the picture is written there.
    """
    from matplotlib.figure import Figure

    records = read_records(run_dir)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("loss", "mse", "edge", "lpips", "gan"):
        told = [record for record in records if name in record]  # the adversarial part begins at gan_step
        if told:
            seen = [record["n_samples_seen"] for record in told]
            values = np.array([record[name] for record in told])
            (line,) = axes.plot(seen, _running_mean(values), label=name, linewidth=1.8)
            axes.plot(seen, values, color=line.get_color(), alpha=0.2, linewidth=0.8)
    axes.set(xlabel="samples seen", ylabel="loss (unweighted parts)", yscale="log")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    path = run_dir / CURVE_FILE
    with write_atomically(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return path


def _running_mean(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Mean over the last tenth of what was seen up to each point: follows at the start, smooth at the end."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = ends - np.maximum(1, (ends * share).astype(int))
    return (sums[ends] - sums[starts]) / (ends - starts)
