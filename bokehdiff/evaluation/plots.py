"""Pictures of what was measured: a metric over blur, over variants of the input, and the worst pictures to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bokehdiff.errors import InputError
from bokehdiff.evaluation.records import Record, means
from bokehdiff.evaluation.tables import NAMES, is_higher_better
from bokehdiff.images import write_atomically

MOST_BINS = 8


def plot_by_blur(records: Sequence[Record], metric: str, path: Path) -> Path:
    """A metric over the blur that was asked for, a line per method: means of groups of equal size.

    Args:
        records: Of pictures whose blur is known.
        metric: Of their numbers.
        path: PNG to write.
    """
    known = [record for record in records if record.blur_px is not None and _told(record, metric)]
    if not known:
        raise InputError(f"no picture has both {metric} and a known blur")
    figure, axes = _figure()
    for method in dict.fromkeys(record.method for record in known):
        own = sorted((r for r in known if r.method == method), key=lambda record: record.blur_px or 0.0)
        groups = np.array_split(np.arange(len(own)), min(MOST_BINS, len(own)))
        x = [np.mean([own[i].blur_px or 0.0 for i in group]) for group in groups]
        y = [np.mean([own[i].numbers[metric] for i in group]) for group in groups]
        axes.plot(x, y, marker="o", label=method)
    axes.set(xlabel="largest circle of confusion [px]", ylabel=_axis(metric))
    return _saved(figure, axes, path)


def plot_by_dataset(records: Sequence[Record], metric: str, path: Path) -> Path:
    """A metric's mean per dataset, a point per method.

    Args:
        records: What was measured.
        metric: Of their numbers.
        path: PNG to write.
    """
    return _points(records, metric, path, by=lambda record: record.dataset)


def plot_by_variant(records: Sequence[Record], metric: str, path: Path) -> Path:
    """A metric's mean per variant of the input, a point per method: how robust each is.

    Args:
        records: What was measured.
        metric: Of their numbers.
        path: PNG to write.
    """
    return _points(records, metric, path, by=lambda record: record.variant or "as it is")


def worst(records: Sequence[Record], metric: str, n: int = 10) -> list[Record]:
    """The records with the worst of a metric, the worst first.

    Args:
        records: What was measured.
        metric: Of their numbers.
        n: How many at most.
    """
    told = [record for record in records if _told(record, metric)]
    return sorted(told, key=lambda record: record.numbers[metric], reverse=not is_higher_better(metric))[:n]


def _points(records: Sequence[Record], metric: str, path: Path, *, by: Callable[[Record], str]) -> Path:
    """Points rather than bars: the axis need not begin at 0, where no picture is."""
    told = [record for record in records if _told(record, metric)]
    if not told:
        raise InputError(f"no picture has {metric}")
    groups = list(dict.fromkeys(by(record) for record in told))
    figure, axes = _figure()
    for method in dict.fromkeys(record.method for record in told):
        mean = means([record for record in told if record.method == method], by)
        heights = [mean.get(group, {}).get(metric, math.nan) for group in groups]
        axes.plot(np.arange(len(groups)), heights, marker="o", linestyle=":", label=method)
    axes.set_xticks(np.arange(len(groups)), groups, rotation=20, ha="right")
    axes.set(ylabel=_axis(metric))
    return _saved(figure, axes, path)


def _told(record: Record, metric: str) -> bool:
    return math.isfinite(record.numbers.get(metric, math.nan))


def _axis(metric: str) -> str:
    unit = " [dB]" if metric == "psnr" else ""
    return f"{NAMES[metric]}{unit}, {'higher' if is_higher_better(metric) else 'lower'} is better"


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    return figure, figure.subplots()


def _saved(figure: Any, axes: Any, path: Path) -> Path:
    axes.grid(alpha=0.3)
    axes.legend()
    with write_atomically(path) as partial:
        figure.savefig(partial, dpi=120, format="png")
    return path
