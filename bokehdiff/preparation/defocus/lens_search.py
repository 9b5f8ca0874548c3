"""What is known of the lenses of defocused images, and the search for the rest among the costs of a focal sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.preparation.defocus.focal_sweep import Sweep
from bokehdiff.preparation.defocus.labelling import STEP_PX

FirstFocus = Literal["nearest", "farthest"]

LEAST_BLUR_PX = 1.0  # smaller discs do not show: if none is larger, there is nothing to see depth by
RANGE_SLACK = 0.1  # of the range of u that a guess shows, by which what follows may leave it
LARGEST_SHARE = 0.08  # of the longer side: no disc is looked for beyond it, if the strength is unknown, ...
LARGEST_PX = 10.0  # ... or beyond this, if it is more
QUANTILE = 0.03  # of the pixels may lie beyond each end of the range that is called 0 to 1: edges mislead some


@dataclass(frozen=True)
class Lenses:
    """Lenses of defocused images.

    Args:
        focus_disparity: Disparity in focus in each.
        strength_px: Radius of the circle of confusion at one unit of disparity from the focus [px].
    """

    focus_disparity: tuple[float, ...]
    strength_px: tuple[float, ...]


@dataclass(frozen=True)
class LensModel:
    """Lenses in terms of the signed circle of confusion u of the first image: coc_i = scales[i] * u + shifts[i].

    Concretely, coc_i = K_i (d - f_i) and u = K_1 (d - f_1) make scales[i] = K_i / K_1 and shifts[i] = K_i (f_1 - f_i):
    shifts = base + directions @ unknown, where what is unknown is the strength, or one shift per further image.

    Args:
        strength_px: K of each, or None if unknown [px].
        focus_disparity: In focus in each, or None if unknown.
        first_focus: On which side of the rest the first image is focused, or None if focus tells.
        scales: Strengths over the first.
        base: Shifts where everything unknown is 0 [px].
        directions: Change of the shifts with what is unknown.
        least_px: Smallest u to look for [px].
        most_px: Largest u [px].
    """

    strength_px: tuple[float, ...] | None
    focus_disparity: tuple[float, ...] | None
    first_focus: FirstFocus | None
    scales: tuple[float, ...]
    base: Float[Tensor, " n"]
    directions: Float[Tensor, "n p"]
    least_px: float
    most_px: float

    def shifts(self, unknown: Float[Tensor, " p"]) -> Float[Tensor, " n"]:
        """Shift of each image [px]; gradients flow through."""
        return self.base + self.directions @ unknown

    @property
    def largest_px(self) -> float:
        """Largest radius of the first image [px]."""
        return max(abs(self.least_px), abs(self.most_px))

    @property
    def is_known(self) -> bool:
        """Whether strength and focus were given."""
        return self.strength_px is not None and self.focus_disparity is not None

    @property
    def levels_px(self) -> Float[Tensor, " k"]:
        """Circles of confusion to choose from, ascending, zero among them if it is in the range."""
        return torch.arange(round(self.least_px / STEP_PX), round(self.most_px / STEP_PX) + 1) * STEP_PX

    def levels_within(self, strength_px: float) -> Float[Tensor, " k"]:
        """Those that a disparity in [0, 1] can have, if it is the strength that is unknown and is this [px]."""
        levels_px = self.levels_px
        if self.strength_px is not None or self.focus_disparity is None:
            return levels_px
        low, high = (strength_px * (limit - self.focus_disparity[0]) for limit in (0.0, 1.0))
        within = (levels_px >= low - STEP_PX) & (levels_px <= high + STEP_PX)
        return levels_px[within] if bool(within.any()) else levels_px[:1]

    def radius_px(self, unknown: Float[Tensor, " p"]) -> float:
        """Largest radius that any image may show [px]."""
        shifts = self.shifts(unknown).tolist()
        ends = (self.least_px, self.most_px)
        return max(abs(k * end + shift) for k, shift in zip(self.scales, shifts, strict=True) for end in ends)

    def lenses(self, unknown: Float[Tensor, " p"], coc_px: Float[Tensor, "1 h w"]) -> Lenses:
        """Focus and strength of each image, what is unknown being set so that the scene spans [0, 1].

        Args:
            unknown: As found.
            coc_px: u, as found [px].
        """
        least, most = _span(coc_px)
        one = len(self.scales) == 1
        if one and self.first_focus == "nearest":
            most = 0.0
        if one and self.first_focus == "farthest":
            least = 0.0
        strength, focus = self.strength_px, self.focus_disparity
        if strength is None and focus is None:
            strength = (most - least,) * len(self.scales)
        if strength is None:
            assert focus is not None  # noqa: S101  else it has just been set
            found = float(unknown[0]) if len(unknown) else _strength_px(least, most, focus[0])
            strength = (found,) * len(self.scales)
        if min(strength) < LEAST_BLUR_PX:
            raise InputError("the defocused images are as sharp as the sharp one: there is no depth to see by")
        if focus is None:
            first = 1.0 - most / strength[0]
            shifts = self.shifts(unknown).tolist()
            focus = tuple(first - shift / k for shift, k in zip(shifts, strength, strict=True))
        return Lenses(focus, strength)

    def folded(self, unknown: Float[Tensor, " p"], coc_px: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
        """u, with surfaces mirrored in an outermost focus that seem to end the scene right beyond it.

        There the disc of that image is too small to show on which side of its focus a surface lies. Without this a part
        of a scene whose end is in focus comes out as far beyond it, and stretches the scale of all disparities.

        Args:
            unknown: As found.
            coc_px: u, as found [px].
        """
        if self.strength_px is not None or self.focus_disparity is not None or len(self.scales) == 1:
            return coc_px
        in_focus = [-shift / k for shift, k in zip(self.shifts(unknown).tolist(), self.scales, strict=True)]
        least, most = _span(coc_px)
        if min(in_focus) - LEAST_BLUR_PX < least < min(in_focus):
            coc_px = torch.maximum(coc_px, 2.0 * min(in_focus) - coc_px)
        if max(in_focus) < most < max(in_focus) + LEAST_BLUR_PX:
            coc_px = torch.minimum(coc_px, 2.0 * max(in_focus) - coc_px)
        return coc_px

    def narrowed(self, coc_px: Float[Tensor, "1 h w"]) -> LensModel:
        """The same lenses for the range of u that a guess has shown, and a little more.

        Args:
            coc_px: u, as guessed [px].
        """
        least, most = _span(coc_px)
        slack = max(2.0 * STEP_PX, RANGE_SLACK * (most - least))
        return replace(self, least_px=max(self.least_px, least - slack), most_px=min(self.most_px, most + slack))

    def resized(self, scale: float) -> LensModel:
        """The same for images resized by `scale`."""
        strength = None if self.strength_px is None else tuple(scale * value for value in self.strength_px)
        return replace(
            self,
            strength_px=strength,
            base=self.base * scale,
            least_px=self.least_px * scale,
            most_px=self.most_px * scale,
        )


def lens_model(
    n_images: int,
    *,
    strength_px: Sequence[float] | None,
    focus_disparity: Sequence[float] | None,
    first_focus: FirstFocus | None,
    largest_px: float | None,
    size_px: int,
) -> LensModel:
    """What the arguments of `depth_from_defocus` say of its lenses.

    Args:
        n_images: Defocused images.
        strength_px: K of each [px], or None.
        focus_disparity: In focus in each, or None.
        first_focus: See there.
        largest_px: Largest circle of confusion to look for [px], or None.
        size_px: Longer side of the images [px].
    """
    strength = _numbers("strength_px", strength_px, n_images)
    focus = _numbers("focus_disparity", focus_disparity, n_images)
    if strength is not None and min(strength) <= 0:
        raise InputError(f"strength_px must be above 0; got {min(strength):g}")
    if largest_px is None:
        largest_px = max(LARGEST_SHARE * size_px, LARGEST_PX) if strength is None else math.inf
    if not largest_px > 0:
        raise InputError(f"the largest circle of confusion must be above 0 px; got {largest_px:g}")
    least_px, most_px = _range_px(strength, focus, first_focus, largest_px, n_images)
    scales = (1.0,) * n_images if strength is None else tuple(value / strength[0] for value in strength)
    base, directions = torch.zeros(n_images), torch.zeros(n_images, 0)
    if focus is not None and strength is not None:
        base = torch.tensor([k * (focus[0] - f) for k, f in zip(strength, focus, strict=True)])
    elif focus is not None:
        directions = torch.tensor([[focus[0] - f] for f in focus]) if n_images > 1 else directions
    else:
        sign = -1.0 if first_focus == "farthest" else 1.0  # focused nearer, a thing looks farther behind the focus
        directions = sign * torch.eye(n_images)[:, 1:]
    return LensModel(strength, focus, first_focus, scales, base, directions, least_px, most_px)


def _numbers(name: str, values: Sequence[float] | None, n_images: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) != n_images:
        raise InputError(f"{name} must have one number per defocused image, {n_images}; got {len(values)}")
    if not bool(torch.isfinite(torch.tensor([float(value) for value in values])).all()):
        raise InputError(f"{name} must be finite; got {list(values)}")
    return tuple(float(value) for value in values)


def _range_px(
    strength: tuple[float, ...] | None,
    focus: tuple[float, ...] | None,
    first_focus: FirstFocus | None,
    largest_px: float,
    n_images: int,
) -> tuple[float, float]:
    """Smallest and largest u, by disparity in [0, 1]; refuses what leaves the side of the focus open."""
    reach = largest_px if strength is None else strength[0]
    least, most = -reach, reach
    if focus is not None:
        far, near = -focus[0], 1.0 - focus[0]
        least, most = (
            (reach * far, reach * near) if strength is not None else (reach * (far < 0) * -1.0, reach * (near > 0))
        )
    least, most = max(least, -largest_px), min(most, largest_px)
    if focus is not None and len(set(focus)) > 1:
        return least, most
    if least < 0 < most and first_focus is None:
        raise InputError(_open_side(n_images, focus))
    if focus is None and n_images > 1:
        return least, most
    if first_focus is not None:
        least, most = (least, min(most, 0.0)) if first_focus == "nearest" else (max(least, 0.0), most)
    if not least < most:
        raise InputError(f"first_focus {first_focus!r} contradicts the focus {focus}: nothing lies on that side of it")
    return least, most


def _span(coc_px: Float[Tensor, "1 h w"]) -> tuple[float, float]:
    """What all but QUANTILE of the pixels lie above, and below."""
    order = coc_px.flatten().sort().values
    beyond = int(QUANTILE * (len(order) - 1))
    return float(order[beyond]), float(order[len(order) - 1 - beyond])


def _strength_px(least_px: float, most_px: float, focus_disparity: float) -> float:
    """The least strength that puts u between two values into disparities in [0, 1]."""
    behind = -least_px / focus_disparity if focus_disparity > 0 else 0.0
    before = most_px / (1.0 - focus_disparity) if focus_disparity < 1 else 0.0
    return max(behind, before)


def _open_side(n_images: int, focus: tuple[float, ...] | None) -> str:
    remedy = "pass first_focus='nearest' or 'farthest'"
    if n_images == 1:
        return (
            "one defocused image does not tell what is before its focus from what is behind: "
            f"{remedy}, or a second image of another focus"
        )
    if focus is None:
        return f"defocused images of unknown focus do not tell near from far: {remedy} (of the first image), or focus"
    return f"images focused alike, at {focus[0]:g}, do not tell what is before the focus from what is behind: {remedy}"


def searched(model: LensModel, sweep: Sweep) -> Float[Tensor, " p"]:
    """What is unknown of the lenses, one number after the other, by the costs of the pixels that tell most.

    Concretely, the number is the one that minimises sum_p min_u sum_i cost_i(p, scales[i] u + shifts[i]), over
    the images whose lens is then known, between steps of the sweep by a parabola.

    Args:
        model: What is known.
        sweep: Of the images, over radii.
    """
    unknown = torch.zeros(model.directions.shape[1])
    where = sweep.probes()
    for j in range(len(unknown)):
        # A strength shows in every image; a shift in its own, the later ones being still unknown.
        seen = model.directions[:, : j + 1].abs().sum(dim=1) > 0
        seen[0] = True
        images = [int(i) for i in seen.nonzero()[:, 0]]
        # Two images at the ends of the range see one thing by discs of that size, one before and one behind the focus.
        shifts_px = torch.arange(0.0, 2.0 * model.largest_px + STEP_PX, STEP_PX)
        unknown[j] = _best_number(model, sweep, unknown, j, shifts_px, images, where)
        if float(unknown[j]) * _steepest(model, j) < LEAST_BLUR_PX:
            raise InputError(
                "the defocused images are focused alike: pass images of clearly different focus, or one of them"
            )
    return unknown


def _steepest(model: LensModel, j: int) -> float:
    """Most that a shift changes by one unit of what is unknown."""
    return float(model.directions[:, j].abs().max())


def _best_number(
    model: LensModel,
    sweep: Sweep,
    unknown: Float[Tensor, " p"],
    j: int,
    shifts_px: Float[Tensor, " m"],
    images: Sequence[int],
    where: Tensor,
) -> float:
    """The best of the numbers that give the steepest shift one of several values [px], equally far apart."""
    values = shifts_px / _steepest(model, j)
    scores = []
    for value in values.tolist():
        tried = unknown.clone()
        tried[j] = value
        levels_px = model.levels_within(value)
        costs = sweep.explained(levels_px, model.scales, model.shifts(tried), images, where)
        scores.append(float(costs.amin(dim=0).sum()))
    best = min(range(len(scores)), key=scores.__getitem__)
    if not 0 < best < len(scores) - 1:
        return float(values[best])
    before, here, after = scores[best - 1 : best + 2]
    offset = 0.5 * (before - after) / max(before - 2.0 * here + after, 1e-12)
    return float(values[best] + offset * (values[best + 1] - values[best]))
