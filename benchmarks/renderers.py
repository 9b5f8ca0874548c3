"""Time and quality of the layered renderer: `python benchmarks/renderers.py` takes three minutes on two cores.

The scene: a tilted photograph behind a portrait with procedural hair, two layers, clipped to [0, 1] as in training.
"background" has the foreground in focus and the background blurred by the given radius; "foreground" the reverse; in
"crossing" the two planes pass through each other along the middle of the picture, and both ends are blurred. PSNR is
of display values (gamma 2.2), without the outermost 24 px, at one pixel in 36, chosen at random: against 8192 rays from
each (benchmarks/layered_truth.py). "+-" is the standard error of choosing those, "truth" how far half as many rays are
from the truth. "all px" and "parity" are the processor time [s] of backend "cpu" and the picture it gives when it
traces every pixel.

With `--device cuda --backends cupy` the published kernel is restated (benchmarks/brute_force.py) and timed beside.
Floors are printed as passed or missed. Results go to benchmarks/results/ as JSON with the machine they were measured
on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
from brute_force import brute_force
from jaxtyping import Float
from layered_truth import Pixels, Truth, scattered_pixels, truth_at
from torch import Tensor

from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.metrics import psnr
from bokehdiff.optics import Lens
from bokehdiff.renderers import LayerStack, render_layers
from bokehdiff.renderers.raytraced import tiles

RESULTS = Path(__file__).parent / "results"
FOREGROUND_DISPARITY = 0.8
BACKGROUND_PLANE = (0.06, 0.1, 0.06)  # disparity at the corner, and its rise across the width and the height
BACKGROUND_MEAN = 0.14
CROSSING_FOCUS, CROSSING_REACH = 0.45, 0.35  # disparities of both planes lie within this of the focus
TRUTH_SAMPLES = 8192
BRUTE_FORCE_SIDE = 168  # of the grid of the field's kernel at its largest setting, a radius of 96 px
FLOOR_SECONDS, FLOOR_DB, FLOOR_GROWTH = 1.5, 56.0, 1.5  # with 256 points at 816 px on two cores; see `floors`
FLOOR_SPEEDUP, FLOOR_PARITY_DB = 20.0, 80.0
FLOOR_SAMPLES = 256
HAIRS, HAIR_JOINTS = 900, 12
BORDER_PX, CELL_PX = 24, 6  # of the picture, left out; of which one pixel is looked at


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Args:
        backend: Of `render_layers`.
        device: Where the tensors lie.
        dtype: Of the tensors.
        shape: Of the layers, b l c h w.
        blurred: Which layer is out of focus.
        radius_px: Its largest circle of confusion [px].
        n_samples: Lens points.
        seconds: Median of the repeats, on the clock.
        cpu_seconds: Median of processor time, all threads.
        psnr_db: Against the truth.
        error_db: Standard error of that, of the pixels that were chosen.
        truth_db: Of the truth through half as many points against itself.
        parity_db: Against the picture of backend "cpu" traced at every pixel, all of it, in linear light; None for the
            same picture.
        every_pixel_cpu_seconds: Processor time of that, measured in turn.
        load_before: Jobs that wanted a core in the last minute: above 0, time on the clock is not this program's alone.
    """

    backend: str
    device: str
    dtype: str
    shape: tuple[int, ...]
    blurred: str
    radius_px: float
    n_samples: int
    seconds: float
    cpu_seconds: float
    psnr_db: float
    error_db: float
    truth_db: float
    parity_db: float | None
    every_pixel_cpu_seconds: float
    load_before: float


def photograph(image: np.ndarray, size_px: int) -> Float[Tensor, "3 h w"]:
    """The upper left square of a photograph, enlarged to a size, in linear light."""
    scale = size_px / min(image.shape[:2])
    enlarged = cv2.resize(image, None, fx=scale * 1.002, fy=scale * 1.002, interpolation=cv2.INTER_CUBIC)
    square = torch.from_numpy(enlarged[:size_px, :size_px].copy()).permute(2, 0, 1)
    return srgb_to_linear(square.float() / 255.0)


def hairy_matte(size_px: int, *, seed: int = 0) -> Float[Tensor, "1 h w"]:
    """An ellipse with strands of hair that wander off it."""
    rng = np.random.default_rng(seed)
    centre, axes = np.array([0.5, 0.6]) * size_px, np.array([0.22, 0.33]) * size_px
    matte = np.zeros((size_px, size_px), np.float32)
    cv2.ellipse(matte, centre.astype(int).tolist(), axes.astype(int).tolist(), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    for angle in rng.uniform(0, 2 * np.pi, HAIRS):
        heading = np.array([np.cos(angle), np.sin(angle)])
        strand = [centre + axes * heading]
        for _ in range(HAIR_JOINTS):
            heading = heading + rng.normal(0, 0.25, 2)
            heading /= np.linalg.norm(heading)
            strand.append(strand[-1] + heading * size_px / 160)
        points = np.round(np.array(strand) * 16).astype(np.int32)  # OpenCV's shift of 4 binary places
        cv2.polylines(matte, [points], False, 1.0, 1, cv2.LINE_AA, 4)
    return torch.from_numpy(matte)[None]


def two_layers(size_px: int) -> LayerStack:
    """The scene of the benchmark."""
    alpha = hairy_matte(size_px)
    foreground = torch.cat([photograph(skimage.data.astronaut(), size_px) * alpha, alpha])
    background = torch.cat([photograph(skimage.data.coffee(), size_px), torch.ones_like(alpha)])
    c0, rise_x, rise_y = BACKGROUND_PLANE
    planes = torch.tensor([[[FOREGROUND_DISPARITY, 0.0, 0.0], [c0, rise_x / size_px, rise_y / size_px]]])
    return LayerStack(torch.stack([foreground, background])[None], planes)


def crossing_layers(size_px: int) -> LayerStack:
    """The same pictures on planes that change places in the middle."""
    near, far = CROSSING_FOCUS + CROSSING_REACH, CROSSING_FOCUS - CROSSING_REACH
    planes = torch.tensor([[[far, (near - far) / size_px, 0.0], [near, (far - near) / size_px, 0.0]]])
    return LayerStack(two_layers(size_px).rgba_linear, planes)


def lens_for(blurred: str, radius_px: float) -> Lens:
    """The lens that focuses one layer and blurs the other by up to a radius."""
    if blurred == "crossing":
        return Lens(CROSSING_FOCUS, radius_px / CROSSING_REACH)
    if blurred == "background":
        return Lens(FOREGROUND_DISPARITY, radius_px / (FOREGROUND_DISPARITY - BACKGROUND_PLANE[0]))
    return Lens(BACKGROUND_MEAN, radius_px / (FOREGROUND_DISPARITY - BACKGROUND_MEAN))


SCENES: dict[str, Callable[[int], LayerStack]] = {
    "background": two_layers,
    "foreground": two_layers,
    "crossing": crossing_layers,
}


def shown(rgba_linear: Float[np.ndarray, "n 4"]) -> Float[Tensor, "n 3"]:
    """Display values."""
    return linear_to_srgb(torch.from_numpy(rgba_linear[:, :3]).float().clamp(0.0, 1.0).T[None, :, :, None])[
        0, :, :, 0
    ].T


def decibels(squares: Float[Tensor, " n"]) -> tuple[float, float]:
    """PSNR of squared errors, and its standard error [dB]."""
    mean = float(squares.mean())
    relative = float(squares.std()) / math.sqrt(len(squares)) / mean
    return -10.0 * math.log10(mean), 10.0 * math.log10(1.0 + relative)


def measure(
    stack: LayerStack,
    blurred: str,
    radius_px: float,
    backend: str,
    n_samples: int,
    *,
    pixels: Pixels,
    truth: Truth,
    repeats: int,
) -> Measurement:
    """Render once to warm up, then a few times on the clock."""
    lens, device = lens_for(blurred, radius_px), stack.rgba_linear.device
    picture = render_layers(stack, lens, n_samples=n_samples, backend=backend)
    on_cpu = LayerStack(stack.rgba_linear.cpu(), stack.planes.cpu())
    with every_pixel():
        by_cpu = render_layers(on_cpu, lens, n_samples=n_samples, backend="cpu")
    load = os.getloadavg()[0]
    at_pixels = picture[0, :, pixels.row, pixels.column].T.cpu().numpy()
    psnr_db, error_db = decibels((shown(at_pixels) - shown(truth.rgba)).square().mean(dim=1))
    clock, processor = timed(lambda: render_layers(stack, lens, n_samples=n_samples, backend=backend), device, repeats)
    with every_pixel():
        _, slower = timed(lambda: render_layers(on_cpu, lens, n_samples=n_samples, backend="cpu"), device, repeats)
    return Measurement(
        backend=backend,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores",
        dtype=str(stack.rgba_linear.dtype).removeprefix("torch."),
        shape=tuple(stack.rgba_linear.shape),
        blurred=blurred,
        radius_px=radius_px,
        n_samples=n_samples,
        seconds=clock,
        cpu_seconds=processor,
        psnr_db=psnr_db,
        error_db=error_db,
        truth_db=decibels((shown(truth.half) - shown(truth.rgba)).square().mean(dim=1))[0],
        parity_db=None if bool((picture.cpu() == by_cpu).all()) else float(psnr(picture.cpu(), by_cpu)),
        every_pixel_cpu_seconds=slower,
        load_before=load,
    )


@contextmanager
def every_pixel() -> Iterator[None]:
    """Backend "cpu" as it would be if it told nothing from fewer pixels."""
    smoothness, tiles.SMOOTHNESS = tiles.SMOOTHNESS, math.inf
    try:
        yield
    finally:
        tiles.SMOOTHNESS = smoothness


def timed(render: Callable[[], Tensor], device: torch.device, repeats: int) -> tuple[float, float]:
    """Median seconds on the clock and of processor time."""
    clock, processor = [], []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started, started_cpu = time.perf_counter(), time.process_time()
        render()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - started_cpu)
    return statistics.median(clock), statistics.median(processor)


def brute_force_seconds(stack: LayerStack, repeats: int) -> float:
    """Of the field's kernel at its largest setting, after one call that compiles it."""
    lens = lens_for("background", 96.0)
    brute_force(stack, lens, n_side=BRUTE_FORCE_SIDE)
    return timed(lambda: brute_force(stack, lens, n_side=BRUTE_FORCE_SIDE), stack.rgba_linear.device, repeats)[0]


def floors(results: list[Measurement], brute_force_s: float | None) -> list[str]:
    """What was asked for, and whether it was reached: one line each."""
    rated = [m for m in results if m.n_samples == FLOOR_SAMPLES]
    lines = []

    def floor(what: str, value: float, least: float, *, at_most: bool = False) -> None:
        passed = value <= least if at_most else value >= least
        sign = "<=" if at_most else ">="
        lines.append(f"{'passed' if passed else 'MISSED'}  {what}: {value:.2f} {sign} {least:g}")

    for blurred in dict.fromkeys(m.blurred for m in rated):
        some = [m for m in rated if m.blurred == blurred]
        floor(f"{blurred}, worst PSNR [dB]", min(m.psnr_db for m in some), FLOOR_DB)
        floor(f"{blurred}, longest time [s]", max(m.seconds for m in some), FLOOR_SECONDS, at_most=True)
        by_radius = {m.radius_px: m.seconds for m in some}
        if {12.0, 96.0} <= set(by_radius):
            floor(f"{blurred}, time at 96 px over 12 px", by_radius[96.0] / by_radius[12.0], FLOOR_GROWTH, at_most=True)
    if brute_force_s is not None:
        slowest = max(m.seconds for m in rated if m.radius_px == max(r.radius_px for r in rated))
        floor(f"speed over the restated kernel ({brute_force_s:.3f} s)", brute_force_s / slowest, FLOOR_SPEEDUP)
        floor("parity with the CPU [dB]", min(m.parity_db or math.inf for m in rated), FLOOR_PARITY_DB)
    return lines


def parity(m: Measurement) -> str:
    """As the table shows it."""
    return "same" if m.parity_db is None else f"{m.parity_db:.1f} dB"


def table(results: list[Measurement]) -> str:
    """The measurements, aligned."""
    head = f"{'backend':8}{'blurred':12}{'radius':>8}{'points':>8}{'seconds':>9}{'cpu s':>8}"
    head += f"{'all px':>8}{'PSNR':>9}{'+-':>6}{'truth':>9}{'parity':>9}{'load':>6}"
    lines = [
        f"{m.backend:8}{m.blurred:12}{m.radius_px:5.0f} px{m.n_samples:8d}{m.seconds:9.3f}{m.cpu_seconds:8.2f}"
        f"{m.every_pixel_cpu_seconds:8.2f}"
        f"{m.psnr_db:6.1f} dB{m.error_db:6.2f}{m.truth_db:6.1f} dB{parity(m):>9}{m.load_before:6.1f}"
        for m in results
    ]
    return "\n".join([head, *lines])


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=816)
    parser.add_argument("--radii-px", type=float, nargs="+", default=[12.0, 24.0, 48.0, 96.0])
    parser.add_argument("--samples", type=int, nargs="+", default=[FLOOR_SAMPLES])
    parser.add_argument("--backends", nargs="+", default=["cpu"], help="torch on the CPU takes 15 times as long as cpu")
    parser.add_argument("--device", default="cpu", help="cuda with --backends cupy torch")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--truth-samples", type=int, default=TRUTH_SAMPLES, help="points of the truth")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="a file; by default one in benchmarks/results")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    chosen = options()
    results = []
    pixels = scattered_pixels((chosen.size_px,) * 2, border_px=BORDER_PX, cell_px=CELL_PX)
    for blurred in chosen.scenes:
        scene = SCENES[blurred](chosen.size_px)
        stack = LayerStack(scene.rgba_linear.to(chosen.device), scene.planes.to(chosen.device))
        for radius_px in chosen.radii_px:
            truth = truth_at(scene, lens_for(blurred, radius_px), pixels, chosen.truth_samples)
            for backend, n_samples in itertools.product(chosen.backends, chosen.samples):
                results.append(
                    measure(
                        stack,
                        blurred,
                        radius_px,
                        backend,
                        n_samples,
                        pixels=pixels,
                        truth=truth,
                        repeats=chosen.repeats,
                    )
                )
                sys.stdout.write(table(results[-1:]).splitlines()[1] + "\n")
                sys.stdout.flush()
    brute_force_s = None
    if "cupy" in chosen.backends:
        layers = two_layers(chosen.size_px)
        on_gpu = LayerStack(layers.rgba_linear.to(chosen.device), layers.planes.to(chosen.device))
        brute_force_s = brute_force_seconds(on_gpu, chosen.repeats)
    reached = floors(results, brute_force_s)
    sys.stdout.write("\n".join([table(results), *reached]) + "\n")
    out = chosen.out or RESULTS / f"renderers_{chosen.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
    }
    out.write_text(json.dumps({**machine, "floors": reached, "results": [asdict(m) for m in results]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
