"""What a run leaves for people: the log as JSON lines and the loss curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bokehdiff.images import write_atomically

LOG_FILE = "log.jsonl"
CURVE_FILE = "loss.png"


def append_record(run_dir: Path, record: Mapping[str, float]) -> None:
    """Add one line to the run's log.

    Args:
        run_dir: The run's folder.
        record: Numbers by name; "n_steps" is one of them.
    """
    with (run_dir / LOG_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(dict(record)) + "\n")


def read_records(run_dir: Path) -> list[dict[str, float]]:
    """The run's log, oldest first.

    Args:
        run_dir: The run's folder.
    """
    path = run_dir / LOG_FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def truncate_records(run_dir: Path, n_steps: int) -> None:
    """Forget what was logged after a checkpoint, when a run goes on from it; a half-written last line too.

    Args:
        run_dir: The run's folder.
        n_steps: Steps that the checkpoint has done.
    """
    path = run_dir / LOG_FILE
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["n_steps"] <= n_steps:
            kept.append(line + "\n")
    with write_atomically(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def draw_loss_curve(run_dir: Path) -> Path:
    """Draw every part of the loss over the samples seen, each step pale and a running mean strong.

    Args:
        run_dir: The run's folder; the picture is written there.
    """
    from matplotlib.figure import Figure

    records = read_records(run_dir)
    names = [name for name in ("loss", "mse", "edge", "lpips", "gan") if records and name in records[0]]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in names:
        seen = [record["n_samples_seen"] for record in records]
        values = np.array([record[name] for record in records])
        (line,) = axes.plot(seen, _running_mean(values), label=name, linewidth=1.8)
        axes.plot(seen, values, color=line.get_color(), alpha=0.2, linewidth=0.8)
    axes.set(xlabel="samples seen", ylabel="loss (unweighted parts)", yscale="log")
    axes.grid(alpha=0.3)
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
