"""Quality, time and memory of the photograph renderers.

    python benchmarks/photo_renderers.py quality FOLDER ...  # against path-traced lenses, beside two formulas
    python benchmarks/photo_renderers.py cost  # 1 megapixel by scatter, 12 by auto, each in its own process

A FOLDER holds NAME.npz and NAME.json as benchmarks/lens_scenes.py writes them. Scores are PSNR [dB] of the whole image
after clipping to [0, 1] and gamma 1/2.2. Beside our methods stand the all-in-focus image itself and the published
formulas of BokehMe (its splat) and Dr. Bokeh (its gather, one layer), written down here as slow sums over offsets.
Costs are of a photograph with slopes, subjects and noise in its depth, blurred by up to 2 % of its width.
Results go to benchmarks/results/ as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.images import srgb_to_linear
from bokehdiff.metrics import psnr
from bokehdiff.optics import Lens
from bokehdiff.renderers import METHODS, render_photo
from bokehdiff.tiling import Window

RESULTS = Path(__file__).parent / "results"
DISPLAY_GAMMA = 2.2
LEAST_SIZE_PX = 320  # of the noise in the depth of the photograph whose costs are measured
BLUR = 0.02  # of the width
KIB_PER_GIB = 2**20
BEST, FORMULAS = "layered", ("BokehMe", "Dr. Bokeh")  # what "auto" takes, and what it should surpass on every view
WORKLOADS = {"scatter": (1224, 816), "auto": (4000, 3000)}  # method: width, height


def bokehme(image_linear: Float[Tensor, "3 h w"], coc_px: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """BokehMe's classical splat (Peng et al., CVPR 2022).

    Concretely, out(p) = sum of w(q, p) I(q) over the sum of w, with w = (1/2 + tanh(4 (r - |p - q|)) / 2) / (r^2 + 0.2)
    for the radius r of q, up to int(r) + 1 px in x and y.
    """
    radius = coc_px.abs()
    share = 1.0 / (radius.square() + 0.2)
    total = torch.zeros(4, *coc_px.shape)
    payload = torch.cat([image_linear, torch.ones(1, *coc_px.shape)]) * share
    reach = radius.int() + 1
    for down, right in _offsets(int(reach.max())):
        near = reach >= max(abs(down), abs(right))
        weight = (0.5 + 0.5 * torch.tanh(4.0 * (radius - math.hypot(down, right)))) * near
        source, target = _shifted(coc_px.shape, down, right)
        target.cut(total).add_(source.cut(payload * weight))
    return total[:3] / total[3:]


def dr_bokeh(
    image_linear: Float[Tensor, "3 h w"], disparity: Float[Tensor, "h w"], focus: float, strength_px: float
) -> Float[Tensor, "3 h w"]:
    """Dr. Bokeh's gather (Sheng et al., CVPR 2024), all in one layer.

    Concretely, out(p) = sum of w o I(q) over the sum of w o, with S = K |d| + 1 at q, w = phi(S - |p - q|) / S^2,
    phi(t) = 0.1 / (0.1 + exp(-3 t)), and o = 1 for q = p, else (1 - f) rho + f with f = 1 - exp(-3 (K d(p))^2) and
    rho = 1/2 + tanh(10 (d(q) - d(p) - 0.1)) / 2.
    """
    defocus = disparity - focus
    scatter_radius = strength_px * defocus.abs() + 1.0
    share = 1.0 / scatter_radius.square()
    reach = math.ceil(float(scatter_radius.max())) + 1
    blurred = 1.0 - torch.exp(-3.0 * (strength_px * defocus).square())
    total = torch.zeros(4, *defocus.shape)
    padded = F.pad(
        torch.cat([image_linear, defocus[None], scatter_radius[None], share[None]])[None],
        (reach,) * 4,
        mode="replicate",
    )[0]
    height, width = defocus.shape
    for down, right in _offsets(reach):
        distance = math.hypot(down, right)
        if distance >= reach:
            continue
        seen = padded[:, reach + down : reach + down + height, reach + right : reach + right + width]
        weight = 0.1 / (0.1 + torch.exp((-3.0 * (seen[4] - distance)).clamp(max=60.0))) * seen[5]
        if distance:
            nearer = 0.5 + 0.5 * torch.tanh(10.0 * (seen[3] - defocus - 0.1))
            weight = weight * torch.lerp(nearer, torch.ones_like(nearer), blurred)
        total[:3] += weight * seen[:3]
        total[3] += weight
    return total[:3] / (total[3:] + 1e-8)


def _offsets(reach: int) -> Iterator[tuple[int, int]]:
    return ((down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1))


def _shifted(size_hw: torch.Size, down: int, right: int) -> tuple[Window, Window]:
    """Where pixels that move by an offset come from and go to, without those that leave the image."""
    height, width = size_hw[0] - abs(down), size_hw[1] - abs(right)
    source = Window(max(0, -down), max(0, -right), height, width)
    return source, Window(max(0, down), max(0, right), height, width)


@dataclass(frozen=True)
class View:
    """One path-traced picture and what renderers are given.

    Args:
        name: Scene and view.
        image_linear: All in focus.
        disparity: Metric, 1/z.
        lens: Metric.
        truth_linear: Through the lens.
    """

    name: str
    image_linear: Float[Tensor, "1 3 h w"]
    disparity: Float[Tensor, "1 h w"]
    lens: Lens
    truth_linear: Float[Tensor, "1 3 h w"]

    def score(self, picture: Float[Tensor, "1 3 h w"]) -> float:
        """PSNR of display values [dB]."""
        shown = [image.clamp(0, 1) ** (1 / DISPLAY_GAMMA) for image in (picture, self.truth_linear)]
        return float(psnr(*shown))


def views(folders: list[Path]) -> Iterator[View]:
    """All views of all scenes."""
    for path in (path for folder in folders for path in sorted(folder.glob("*.npz"))):
        cameras = json.loads(path.with_suffix(".json").read_text())["views"]
        with np.load(path) as arrays:
            image, disparity = _planar(arrays["aif"]), torch.from_numpy(arrays["disparity"])[None]
            for name, camera in cameras.items():
                lens = Lens(camera["focus"], camera["K_px_per_disparity"])
                yield View(f"{path.stem} {name}", image, disparity, lens, _planar(arrays[f"bokeh_{name}"]))


def _planar(image: np.ndarray) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def _by_dr_bokeh(view: View) -> Float[Tensor, "1 3 h w"]:
    farthest, nearest = (float(value) for value in view.disparity.aminmax())
    lens = view.lens.normalised(farthest, nearest)  # its constants are meant for disparities in [0, 1]
    normal = (view.disparity[0] - farthest) / (nearest - farthest)
    return dr_bokeh(view.image_linear[0], normal, float(lens.focus_disparity), float(lens.strength_px))[None]


PUBLISHED: dict[str, Callable[[View], Tensor]] = {
    "all in focus": lambda view: view.image_linear,
    "BokehMe": lambda view: bokehme(view.image_linear[0], view.lens.coc_px(view.disparity)[0])[None],
    "Dr. Bokeh": _by_dr_bokeh,
}


def measure_quality(chosen: argparse.Namespace) -> list[dict[str, object]]:
    """Score every method on every view."""
    rows: list[dict[str, object]] = []
    methods = chosen.methods
    for view in views(chosen.folders):
        row: dict[str, object] = {"view": view.name}
        for method in methods:
            if method in PUBLISHED:
                picture = PUBLISHED[method](view)
            else:
                picture = render_photo(view.image_linear, view.disparity, view.lens, method=method)
            row[method] = round(view.score(picture), 2)
        rows.append(row)
        sys.stdout.write(_line(row) + "\n")
        sys.stdout.flush()
    if {BEST, *FORMULAS} <= set(methods):
        below = ", ".join(below_a_formula(rows)) or "none"
        sys.stdout.write(f"of {len(rows)} views {BEST} is not above both formulas on: {below}\n")
    mean = {method: round(sum(_score(row, method) for row in rows) / len(rows), 2) for method in methods}
    rows.append({"view": f"mean of {len(rows)}", **mean})
    sys.stdout.write(_line({name: name for name in rows[0]}) + "\n" + _line(rows[-1]) + "\n")
    return rows


def below_a_formula(rows: list[dict[str, object]]) -> list[str]:
    """Views on which "auto" is not better than both published formulas."""
    return [str(row["view"]) for row in rows if not all(_score(row, BEST) > _score(row, name) for name in FORMULAS)]


def _score(row: dict[str, object], method: str) -> float:
    return float(str(row[method]))


def _line(row: dict[str, object]) -> str:
    return "| " + " | ".join(str(value) for value in row.values()) + " |"


def photograph(width: int, height: int) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 h w"]]:
    """A picture with fine texture; a tilted ground, five soft-edged subjects and 8-bit noise in its disparity."""
    rng = np.random.default_rng(0)
    tile = cv2.resize(skimage.data.coffee(), (width, height), interpolation=cv2.INTER_CUBIC)
    image = srgb_to_linear(torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 255.0)
    disparity = np.linspace(0.0, 0.55, height, dtype=np.float32)[:, None].repeat(width, axis=1)
    for i in range(5):
        centre = (int(width * (0.12 + 0.19 * i)), int(height * rng.uniform(0.4, 0.7)))
        axes = (int(width * 0.07), int(height * 0.25))
        mask = cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, 10 * i, 0, 360, 255, -1, cv2.LINE_AA)
        disparity = np.where(mask > 127, 0.5 + 0.125 * i, disparity)
    noise = cv2.resize(rng.normal(0, 1 / 255, (LEAST_SIZE_PX,) * 2).astype(np.float32), (width, height))
    return image, torch.from_numpy(np.clip(disparity + noise, 0.0, 1.0))[None]


def run_workload(method: str, repeats: int) -> dict[str, object]:
    """Render the photograph in this process, whose peak memory counts."""
    width, height = WORKLOADS[method]
    image, disparity = photograph(width, height)
    focus = 0.3
    lens = Lens(focus, BLUR * width / float((disparity - focus).abs().max()))
    clock, processor = [], []
    for _ in range(repeats):
        started, started_cpu = time.perf_counter(), time.process_time()
        render_photo(image, disparity, lens, method=method)
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - started_cpu)
    return {
        "method": method,
        "size": f"{width} x {height}",
        "largest_coc_px": round(float(lens.coc_px(disparity).abs().max()), 1),
        "seconds": round(min(clock), 2),
        "cpu_seconds": round(min(processor), 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_GIB, 2),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
    }


def measure_cost(chosen: argparse.Namespace) -> list[dict[str, object]]:
    """Every workload in a process of its own."""
    rows = []
    for method in chosen.methods:
        command = [
            sys.executable,
            __file__,
            "run",
            method,
            "--repeats",
            str(chosen.repeats if method == "scatter" else 1),
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    return rows


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    quality = commands.add_parser("quality")
    quality.add_argument("folders", type=Path, nargs="+")
    known = [*PUBLISHED, *METHODS]
    quality.add_argument("--methods", nargs="+", choices=known, default=known, help="the published formulas are slow")
    cost = commands.add_parser("cost")
    cost.add_argument("--methods", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    cost.add_argument("--repeats", type=int, default=5, help="of the short workload")
    for command in (quality, cost):
        command.add_argument("--out", type=Path, default=None, help="a file; by default one in benchmarks/results")
    run = commands.add_parser("run", help="one workload in this process")
    run.add_argument("method", choices=WORKLOADS)
    run.add_argument("--repeats", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    chosen = options()
    if chosen.command == "run":
        sys.stdout.write(json.dumps(run_workload(chosen.method, chosen.repeats)) + "\n")
        return 0
    rows = measure_quality(chosen) if chosen.command == "quality" else measure_cost(chosen)
    out = chosen.out or RESULTS / f"photo_renderers_{chosen.command}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    out.write_text(json.dumps({**machine, "results": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
