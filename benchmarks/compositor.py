"""Samples per second of the compositor, and where its time goes: `python benchmarks/compositor.py` takes minutes.

Composes samples in one process on one thread, and tells processor seconds per sample and their shares: decode (reading
files), resize (from display values to the scene's layers), render (the lens), finish (display values, noise, labels).
Processor time does not depend on what else the machine does; samples per second on the clock do. With --workers the
loader composes in that many processes, as training does, and tells samples per second of them all. With --gpu, workers
read and the GPU renders, as in training there; only samples per second on the clock are told. The set is procedural, as
large as `--set-size` says, unless --root names one. Results go to benchmarks/results/ as JSON.
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

from bokehdiff.data import (
    OnTheFlyDataset,
    compositor,
    ingredients,
    preset,
    training_batches,
    training_loader,
    write_training_set,
)

RESULTS = Path(__file__).parent / "results"
FLOOR_GPU_RATE = 50.0  # samples per second of the published distribution at 512 px on one GPU
WARM_UP = 16  # samples before the clock starts: kernels are compiled, workers start, the cache fills
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


def measure_gpu(root: Path, name: str, *, resolution_px: int, n_samples: int, n_workers: int) -> dict[str, Any]:
    """Samples per second of batches that the GPU renders while nobody trains on it."""
    dataset = OnTheFlyDataset(root, seed=0, composition=preset(name, resolution_px=resolution_px))
    device = torch.device("cuda")
    batches = training_batches(
        dataset, device=device, compose_on="gpu", batch_size=1, n_samples=WARM_UP + n_samples, n_workers=n_workers
    )
    begin = 0.0
    for i, _ in enumerate(batches, start=1):
        if i == WARM_UP:
            torch.cuda.synchronize()
            begin = time.perf_counter()
    torch.cuda.synchronize()
    rate = n_samples / (time.perf_counter() - begin)
    sys.stdout.write(f"{name}: {rate:.1f} samples/s on the GPU\n")
    return {
        "composition": name, "resolution_px": resolution_px, "n_samples": n_samples, "n_workers": n_workers,
        "samples_per_second": rate,
    }  # fmt: skip


def main() -> int:
    """Measure, print, record; 1 if the floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="training set; none for a procedural one")
    parser.add_argument("--set-size", type=int, default=1024, help="side of the procedural set's images [px]")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="render on the GPU")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or Path(folder)
        if arguments.root is None:
            write_training_set(root, n_foregrounds=16, n_backgrounds=12, size_px=arguments.set_size, seed=0)
        settings = {
            "resolution_px": arguments.resolution, "n_samples": arguments.samples, "n_workers": arguments.workers
        }  # fmt: skip
        return (on_gpu if arguments.gpu else on_cpu)(root, **settings)


def on_gpu(root: Path, **settings: int) -> int:
    """Measure both distributions on the GPU; 1 if the floor is missed."""
    rates = [measure_gpu(root, name, **settings) for name in ("published", "bokehdiff")]
    sys.stdout.write(f"floor: {FLOOR_GPU_RATE} published samples per second\n")
    record("compositor_gpu.json", {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}, rates)
    return 0 if rates[0]["samples_per_second"] >= FLOOR_GPU_RATE else 1


def on_cpu(root: Path, **settings: int) -> int:
    """Measure both distributions, with files in the cache and without; 1 if the floor is missed."""
    lines = [
        measure(root, name, cached=cached, **settings)
        for name in ("published", "bokehdiff")
        for cached in (False, True)
    ]
    sys.stdout.write("composition  cached  CPU s/sample  median   decode  resize  render  finish   samples/s (load)\n")
    for line in lines:
        shares = "  ".join(f"{line.shares[stage]:6.0%}" for stage in ("decode", "resize", "render", "finish"))
        sys.stdout.write(
            f"{line.composition:11s}  {line.cached!s:6s}  {line.cpu_seconds:12.3f}  {line.cpu_seconds_median:6.3f}   "
            f"{shares}   {line.samples_per_second:.2f} ({line.load_before:.1f})\n"
        )
    worst = max(line.cpu_seconds for line in lines if line.composition == "published")
    sys.stdout.write(f"floor: {FLOOR_CPU_SECONDS} CPU seconds per published sample; measured {worst:.2f}\n")
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    versions = {"torch": torch.__version__, "opencv": cv2.__version__}
    record("compositor.json", machine | versions, [asdict(line) for line in lines])
    return 0 if worst <= FLOOR_CPU_SECONDS else 1


def record(name: str, about: dict[str, Any], measurements: list[dict[str, Any]]) -> None:
    """Keep what was measured."""
    RESULTS.mkdir(exist_ok=True)
    content = about | {"measurements": measurements}
    (RESULTS / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
