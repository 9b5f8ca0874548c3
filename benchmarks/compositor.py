"""Samples per second of the compositor, and where its time goes: `python benchmarks/compositor.py` takes minutes.

Composes samples in one process on one thread, and tells processor seconds per sample and their shares: decode (reading
files), resize (from display values to the scene's layers), render (the lens), finish (display values, noise, labels).
Processor time does not depend on what else the machine does; samples per second on the clock do. With --workers the
loader composes in that many processes, as training does, and tells samples per second of them all. The set is
procedural, as large as `--set-size` says, unless --root names one. Results go to benchmarks/results/ as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch

from bokehdiff.data import OnTheFlyDataset, compositor, ingredients, preset, training_loader, write_training_set

RESULTS = Path(__file__).parent / "results"
FLOOR_CPU_SECONDS = 2.0  # per sample of the published distribution at 512 px: 1 sample/s on two cores
STAGES = {
    "decode": [(ingredients, "load_foreground"), (ingredients, "load_background")],
    "resize": [(ingredients, "subject_light"), (ingredients, "scenery_light"), (compositor, "stage")],
    "render": [(compositor, "render_layers")],
}


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Args:
        composition: Name of the distribution.
        resolution_px: Side of a sample.
        cached: Whether decoded files were in the cache.
        n_samples: How many were composed.
        cpu_seconds: Mean processor time of a sample.
        cpu_seconds_median: Median of it.
        shares: Of each stage in that time.
        samples_per_second: On the clock, with `n_workers` processes.
        n_workers: Processes that composed for the clock; 0 is this one.
        load_before: Jobs that wanted a core in the last minute: above 0, time on the clock is not this program's alone.
    """

    composition: str
    resolution_px: int
    cached: bool
    n_samples: int
    cpu_seconds: float
    cpu_seconds_median: float
    shares: dict[str, float]
    samples_per_second: float
    n_workers: int
    load_before: float


class Stopwatch:
    """Processor time of functions, while they are wrapped."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def wrapped(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts for a stage."""

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.process_time()
            result = function(*arguments, **options)
            self.seconds[stage] += time.process_time() - begin
            return result

        return timed


def measure(root: Path, name: str, *, resolution_px: int, n_samples: int, n_workers: int, cached: bool) -> Measurement:
    """Compose samples one by one, then by the loader."""
    composition = preset(name, resolution_px=resolution_px)
    dataset = OnTheFlyDataset(root, seed=0, composition=composition, **({} if cached else {"cache_bytes": 0}))
    load_before = os.getloadavg()[0]
    if cached:
        for n in range(n_samples):
            dataset.uncomposed(n)
    dataset[0]
    watch, seconds = Stopwatch(), []
    with ExitStack() as stack:
        for stage, functions in STAGES.items():
            for module, function in functions:
                timed = watch.wrapped(stage, getattr(module, function))
                stack.enter_context(patch.object(module, function, timed))
        for n in range(n_samples):
            begin = time.process_time()
            dataset[n]
            seconds.append(time.process_time() - begin)
    total = sum(seconds)
    shares = {stage: spent / total for stage, spent in watch.seconds.items()}
    begin = time.perf_counter()
    for _ in training_loader(dataset, batch_size=1, n_samples=n_samples, n_workers=n_workers):
        pass
    rate = n_samples / (time.perf_counter() - begin)
    return Measurement(
        name, resolution_px, cached, n_samples, total / n_samples, statistics.median(seconds),
        shares | {"finish": 1 - sum(shares.values())}, rate, n_workers, load_before,
    )  # fmt: skip


def main() -> int:
    """Measure, print, record; 1 if the floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="training set; none for a procedural one")
    parser.add_argument("--set-size", type=int, default=1024, help="side of the procedural set's images [px]")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or Path(folder)
        if arguments.root is None:
            write_training_set(root, n_foregrounds=16, n_backgrounds=12, size_px=arguments.set_size, seed=0)
        lines = [
            measure(
                root, name, resolution_px=arguments.resolution, n_samples=arguments.samples, cached=cached,
                n_workers=arguments.workers,
            )
            for name in ("published", "bokehdiff")
            for cached in (False, True)
        ]  # fmt: skip
    sys.stdout.write("composition  cached  CPU s/sample  median   decode  resize  render  finish   samples/s (load)\n")
    for line in lines:
        shares = "  ".join(f"{line.shares[stage]:6.0%}" for stage in ("decode", "resize", "render", "finish"))
        sys.stdout.write(
            f"{line.composition:11s}  {line.cached!s:6s}  {line.cpu_seconds:12.3f}  {line.cpu_seconds_median:6.3f}   "
            f"{shares}   {line.samples_per_second:.2f} ({line.load_before:.1f})\n"
        )
    worst = max(line.cpu_seconds for line in lines if line.composition == "published")
    sys.stdout.write(f"floor: {FLOOR_CPU_SECONDS} CPU seconds per published sample; measured {worst:.2f}\n")
    record = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    record |= {"opencv": cv2.__version__, "measurements": [asdict(line) for line in lines]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compositor.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if worst <= FLOOR_CPU_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
