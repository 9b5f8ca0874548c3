"""Depth from defocus: the disparity that makes a sharp image look like its defocused ones, found by descent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from bokehdiff.errors import InputError
from bokehdiff.images import Transfer, resize
from bokehdiff.optics import Aperture, Lens
from bokehdiff.preparation.defocus.alignment import NONE, Alignment, aligned, roughly_aligned, worth_it
from bokehdiff.preparation.defocus.candidates import tried
from bokehdiff.preparation.defocus.descent import DefocusImages, Found, descended
from bokehdiff.preparation.defocus.focal_sweep import NOISE_SRGB, Sweep, sweep_radii
from bokehdiff.preparation.defocus.labelling import Guess, filled, labelled
from bokehdiff.preparation.defocus.lens_search import QUANTILE, FirstFocus, LensModel, lens_model, searched

logger = logging.getLogger(__name__)

DISC = Aperture()
SWEEP_SIDE_PX = 320  # longer side of the image that is swept: above, radii and so time grow faster than insight
N_TRIALS = 3  # rounds in which every depth of every pixel is tried, the rest being as the last round left it
ROUGH_PX = 2.0  # smaller movements may be errors of the first alignment
CLIP_SLACK = 0.01  # disparities that leave [0, 1] by less are rounding of the search


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
        alignments: What each defocused image was moved back by before it was compared.
        aperture: Shape of the opening, as given.
    """

    disparity: Float[Tensor, "1 h w"]
    confidence: Float[Tensor, "1 h w"]
    focus_disparity: tuple[float, ...]
    strength_px: tuple[float, ...]
    residual_before_db: tuple[float, ...]
    residual_swept_db: tuple[float, ...]
    residual_after_db: tuple[float, ...]
    alignments: tuple[Alignment, ...]
    aperture: Aperture

    @property
    def lenses(self) -> tuple[Lens, ...]:
        """The lens of each defocused image."""
        pairs = zip(self.focus_disparity, self.strength_px, strict=True)
        return tuple(Lens(focus, strength, self.aperture) for focus, strength in pairs)

    @property
    def gain_db(self) -> float:
        """How far the sum of squared differences over all images has fallen, from the best uniform disparity [dB]."""
        return joint_db(self.residual_after_db) - joint_db(self.residual_before_db)


def joint_db(residuals_db: Sequence[float]) -> float:
    """PSNR over several images of one size together: of their mean squared difference [dB].

    Args:
        residuals_db: PSNR of each [dB].
    """
    return float(-10.0 * torch.log10((10.0 ** (-0.1 * torch.tensor(residuals_db, dtype=torch.float64))).mean()))


@dataclass(frozen=True)
class _Swept:
    """What is known before the descent, at the full size: the range of u, u, the lenses, uniform u, alignments."""

    model: LensModel
    guess: Guess
    unknown: Float[Tensor, " p"]
    uniform_px: float
    alignments: tuple[Alignment, ...]


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
    align: bool = True,
    progress: bool = False,
) -> DefocusResult:
    """Recover disparity, and focus and strength where unknown, from a sharp image and defocused ones of the same view.

    Concretely, with the renderer R = render_photo(method="occlusion_aware"), minimise over disparity and lenses
    mean |R(sharp, disparity, lens_i) - blurred_i| in display values, plus SMOOTHNESS times the changes of disparity
    between neighbours where the sharp image has no edge, and ANCHOR times what confident pixels leave their start by:
    by Adam, from what discs the same everywhere (`focal_sweep`) and then depths tried pixel by pixel (`candidates`)
    have told. Of all steps that with the least squares is kept, be it the start.

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
        n_steps: Of descent; 0 leaves what the sweep and the trials have told.
        align: Move the defocused images back onto the sharp one by a shift, a turn and a change of scale, and
            make them as bright, as far as they differ by more than such a search errs.
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
    full = DefocusImages.of_display(sharp_srgb, blurred_srgb, transfer=transfer, aperture=aperture)
    with tqdm(total=1 + N_TRIALS + n_steps, unit="step", disable=not progress) as bar:
        swept = _swept(full, model, align, bar)
        full = full.laid_over(swept.alignments)
        start = found = Found(swept.guess.coc_px, swept.unknown)
        if n_steps:
            found = descended(full, swept.model, start, swept.guess.confidence, n_steps=n_steps, bar=bar)
    return _result(full, swept, start, found)


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


def _swept(full: DefocusImages, model: LensModel, align: bool, bar: Any) -> _Swept:
    """Everything that sweeps of discs tell, at the full size."""
    scale = min(1.0, SWEEP_SIDE_PX / max(full.size_hw))
    taken, whole = full.resized(scale), model.resized(scale)
    alignments = _roughly_aligned(taken) if align else (NONE,) * len(taken.blurred_linear)
    images = taken.laid_over(alignments)
    largest_px = whole.radius_px(torch.zeros(model.directions.shape[1]))
    logger.info("focal sweep: radii up to %g px at %d x %d px", largest_px, *reversed(images.size_hw))
    sweep, uniform = sweep_radii(
        images.sharp_linear,
        images.blurred_srgb,
        largest_px=largest_px,
        aperture=full.aperture,
        transfer=full.transfer,
    )
    if float((sweep.costs.amax(dim=1) - sweep.costs.amin(dim=1)).max()) < NOISE_SRGB**2:
        raise InputError("the sharp image has no texture that blur would change: there is no depth to see by")
    unknown = searched(whole, sweep)
    uniform_px = uniform.best_px(whole.levels_px, whole.scales, whole.shifts(unknown))
    guess = _labelled(images, whole, sweep, unknown)
    bar.update()
    for _ in range(N_TRIALS):
        # Where depth breaks off discs are seen that no surface has: the range of those that have one is smaller.
        small = whole if whole.is_known else whole.narrowed(guess.coc_px)
        if align:
            alignments = _aligned(taken, small, Found(guess.coc_px, unknown), alignments)
            images = taken.laid_over(alignments)
        sweep = tried(
            images.sharp_linear,
            images.blurred_srgb,
            guess.coc_px,
            small.levels_px,
            small.scales,
            small.shifts(unknown),
            aperture=full.aperture,
            transfer=full.transfer,
        )
        guess = _labelled(images, small, sweep, unknown)
        bar.update()
    guess = filled(guess, images.sharp_srgb)
    coc_px, confidence = (resize(plane[:, None], full.size_hw)[:, 0] for plane in (guess.coc_px, guess.confidence))
    return _Swept(
        small.resized(1.0 / scale),
        Guess(coc_px / scale, confidence),
        unknown / scale,
        uniform_px / scale,
        tuple(alignment.resized(1.0 / scale) for alignment in alignments),
    )


def _roughly_aligned(taken: DefocusImages) -> tuple[Alignment, ...]:
    """Of each defocused image, before anything is known of depth; small movements wait until something is."""
    found = [
        roughly_aligned(taken.sharp_linear, image, transfer=taken.transfer, aperture=taken.aperture)
        for image in taken.blurred_linear.split(1)
    ]
    return tuple(part if part.largest_px(taken.size_hw) > ROUGH_PX else NONE for part in found)


@torch.no_grad()
def _aligned(
    taken: DefocusImages, model: LensModel, state: Found, starts: Sequence[Alignment]
) -> tuple[Alignment, ...]:
    """Of each defocused image, to what the guess of its depth makes of the sharp one."""
    found = []
    for i, start in enumerate(starts):
        alignment = aligned(
            taken.rendered(i, state, model), taken.blurred_linear[i : i + 1], start, transfer=taken.transfer
        )
        disc_px = float((model.scales[i] * state.coc_px + model.shifts(state.unknown)[i]).abs().mean())
        found.append(worth_it(alignment, taken.size_hw, disc_px=disc_px))
        if found[-1] != NONE:
            logger.info(
                "defocused image %d: moved back by up to %.2f px at %d x %d px, light divided by %.3f",
                i + 1,
                found[-1].largest_px(taken.size_hw),
                *reversed(taken.size_hw),
                found[-1].gain,
            )
    return tuple(found)


def _labelled(images: DefocusImages, model: LensModel, sweep: Sweep, unknown: Float[Tensor, " p"]) -> Guess:
    costs = sweep.explained(model.levels_px, model.scales, model.shifts(unknown), range(len(model.scales)))
    return labelled(costs, images.sharp_srgb, model.levels_px)


def _result(full: DefocusImages, swept: _Swept, start: Found, found: Found) -> DefocusResult:
    """In disparity, with the residuals of start and end."""
    model = swept.model
    coc_px = model.folded(found.unknown, found.coc_px)
    lenses = model.lenses(found.unknown, coc_px)
    disparity = lenses.focus_disparity[0] + coc_px / lenses.strength_px[0]
    clipped = float(((disparity < -CLIP_SLACK) | (disparity > 1.0 + CLIP_SLACK)).float().mean())
    if clipped > 2.0 * QUANTILE:
        logger.warning(
            "%.1f %% of the disparities lay outside [0, 1] and were clipped: is the lens right?", 1e2 * clipped
        )
    disparity = disparity.clamp(0.0, 1.0)
    at_end = Found((disparity - lenses.focus_disparity[0]) * lenses.strength_px[0], found.unknown)
    uniform = Found(torch.full_like(found.coc_px, swept.uniform_px), start.unknown)
    before, at_start, after = (full.residuals_db(state, model) for state in (uniform, start, at_end))
    return DefocusResult(
        disparity,
        swept.guess.confidence,
        lenses.focus_disparity,
        lenses.strength_px,
        before,
        at_start,
        after,
        swept.alignments,
        full.aperture,
    )
