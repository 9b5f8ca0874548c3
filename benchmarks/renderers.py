"""Time and quality of the layered renderer: `python benchmarks/renderers.py` takes minutes on two cores.

The scene: a tilted photograph behind a portrait with procedural hair, two layers, clipped to [0, 1] as in training.
"background" has the foreground in focus and the background blurred by the given radius; "foreground" the reverse. PSNR
is of display values (gamma 2.2) against the same scene through so many lens points that more change nothing, without
the outermost 24 px. Results go to benchmarks/results/ as JSON with the machine they were measured on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.metrics import psnr
from bokehdiff.optics import Lens
from bokehdiff.renderers import LayerStack, render_layers

RESULTS = Path(__file__).parent / "results"
FOREGROUND_DISPARITY = 0.8
BACKGROUND_PLANE = (0.06, 0.1, 0.06)  # disparity at the corner, and its rise across the width and the height
BACKGROUND_MEAN = 0.14
CONVERGED_SAMPLES = 4096
BRUTE_FORCE_SAMPLES = 21876  # what the field's kernel takes at its largest setting, a radius of 96 px
HAIRS, HAIR_JOINTS = 900, 12
BORDER_PX = 24


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
        psnr_db: Against the converged picture.
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


def lens_for(blurred: str, radius_px: float) -> Lens:
    """The lens that focuses one layer and blurs the other by up to a radius."""
    if blurred == "background":
        return Lens(FOREGROUND_DISPARITY, radius_px / (FOREGROUND_DISPARITY - BACKGROUND_PLANE[0]))
    return Lens(BACKGROUND_MEAN, radius_px / (FOREGROUND_DISPARITY - BACKGROUND_MEAN))


def shown(rgba_linear: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 ch cw"]:
    """Display values of what is away from the border."""
    border = min(BORDER_PX, (min(rgba_linear.shape[2:]) - 1) // 2)
    return linear_to_srgb(rgba_linear[:, :3, border:-border, border:-border].clamp(0.0, 1.0)).cpu()


def measure(
    stack: LayerStack, blurred: str, radius_px: float, backend: str, n_samples: int, *, truth: Tensor, repeats: int
) -> Measurement:
    """Render once to warm up, then a few times on the clock."""
    lens, device = lens_for(blurred, radius_px), stack.rgba_linear.device
    picture = render_layers(stack, lens, n_samples=n_samples, backend=backend)
    load = os.getloadavg()[0]
    clock, processor = [], []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started, started_cpu = time.perf_counter(), time.process_time()
        render_layers(stack, lens, n_samples=n_samples, backend=backend)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - started_cpu)
    return Measurement(
        backend=backend,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores",
        dtype=str(stack.rgba_linear.dtype).removeprefix("torch."),
        shape=tuple(stack.rgba_linear.shape),
        blurred=blurred,
        radius_px=radius_px,
        n_samples=n_samples,
        seconds=statistics.median(clock),
        cpu_seconds=statistics.median(processor),
        psnr_db=float(psnr(shown(picture), shown(truth))),
        load_before=load,
    )


def table(results: list[Measurement]) -> str:
    """The measurements, aligned."""
    head = f"{'backend':8}{'blurred':12}{'radius':>8}{'points':>8}{'seconds':>9}{'cpu s':>8}{'PSNR':>9}{'load':>6}"
    lines = [
        f"{m.backend:8}{m.blurred:12}{m.radius_px:5.0f} px{m.n_samples:8d}{m.seconds:9.3f}{m.cpu_seconds:8.2f}"
        f"{m.psnr_db:6.1f} dB{m.load_before:6.1f}"
        for m in results
    ]
    return "\n".join([head, *lines])


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=816)
    parser.add_argument("--radii-px", type=float, nargs="+", default=[12.0, 24.0, 48.0, 96.0])
    parser.add_argument("--samples", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--backends", nargs="+", default=["cpu"], help="torch on the CPU takes 15 times as long as cpu")
    parser.add_argument("--device", default="cpu", help="cuda with --backends cupy torch")
    parser.add_argument("--brute-force", action="store_true", help=f"also through {BRUTE_FORCE_SAMPLES} points")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="a file; by default one in benchmarks/results")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    chosen = options()
    scene = two_layers(chosen.size_px)
    stack = LayerStack(scene.rgba_linear.to(chosen.device), scene.planes.to(chosen.device))
    counts = [*chosen.samples, *([BRUTE_FORCE_SAMPLES] if chosen.brute_force else [])]
    results = []
    for blurred in ("background", "foreground"):
        for radius_px in chosen.radii_px:
            truth = render_layers(stack, lens_for(blurred, radius_px), n_samples=CONVERGED_SAMPLES)
            for backend in chosen.backends:
                for n_samples in counts:
                    results.append(
                        measure(stack, blurred, radius_px, backend, n_samples, truth=truth, repeats=chosen.repeats)
                    )
                    sys.stdout.write(table(results[-1:]).splitlines()[1] + "\n")
                    sys.stdout.flush()
    sys.stdout.write(table(results) + "\n")
    out = chosen.out or RESULTS / f"renderers_{chosen.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
    }
    out.write_text(json.dumps({**machine, "results": [asdict(result) for result in results]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
