"""Views of known depth, sharp and defocused, by the layered tracer: not by the renderer that finds their depth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from bokehdiff.data import synthetic_background
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.optics import Lens
from bokehdiff.renderers import LayerStack, render_layers

TEXTURE_SRGB = 0.05  # change of colour within 5 px, below which nothing can be seen to be blurred


@dataclass(frozen=True)
class View:
    """A sharp image and defocused ones, display values; disparity in [0, 1]; where there is texture."""

    sharp_srgb: Tensor
    blurred_srgb: Tensor
    disparity: Tensor
    textured: Tensor


def view(size_px: int, lenses: list[Lens], *, seed: int = 3) -> View:
    """A tilted ground from 0 to 0.45 and two boxes, at 0.7 and 1, before it."""
    colours = [srgb_to_linear(synthetic_background(seed, 4 * n, size_px=size_px, photographs=False)) for n in range(3)]
    alpha = torch.zeros(3, 1, 1, size_px, size_px)
    alpha[0] = 1.0
    alpha[1, ..., size_px // 8 : size_px // 2, size_px // 8 : size_px // 2] = 1.0
    alpha[2, ..., size_px // 2 + 2 : 7 * size_px // 8, size_px // 2 - 4 : 7 * size_px // 8] = 1.0
    planes = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.45 / size_px]])
    layers = [torch.cat([colours[n] * alpha[n], alpha[n]], dim=1) for n in (2, 1, 0)]
    stack = LayerStack(torch.stack(layers, dim=1), planes[None])
    sharp, *blurred = (render_layers(stack, lens, n_samples=512)[:, :3] for lens in (Lens(0.0, 0.0), *lenses))
    shown = torch.stack([layer[0, 3] for layer in layers])
    index = (shown > 0.5).float().argmax(dim=0)
    disparity = stack.disparity()[0].gather(0, index[None])
    return _view(sharp, torch.cat(blurred), disparity)


def path_traced(path: Path, names: tuple[str, ...]) -> tuple[View, list[Lens]]:
    """A view of the lens ground truth and its lenses, for disparity put to [0, 1]."""
    arrays, lenses = np.load(path.with_suffix(".npz")), json.loads(path.with_suffix(".json").read_text())["views"]
    images = [
        torch.from_numpy(arrays[key]).float().permute(2, 0, 1)[None] for key in ("aif", *map("bokeh_{}".format, names))
    ]
    disparity = torch.from_numpy(arrays["disparity"]).float()[None]
    ends = [float(end) for end in disparity.aminmax()]
    found = [Lens(lenses[name]["focus"], lenses[name]["K_px_per_disparity"]).normalised(*ends) for name in names]
    return _view(images[0], torch.cat(images[1:]), (disparity - ends[0]) / (ends[1] - ends[0])), found


def _view(sharp_linear: Tensor, blurred_linear: Tensor, disparity: Tensor) -> View:
    sharp_srgb = linear_to_srgb(sharp_linear).clamp(0.0, 1.0)
    extremes = torch.stack([max_pool2d(sign * sharp_srgb, 5, stride=1, padding=2) for sign in (1.0, -1.0)])
    textured = extremes.sum(dim=0).amax(dim=1) > TEXTURE_SRGB
    return View(sharp_srgb, linear_to_srgb(blurred_linear).clamp(0.0, 1.0), disparity, textured)


def median_error(found: Tensor, seen: View) -> float:
    """Median absolute error of disparity where there is texture."""
    return float((found - seen.disparity).abs()[seen.textured].median())


def error_up_to_a_line(found: Tensor, seen: View) -> float:
    """The same, after the line that brings the one nearest to the other: without a lens, depth has no scale of its own.

    Least absolute differences, by least squares whose weights are refined.
    """
    x, y = found[seen.textured].double(), seen.disparity[seen.textured].double()
    terms = torch.stack([x, torch.ones_like(x)], dim=1)
    weight = torch.ones_like(x)
    for _ in range(20):
        line = torch.linalg.lstsq(terms * weight[:, None], (y * weight)[:, None]).solution
        error = (terms @ line)[:, 0].sub(y).abs()
        weight = (error + 1e-3).rsqrt()
    return float(error.median())
