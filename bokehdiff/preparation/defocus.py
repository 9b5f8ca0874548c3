"""Depth from defocus: the disparity that makes a sharp image look like its defocused ones, found by descent."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from bokehdiff.errors import InputError
from bokehdiff.images import Transfer, linear_to_srgb, resize, srgb_to_linear
from bokehdiff.metrics import psnr
from bokehdiff.optics import Aperture, Lens
from bokehdiff.preparation.focal_sweep import NOISE_SRGB, Guess, guess, links, sweep_radii
from bokehdiff.preparation.lens_search import QUANTILE, FirstFocus, LensModel, lens_model, searched
from bokehdiff.renderers import render_photo

logger = logging.getLogger(__name__)

DISC = Aperture()
SWEEP_SIDE_PX = 320  # longer side of the image that is swept: above, radii and so time grow faster than insight
LEAST_SIDE_PX = 48  # shorter side of the smallest image of the pyramid
N_SIZES = 3  # of the pyramid, each half as large as the one before
STEP_SHARE = 0.02  # of the largest radius, that a pixel may change at once ...
LEAST_STEP_PX = 0.1  # ... or this, if it is more
LEAST_SLOPE = 0.005  # display values per px: Adam would take full steps where blur changes hardly anything
SMOOTHNESS = 1e-3  # of a change by 1 px of radius between neighbours, in display values
SMOOTH_PX = 0.05  # smaller changes between neighbours count by their square
CLIP_SLACK = 0.01  # disparities that leave [0, 1] by less are rounding of the search
ROBUST_SRGB = 0.01  # smaller differences of display values count by their square, larger ones by themselves


@dataclass(frozen=True)
class DefocusResult:
    """Depth from defocus, and how well it explains the defocused images.

    Args:
        disparity: 0 farthest, 1 nearest; as the lenses below have it.
        confidence: How much texture tells about it in each place, in [0, 1); filled from beside where 0.
        focus_disparity: Disparity in focus in each of the n defocused images.
        strength_px: Radius of the circle of confusion at one unit of disparity from the focus, in each [px].
        residual_before_db: PSNR against each defocused image, display values, of the sharp one blurred as for the best
            uniform disparity: what is known before depth is [dB].
        residual_swept_db: The same with the depth of the focal sweep, where the descent starts [dB].
        residual_after_db: The same with `disparity` [dB].
        aperture: Shape of the opening, as given.
    """

    disparity: Float[Tensor, "1 h w"]
    confidence: Float[Tensor, "1 h w"]
    focus_disparity: tuple[float, ...]
    strength_px: tuple[float, ...]
    residual_before_db: tuple[float, ...]
    residual_swept_db: tuple[float, ...]
    residual_after_db: tuple[float, ...]
    aperture: Aperture

    @property
    def lenses(self) -> tuple[Lens, ...]:
        """The lens of each defocused image."""
        pairs = zip(self.focus_disparity, self.strength_px, strict=True)
        return tuple(Lens(focus, strength, self.aperture) for focus, strength in pairs)


@dataclass(frozen=True)
class _Found:
    """Circle of confusion in the first defocused image [px], and what was unknown of the lenses; see `LensModel`."""

    coc_px: Float[Tensor, "1 h w"]
    unknown: Float[Tensor, " p"]


@dataclass(frozen=True)
class _Swept:
    """What the focal sweep tells: the range of u, u itself, and what was unknown of the lenses."""

    model: LensModel
    guessed: Guess
    unknown: Float[Tensor, " p"]


@dataclass(frozen=True)
class _View:
    """The images at one size of the pyramid."""

    sharp_linear: Float[Tensor, "1 3 h w"]
    blurred_linear: Float[Tensor, "n 3 h w"]
    transfer: Transfer

    @property
    def size_hw(self) -> tuple[int, int]:
        return int(self.sharp_linear.shape[2]), int(self.sharp_linear.shape[3])

    @property
    def sharp_srgb(self) -> Float[Tensor, "1 3 h w"]:
        return self.seen(self.sharp_linear)

    @property
    def blurred_srgb(self) -> Float[Tensor, "n 3 h w"]:
        return self.seen(self.blurred_linear)

    def seen(self, image_linear: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Display values, as a photograph has them."""
        return linear_to_srgb(image_linear, transfer=self.transfer).clamp(0.0, 1.0)

    def resized(self, scale: float) -> _View:
        """The same images, by `scale` of the size."""
        if scale == 1.0:
            return self
        size_hw = (max(1, round(scale * self.size_hw[0])), max(1, round(scale * self.size_hw[1])))
        return _View(resize(self.sharp_linear, size_hw), resize(self.blurred_linear, size_hw), self.transfer)

    def rendered(
        self, image: int, coc_px: Tensor, model: LensModel, unknown: Tensor, aperture: Aperture
    ) -> Float[Tensor, "1 3 h w"]:
        """What the sharp image looks like through the lens of a defocused one; display values."""
        scale = model.scales[image]
        lens = Lens(-model.shifts(unknown)[image : image + 1] / scale, scale, aperture)
        return self.seen(render_photo(self.sharp_linear, coc_px, lens, method="occlusion_aware"))

    @torch.no_grad()
    def residuals_db(self, state: _Found, model: LensModel, aperture: Aperture) -> tuple[float, ...]:
        """PSNR of what is rendered against each defocused image [dB]."""
        seen = [self.rendered(i, state.coc_px, model, state.unknown, aperture) for i in range(len(self.blurred_linear))]
        return tuple(psnr(torch.cat(seen), self.blurred_srgb).tolist())


def depth_from_defocus(
    sharp_srgb: Float[Tensor, "1 3 h w"],
    blurred_srgb: Float[Tensor, "n 3 bh bw"],
    *,
    strength_px: Sequence[float] | None = None,
    focus_disparity: Sequence[float] | None = None,
    first_focus: FirstFocus | None = None,
    largest_coc_px: float | None = None,
    aperture: Aperture = DISC,
    transfer: Transfer = "gamma22",
    n_steps: int = 8,
    progress: bool = False,
) -> DefocusResult:
    """Recover disparity, and focus and strength where unknown, from a sharp image and defocused ones of the same view.

    Concretely, with the renderer R = render_photo(method="occlusion_aware"), minimise over disparity and lenses
    mean |R(sharp, disparity, lens_i) - blurred_i| in display values, plus SMOOTHNESS times the changes of disparity
    between neighbours where the sharp image has no edge: from a sweep of uniform discs (`focal_sweep.guess`), by Adam,
    from small images to large ones.

    A disc looks the same before and behind the focus, so what one defocused image cannot tell must be said by
    `first_focus`, and so for several whose focus is unknown. Without the strength, it is the same in all of
    them, and disparity 0 and 1 are the farthest and nearest point of the scene.

    Args:
        sharp_srgb: All in focus, display values.
        blurred_srgb: One or more defocused images of the same view and size, display values.
        strength_px: K of each defocused image, at its size [px]; None if unknown, but the same in all.
        focus_disparity: Disparity in focus in each; None if unknown.
        first_focus: One image: its focus is at the "nearest" or the "farthest" point of the scene or beyond. Several:
            the first is focused nearer ("nearest") or farther than all others, needed if focus_disparity is None.
        largest_coc_px: Largest circle of confusion to look for [px]; None for what strength and focus say, or for 8 %
            of the longer side, at least 10.
        aperture: Shape of the opening.
        transfer: How display values become light.
        n_steps: Of descent at the full size; twice as many at half of it, and so on. 0 leaves the sweep as it is.
        progress: Show a bar.
    """
    _check_images(sharp_srgb, blurred_srgb)
    if n_steps < 0:
        raise InputError(f"n_steps must be 0 or more; got {n_steps}")
    model = lens_model(
        len(blurred_srgb),
        strength_px=strength_px,
        focus_disparity=focus_disparity,
        first_focus=first_focus,
        largest_px=largest_coc_px,
        size_px=max(sharp_srgb.shape[2:]),
    )
    full = _view(sharp_srgb, blurred_srgb, transfer)
    swept = _swept(full, model, aperture)
    model, guessed, start = swept.model, swept.guessed, _Found(swept.guessed.coc_px, swept.unknown)
    found = _descended(full, model, start, aperture, n_steps, progress) if n_steps else start
    return _result(full, model, guessed, start, found, aperture)


def _view(sharp_srgb: Tensor, blurred_srgb: Tensor, transfer: Transfer) -> _View:
    blurred_linear = srgb_to_linear(blurred_srgb, transfer=transfer)
    return _View(srgb_to_linear(sharp_srgb, transfer=transfer), blurred_linear, transfer)


def _check_images(sharp_srgb: Tensor, blurred_srgb: Tensor) -> None:
    if len(blurred_srgb) < 1:
        raise InputError("depth from defocus needs at least one defocused image; got none")
    if sharp_srgb.shape[2:] != blurred_srgb.shape[2:]:
        (height, width), (blurred_height, blurred_width) = sharp_srgb.shape[2:], blurred_srgb.shape[2:]
        raise InputError(
            f"sharp and defocused images must have one size; got {width} x {height} and "
            f"{blurred_width} x {blurred_height} px"
        )
    for name, image in (("sharp image", sharp_srgb), ("defocused images", blurred_srgb)):
        if not bool(torch.isfinite(image).all()):
            raise InputError(f"the {name} must be finite; got NaN or infinity")


def _swept(full: _View, model: LensModel, aperture: Aperture) -> _Swept:
    """Everything that the focal sweep tells, at the full size."""
    scale = min(1.0, SWEEP_SIDE_PX / max(full.size_hw))
    view, small = full.resized(scale), model.resized(scale)
    largest_px = small.radius_px(torch.zeros(model.directions.shape[1]))
    sweep = sweep_radii(view.sharp_linear, view.blurred_srgb, largest_px=largest_px, aperture=aperture)
    if float((sweep.costs.amax(dim=1) - sweep.costs.amin(dim=1)).max()) < NOISE_SRGB**2:
        raise InputError("the sharp image has no texture that blur would change: there is no depth to see by")
    unknown = searched(small, sweep)
    logger.info("focal sweep: radii up to %g px at %d x %d px", largest_px, *reversed(view.size_hw))
    shifts = small.shifts(unknown)
    first = guess(sweep, view.sharp_srgb, small.levels_px, small.scales, shifts)
    if not small.is_known:
        # Where depth breaks off patches see two discs, and some choose one that no surface has: look again without.
        small = small.narrowed(first.coc_px, first.confidence)
        first = guess(sweep, view.sharp_srgb, small.levels_px, small.scales, shifts)
    coc_px = resize(first.coc_px[:, None], full.size_hw)[:, 0] / scale
    confidence = resize(first.confidence[:, None], full.size_hw)[:, 0]
    at_full = Guess(coc_px, confidence, first.uniform_px / scale)
    return _Swept(small.resized(1.0 / scale), at_full, unknown / scale)


def _descended(
    full: _View, model: LensModel, start: _Found, aperture: Aperture, n_steps: int, progress: bool
) -> _Found:
    """Coarse to fine: what changes at one size is added to what is known at the full one."""
    scales = [2.0**-k for k in reversed(range(N_SIZES)) if k == 0 or min(full.size_hw) * 2.0**-k >= LEAST_SIDE_PX]
    coc_px, unknown = start.coc_px, start.unknown
    with tqdm(total=sum(round(n_steps / scale) for scale in scales), unit="step", disable=not progress) as bar:
        for scale in scales:
            view = full.resized(scale)
            before_px = resize(coc_px[:, None], view.size_hw)[:, 0] * scale
            before = _Found(before_px, unknown * scale)
            found = _descend(view, model.resized(scale), before, aperture, round(n_steps / scale), bar)
            change_px = resize((found.coc_px - before_px)[:, None], full.size_hw)[:, 0] / scale
            coc_px, unknown = coc_px + change_px, found.unknown / scale
    return _Found(coc_px.clamp(model.least_px, model.most_px), unknown)


def _descend(view: _View, model: LensModel, start: _Found, aperture: Aperture, n_steps: int, bar: Any) -> _Found:
    """Adam on the circles of confusion and what is unknown of the lenses, with steps that shrink to nothing."""
    coc_px, unknown = start.coc_px.clone().requires_grad_(), start.unknown.clone().requires_grad_()
    step_px = max(LEAST_STEP_PX, STEP_SHARE * model.largest_px)
    optimiser = torch.optim.Adam([part for part in (coc_px, unknown) if part.numel()], lr=step_px, eps=LEAST_SLOPE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1.0 + math.cos(math.pi * i / n_steps)))
    right, below = links(view.sharp_srgb)
    blurred_srgb = view.blurred_srgb
    n_pixels = coc_px.numel()  # slopes are per pixel, whatever the size
    for _ in range(n_steps):
        optimiser.zero_grad()
        for i in range(len(blurred_srgb)):  # one graph at a time: memory does not grow with the number of images
            picture = view.rendered(i, coc_px, model, unknown, aperture)
            difference = picture - blurred_srgb[i : i + 1]
            if difference.requires_grad:  # nothing out of focus, nothing to follow
                (_robust(difference, ROBUST_SRGB).mean() * n_pixels / len(blurred_srgb)).backward()
        (SMOOTHNESS * smoothness(coc_px, right, below) * n_pixels).backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            coc_px.clamp_(model.least_px, model.most_px)
        bar.update()
    return _Found(coc_px.detach(), unknown.detach())


def smoothness(
    coc_px: Float[Tensor, "b h w"], right: Float[Tensor, "b h wr"], below: Float[Tensor, "b hb w"]
) -> Float[Tensor, ""]:
    """Mean change between neighbours, where the sharp image has no edge [px].

    Args:
        coc_px: Circle of confusion [px].
        right: How surely each pixel and the next one lie on one surface, from `links`.
        below: The same for the pixel below.
    """
    along = (right * _robust(coc_px.diff(dim=2), SMOOTH_PX)).sum()
    down = (below * _robust(coc_px.diff(dim=1), SMOOTH_PX)).sum()
    return (along + down) / coc_px.numel()


def _robust(difference: Tensor, bend: float) -> Tensor:
    """Charbonnier: the absolute value, rounded off at 0."""
    return (difference.square() + bend**2).sqrt() - bend


def _result(
    full: _View, model: LensModel, guessed: Guess, start: _Found, found: _Found, aperture: Aperture
) -> DefocusResult:
    """In disparity, with the residuals of start and end."""
    lenses = model.lenses(found.unknown, found.coc_px, guessed.confidence)
    disparity = lenses.focus_disparity[0] + found.coc_px / lenses.strength_px[0]
    clipped = float(((disparity < -CLIP_SLACK) | (disparity > 1.0 + CLIP_SLACK)).float().mean())
    if clipped > 2.0 * QUANTILE:
        logger.warning(
            "%.1f %% of the disparities lay outside [0, 1] and were clipped: is the lens right?", 1e2 * clipped
        )
    disparity = disparity.clamp(0.0, 1.0)
    at_end = _Found((disparity - lenses.focus_disparity[0]) * lenses.strength_px[0], found.unknown)
    uniform = _Found(torch.full_like(found.coc_px, guessed.uniform_px), start.unknown)
    before, swept, after = (full.residuals_db(state, model, aperture) for state in (uniform, start, at_end))
    return DefocusResult(
        disparity, guessed.confidence, lenses.focus_disparity, lenses.strength_px, before, swept, after, aperture
    )
