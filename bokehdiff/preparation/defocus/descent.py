"""Circles of confusion and lenses improved by descent through the renderer of photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.images import Transfer, linear_to_srgb, resize, srgb_to_linear
from bokehdiff.metrics import psnr
from bokehdiff.optics import Aperture, Lens
from bokehdiff.preparation.defocus.alignment import Alignment, moved_back
from bokehdiff.preparation.defocus.labelling import links
from bokehdiff.preparation.defocus.lens_search import LensModel
from bokehdiff.renderers import render_photo

STEP_SHARE = 0.02  # of the largest radius, that a pixel may change at once ...
LEAST_STEP_PX = 0.1  # ... or this, if it is more
LENS_STEP_PX = (
    0.02  # that a shift between images may change at once: the search among all pixels errs less than descent
)
LEAST_SLOPE = 0.005  # display values per px: Adam would take full steps where blur changes hardly anything
SMOOTHNESS = 1e-3  # of a change by 1 px of radius between neighbours, in display values
SMOOTH_PX = 0.05  # smaller changes between neighbours count by their square
ANCHOR = 2e-3  # of leaving the start by 1 px, where texture is sure of it, in display values
ROBUST_SRGB = 0.05  # smaller differences of display values count by their square, larger ones by themselves


@dataclass(frozen=True)
class Found:
    """Circle of confusion in the first defocused image [px], and what was unknown of the lenses; see `LensModel`."""

    coc_px: Float[Tensor, "1 h w"]
    unknown: Float[Tensor, " p"]


@dataclass(frozen=True)
class DefocusImages:
    """A sharp image and defocused ones of one size."""

    sharp_linear: Float[Tensor, "1 3 h w"]
    blurred_linear: Float[Tensor, "n 3 h w"]
    transfer: Transfer
    aperture: Aperture

    @classmethod
    def of_display(
        cls,
        sharp_srgb: Float[Tensor, "1 3 h w"],
        blurred_srgb: Float[Tensor, "n 3 h w"],
        *,
        transfer: Transfer,
        aperture: Aperture,
    ) -> DefocusImages:
        """From display values."""
        linear = [srgb_to_linear(image, transfer=transfer) for image in (sharp_srgb, blurred_srgb)]
        return cls(linear[0], linear[1], transfer, aperture)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width [px]."""
        return int(self.sharp_linear.shape[2]), int(self.sharp_linear.shape[3])

    @property
    def sharp_srgb(self) -> Float[Tensor, "1 3 h w"]:
        """Display values of the sharp image."""
        return self.seen(self.sharp_linear)

    @property
    def blurred_srgb(self) -> Float[Tensor, "n 3 h w"]:
        """Display values of the defocused images."""
        return self.seen(self.blurred_linear)

    def seen(self, image_linear: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Display values, as a photograph has them."""
        return linear_to_srgb(image_linear, transfer=self.transfer).clamp(0.0, 1.0)

    def resized(self, scale: float) -> DefocusImages:
        """The same images, by `scale` of the size."""
        if scale == 1.0:
            return self
        size_hw = (max(1, round(scale * self.size_hw[0])), max(1, round(scale * self.size_hw[1])))
        smaller = [resize(image, size_hw) for image in (self.sharp_linear, self.blurred_linear)]
        return DefocusImages(smaller[0], smaller[1], self.transfer, self.aperture)

    def laid_over(self, alignments: Sequence[Alignment]) -> DefocusImages:
        """The same, with the defocused images moved back onto the sharp one.

        Args:
            alignments: Of each at this size.
        """
        pairs = zip(self.blurred_linear.split(1), alignments, strict=True)
        return replace(self, blurred_linear=torch.cat([moved_back(image, alignment) for image, alignment in pairs]))

    def rendered(self, image: int, state: Found, model: LensModel) -> Float[Tensor, "1 3 h w"]:
        """What the sharp image looks like through the lens of a defocused one; linear light.

        Args:
            image: Which.
            state: Circles of confusion and lenses; gradients flow through.
            model: Of the lenses.
        """
        scale = model.scales[image]
        lens = Lens(-model.shifts(state.unknown)[image : image + 1] / scale, scale, self.aperture)
        return render_photo(self.sharp_linear, state.coc_px, lens, method="occlusion_aware")

    @torch.no_grad()
    def residuals_db(self, state: Found, model: LensModel) -> tuple[float, ...]:
        """PSNR of what is rendered against each defocused image [dB]."""
        pictures = [self.seen(self.rendered(i, state, model)) for i in range(len(self.blurred_linear))]
        return tuple(psnr(torch.cat(pictures), self.blurred_srgb).tolist())


def descended(
    images: DefocusImages,
    model: LensModel,
    start: Found,
    confidence: Float[Tensor, "1 h w"],
    *,
    n_steps: int,
    bar: Any,
) -> Found:
    """Adam, with steps that shrink to nothing; what had the least squares is kept, be it the start.

    Args:
        images: To explain.
        model: Of the lenses.
        start: Where to begin.
        confidence: How sure each pixel is of its start, in [0, 1).
        n_steps: At least 1.
        bar: Told of each step.
    """
    coc_px, unknown = start.coc_px.clone().requires_grad_(), start.unknown.clone().requires_grad_()
    step_px = max(LEAST_STEP_PX, STEP_SHARE * model.largest_px)
    parts = [{"params": [coc_px], "lr": step_px}]
    if unknown.numel():
        parts.append({"params": [unknown], "lr": LENS_STEP_PX / float(model.directions.abs().max())})
    optimiser = torch.optim.Adam(parts, eps=LEAST_SLOPE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1.0 + math.cos(math.pi * i / n_steps)))
    right, below = links(images.sharp_srgb)
    best, least = start, math.inf
    for step in range(n_steps + 1):
        optimiser.zero_grad()
        squares = _add_slopes(images, Found(coc_px, unknown), model)
        if squares < least:
            best, least = Found(coc_px.detach().clone(), unknown.detach().clone()), squares
        if step == n_steps:
            break
        leaving = (confidence * robust(coc_px - start.coc_px, SMOOTH_PX)).sum()
        (SMOOTHNESS * smoothness(coc_px, right, below) * coc_px.numel() + ANCHOR * leaving).backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            coc_px.clamp_(model.least_px, model.most_px)
        bar.update()
    return best


def _add_slopes(images: DefocusImages, state: Found, model: LensModel) -> float:
    """Back-propagate what the images differ by; the sum of squares."""
    n_pixels = state.coc_px.numel()  # slopes are per pixel, whatever the size
    blurred_srgb = images.blurred_srgb
    squares = 0.0
    for i in range(len(blurred_srgb)):  # one graph at a time: memory does not grow with the number of images
        difference = images.seen(images.rendered(i, state, model)) - blurred_srgb[i : i + 1]
        if difference.requires_grad:  # nothing out of focus, nothing to follow
            (robust(difference, ROBUST_SRGB).mean() * n_pixels / len(blurred_srgb)).backward()
        squares += float(difference.detach().square().sum())
    return squares


def smoothness(
    coc_px: Float[Tensor, "b h w"], right: Float[Tensor, "b h wr"], below: Float[Tensor, "b hb w"]
) -> Float[Tensor, ""]:
    """Mean change between neighbours, where the sharp image has no edge [px].

    Args:
        coc_px: Circle of confusion [px].
        right: How surely each pixel and the next one lie on one surface, from `links`.
        below: The same for the pixel below.
    """
    along = (right * robust(coc_px.diff(dim=2), SMOOTH_PX)).sum()
    down = (below * robust(coc_px.diff(dim=1), SMOOTH_PX)).sum()
    return (along + down) / coc_px.numel()


def robust(difference: Tensor, bend: float) -> Tensor:
    """Charbonnier: the absolute value, rounded off at 0.

    Args:
        difference: Any.
        bend: Below, squares count.
    """
    return (difference.square() + bend**2).sqrt() - bend
