"""Depth from defocus on scenes of known depth: `python benchmarks/defocus.py` takes half an hour of one core.

The scenes are of seeds that no constant was chosen on: a tilted ground and subjects at random disparities before
it, blurred by the layered tracer at twice the size. `--lens-ground-truth FOLDER ...` adds path-traced views, those
through the wide lens focused near and far; `--noise` adds normal noise to the display values of all images. Errors are
of disparity, in [0, 1], where the sharp image has texture; "line" is the median after the best line, since disparity
found without a lens has no scale of its own. PSNR is of display values over all defocused images together: of the sharp
image through the best uniform disparity, through the disparity found, and through the true one by the same renderer,
which is where the renderer and clipped lights limit it. Results go to benchmarks/results/defocus.json, and a table of
medians over the drawn scenes to the terminal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.data import synthetic_background, synthetic_foreground
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.metrics import psnr
from bokehdiff.optics import Lens
from bokehdiff.preparation import depth_from_defocus
from bokehdiff.preparation.defocus import joint_db
from bokehdiff.renderers import LayerStack, render_layers, render_photo

RESULTS = Path(__file__).parent / "results"
TEXTURE_SRGB = 0.05  # change of colour within 5 px, below which nothing can be seen to be blurred
SUPERSAMPLE = 2
STRENGTH_SHARE = 1 / 16  # of the longer side: 20 px at 320
FOCI = {1: (1.0,), 2: (1.0, 0.0), 3: (1.0, 0.5, 0.0)}
N_SUBJECTS = 3
NOISE_SEED = 7


@dataclass(frozen=True)
class View:
    """Sharp and defocused images, display values; true disparity; where there is texture; the lenses."""

    name: str
    sharp_srgb: Float[Tensor, "1 3 h w"]
    blurred_srgb: Float[Tensor, "n 3 h w"]
    disparity: Float[Tensor, "1 h w"]
    textured: Tensor
    focus_disparity: tuple[float, ...]
    strength_px: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """One line of the table; see the head of this file."""

    view: str
    size_px: int
    n_images: int
    lens_known: bool
    median: float
    median_line: float
    mean: float
    psnr_uniform_db: float
    psnr_found_db: float
    psnr_truth_db: float
    noise: float
    per_image_gain_db: tuple[float, ...]
    focus_error: float
    strength_ratio: float
    cpu_seconds: float


def textured(sharp_srgb: Float[Tensor, "1 3 h w"]) -> Tensor:
    """Where blur would show."""
    extremes = torch.stack([F.max_pool2d(sign * sharp_srgb, 5, stride=1, padding=2) for sign in (1.0, -1.0)])
    return extremes.sum(dim=0).amax(dim=1) > TEXTURE_SRGB


def shown(image_linear: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    """Display values."""
    return linear_to_srgb(image_linear[:, :3]).clamp(0.0, 1.0)


def drawn(seed: int, size_px: int, foci: tuple[float, ...]) -> View:
    """A scene of our own: disparity 0 at the top of the ground, 1 at the nearest subject."""
    rng = np.random.default_rng(seed)
    big = SUPERSAMPLE * size_px
    ground = srgb_to_linear(synthetic_background(seed, 4, size_px=big, photographs=False))
    layers = [torch.cat([ground, torch.ones_like(ground[:, :1])], dim=1)]
    planes = [torch.tensor([0.0, 0.0, float(rng.uniform(0.2, 0.5)) / big])]
    depths = [*sorted(rng.uniform(0.5, 0.9, size=N_SUBJECTS - 1).tolist()), 1.0]
    for n, depth in enumerate(depths):
        side = int(big * rng.uniform(0.4, 0.6))
        left, top = (int(value) for value in rng.integers(0, big - side, size=2))
        rgba = synthetic_foreground(seed, int(rng.integers(1000)) * 8 + n, size_px=side)
        alpha = F.pad(rgba[:, 3:], (left, big - left - side, top, big - top - side))
        paint = srgb_to_linear(synthetic_background(seed, 4 * n + 8, size_px=big, photographs=False))
        layers.insert(0, torch.cat([paint * alpha, alpha], dim=1))
        planes.insert(0, torch.tensor([depth, 0.0, 0.0]))
    stack = LayerStack(torch.stack(layers, dim=1), torch.stack(planes)[None])
    strength_px = STRENGTH_SHARE * size_px
    lenses = [Lens(0.0, 0.0), *(Lens(focus, SUPERSAMPLE * strength_px) for focus in foci)]
    images = [F.avg_pool2d(render_layers(stack, lens, n_samples=512)[:, :3], SUPERSAMPLE) for lens in lenses]
    index = (stack.rgba_linear[0, :, 3] > 0.5).float().argmax(dim=0)
    disparity = stack.disparity()[0].gather(0, index[None])[:, ::SUPERSAMPLE, ::SUPERSAMPLE]
    sharp = shown(images[0])
    blurred = torch.cat([shown(image) for image in images[1:]])
    return View(f"seed {seed}", sharp, blurred, disparity, textured(sharp), foci, (strength_px,) * len(foci))


def path_traced(folder: Path, name: str) -> View:
    """A view of the lens ground truth, its disparity put to [0, 1]."""
    arrays = np.load(folder / f"{name}.npz")
    lenses = json.loads((folder / f"{name}.json").read_text())["views"]
    names = ("near_wide", "far_wide")
    images = [
        shown(torch.from_numpy(arrays[key]).float().permute(2, 0, 1)[None])
        for key in ("aif", *map("bokeh_{}".format, names))
    ]
    disparity = torch.from_numpy(arrays["disparity"]).float()[None]
    least, most = (float(end) for end in disparity.aminmax())
    found = [Lens(lenses[n]["focus"], lenses[n]["K_px_per_disparity"]).normalised(least, most) for n in names]
    return View(
        name,
        images[0],
        torch.cat(images[1:]),
        (disparity - least) / (most - least),
        textured(images[0]),
        tuple(float(lens.focus_disparity) for lens in found),
        tuple(float(lens.strength_px) for lens in found),
    )


def error_up_to_a_line(found: Tensor, truth: Tensor) -> float:
    """Median absolute error after the line of least absolute differences, by least squares of refined weights."""
    terms = torch.stack([found, torch.ones_like(found)], dim=1).double()
    weight = torch.ones(len(found), dtype=torch.float64)
    error = weight
    for _ in range(20):
        line = torch.linalg.lstsq(terms * weight[:, None], (truth.double() * weight)[:, None]).solution
        error = (terms @ line)[:, 0].sub(truth).abs()
        weight = (error + 1e-3).rsqrt()
    return float(error.median())


def truth_db(view: View) -> float:
    """PSNR over all images with the true depth and lenses."""
    sharp = srgb_to_linear(view.sharp_srgb)
    lenses = [Lens(f, k) for f, k in zip(view.focus_disparity, view.strength_px, strict=True)]
    pictures = [shown(render_photo(sharp, view.disparity, lens, method="occlusion_aware")) for lens in lenses]
    return joint_db(psnr(torch.cat(pictures), view.blurred_srgb).tolist())


def noisy(view: View, sigma: float) -> View:
    """The same view by a camera with noise; what is compared to the truth stays where texture is in truth."""
    generator = torch.Generator().manual_seed(NOISE_SEED)

    def taken(image_srgb: Tensor) -> Tensor:
        return (image_srgb + sigma * torch.randn(image_srgb.shape, generator=generator)).clamp(0.0, 1.0)

    if not sigma:
        return view
    return replace(view, sharp_srgb=taken(view.sharp_srgb), blurred_srgb=taken(view.blurred_srgb))


def measure(view: View, *, lens_known: bool, sigma: float = 0.0) -> Measurement:
    """Find depth, compare it."""
    view = noisy(view, sigma)
    n_images = len(view.blurred_srgb)
    given: dict[str, Any] = {"first_focus": "nearest"} if n_images == 1 or not lens_known else {}
    if lens_known:
        given |= {"strength_px": view.strength_px, "focus_disparity": view.focus_disparity}
    started = time.process_time()
    found = depth_from_defocus(view.sharp_srgb, view.blurred_srgb, **given)
    seconds = time.process_time() - started
    got, truth = found.disparity[view.textured], view.disparity[view.textured]
    residuals = zip(found.residual_before_db, found.residual_after_db, strict=True)
    return Measurement(
        view=view.name,
        size_px=max(view.sharp_srgb.shape[2:]),
        n_images=n_images,
        lens_known=lens_known,
        median=float((got - truth).abs().median()),
        median_line=error_up_to_a_line(got, truth),
        mean=float((got - truth).abs().mean()),
        psnr_uniform_db=joint_db(found.residual_before_db),
        psnr_found_db=joint_db(found.residual_after_db),
        psnr_truth_db=truth_db(view),
        noise=sigma,
        per_image_gain_db=tuple(after - before for before, after in residuals),
        focus_error=max(abs(a - b) for a, b in zip(found.focus_disparity, view.focus_disparity, strict=True)),
        strength_ratio=found.strength_px[0] / view.strength_px[0],
        cpu_seconds=seconds,
    )


HEAD = (
    "view         px  images lens      noise  median   line   mean  uniform -> found (truth) dB   gain  K ratio  cpu s"
)


def line(m: Measurement) -> str:
    """One measurement, aligned with HEAD."""
    return (
        f"{m.view:11}{m.size_px:4d}{m.n_images:6d}   {'known  ' if m.lens_known else 'unknown'}"
        f"{m.noise:7.3f}{m.median:9.4f}{m.median_line:7.4f}{m.mean:7.4f}  {m.psnr_uniform_db:6.2f} "
        f"-> {m.psnr_found_db:5.2f} "
        f"({m.psnr_truth_db:5.2f})       {m.psnr_found_db - m.psnr_uniform_db:6.2f}{m.strength_ratio:8.3f}"
        f"{m.cpu_seconds:7.1f}"
    )


def summary(results: list[Measurement]) -> str:
    """Medians over the scenes of seeds with the range in brackets, in Markdown."""
    drawn_ones = [m for m in results if m.view.startswith("seed") and not m.noise]
    lines = [
        "| images | lens | median error | after the best line | mean error | gained [dB] | with truth [dB] | 10 dB |",
        "|---" * 8 + "|",
    ]
    for n_images, unknown in sorted({(m.n_images, not m.lens_known) for m in drawn_ones}):
        rows = [m for m in drawn_ones if m.n_images == n_images and m.lens_known is not unknown]
        gains = [m.psnr_found_db - m.psnr_uniform_db for m in rows]
        cells = (
            *(spread([1e2 * getattr(m, key) for m in rows], " %") for key in ("median", "median_line", "mean")),
            spread(gains, ""),
            spread([m.psnr_truth_db - m.psnr_uniform_db for m in rows], ""),
            f"{sum(gain >= 10.0 for gain in gains)} of {len(gains)}",
        )
        lines.append(f"| {n_images} | {'unknown' if unknown else 'known'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], unit: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="*", default=[101, 102, 103, 104, 105, 106])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 3], choices=[1, 2, 3])
    parser.add_argument("--lens-ground-truth", type=Path, nargs="*", default=[], help="folders of path-traced views")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="standard deviations, display values")
    parser.add_argument("--known-only", action="store_true", help="only with the lenses given")
    parser.add_argument("--out", type=Path, default=RESULTS / "defocus.json")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    chosen = options()
    views = [drawn(seed, chosen.size_px, FOCI[n]) for seed in chosen.seeds for n in chosen.images]
    for folder in chosen.lens_ground_truth:
        views += [path_traced(folder, path.stem) for path in sorted(folder.glob("*.npz"))]
    sys.stdout.write(HEAD + "\n")
    results = []
    known = (True,) if chosen.known_only else (True, False)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    for view, sigma, lens_known in itertools.product(views, chosen.noise, known):
        results.append(measure(view, lens_known=lens_known, sigma=sigma))
        sys.stdout.write(line(results[-1]) + "\n")
        sys.stdout.flush()
        record = {**machine, "results": [asdict(result) for result in results]}
        chosen.out.write_text(json.dumps(record, indent=1) + "\n")  # each time, so that nothing measured is lost
    sys.stdout.write(summary(results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
