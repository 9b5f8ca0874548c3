"""How strong the blur is, and lenses in metres: what a person says, turned into a lens for disparity in [0, 1]."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.inference.focus import Distance, Focus, parse_focus, resolve_focus
from bokehdiff.optics import CameraSettings, Lens

FOCUS_IRRELEVANT_M = 1.0  # the thin lens's strength does not depend on where it is focused


@dataclass(frozen=True)
class ShareOfWidth:
    """A strength that means the same at any size: K = share * width.

    Args:
        share: Of the image's width [1].
    """

    share: float


@dataclass(frozen=True)
class FNumber:
    """The opening of a real lens.

    Args:
        f_number: N [1]; None for the photograph's own, from its EXIF.
    """

    f_number: float | None = None


@dataclass(frozen=True)
class MetricRange:
    """Which distances the ends of a disparity map stand for.

    Args:
        nearest_m: Of disparity 1 [m].
        farthest_m: Of disparity 0 [m]; `inf` for infinity.
    """

    nearest_m: float
    farthest_m: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.nearest_m < self.farthest_m:
            raise InputError(
                f"distances must be 0 < nearest < farthest; got {self.nearest_m:g} m and {self.farthest_m:g} m"
            )

    @property
    def nearest(self) -> float:
        """Metric disparity of the nearest point [1/m]."""
        return 1.0 / self.nearest_m

    @property
    def farthest(self) -> float:
        """Metric disparity of the farthest point [1/m]."""
        return 1.0 / self.farthest_m


Strength: TypeAlias = float | ShareOfWidth | FNumber


def parse_strength(text: str) -> Strength:
    """Read a strength.

    Args:
        text: K such as "20" [px], a share of the width such as "2%", an opening such as "f/1.8", or "camera" for the
            opening that EXIF tells.
    """
    said = text.strip().lower()
    if said == "camera":
        return FNumber()
    found = re.fullmatch(r"(f/?)?([0-9.]+)(%?)", said)
    try:
        value = float(found[2]) if found else math.nan
    except ValueError:
        value = math.nan
    if found is None or math.isnan(value) or (found[1] and found[3]):
        raise InputError(f"must be K in px such as 20, a share of the width such as 2%, f/1.8 or camera; got {text!r}")
    if found[1]:
        return FNumber(value)
    return ShareOfWidth(value / 100.0) if found[3] else value


def resolve_lens(
    disparity: Float[Tensor, "b h w"],
    *,
    focus: Focus | str,
    strength: Strength | str,
    mask: Float[Tensor, "b mh mw"] | None = None,
    camera: CameraSettings | None = None,
    distances: MetricRange | None = None,
) -> Lens:
    """The lens that a focus and a strength mean for one disparity map.

    Concretely, for an opening K = f_px * A * (1 / nearest - 1 / farthest), with f_px and A as in `lens_from_camera`; a
    distance d is in focus at disparity (1 / d - 1 / farthest) / (1 / nearest - 1 / farthest).

    Args:
        disparity: In [0, 1], 1 nearest.
        focus: As in `resolve_focus`, or text for `parse_focus`.
        strength: K [px], another form of it, or text for `parse_strength`.
        mask: As in `resolve_focus`.
        camera: What EXIF tells; None for nothing.
        distances: What disparity 0 and 1 stand for; None if unknown.
    """
    focus = parse_focus(focus) if isinstance(focus, str) else focus
    strength = parse_strength(strength) if isinstance(strength, str) else strength
    camera = camera or CameraSettings()
    if isinstance(focus, Distance):
        focus = _disparity_of(focus, camera, _known(distances, "a focus in metres"))
    strength_px = _strength_px(strength, (disparity.shape[1], disparity.shape[2]), camera, distances)
    return Lens(resolve_focus(disparity, focus, mask), strength_px)


def _strength_px(
    strength: Strength, size_hw: tuple[int, int], camera: CameraSettings, distances: MetricRange | None
) -> float:
    if isinstance(strength, ShareOfWidth):
        return strength.share * size_hw[1]
    if not isinstance(strength, FNumber):
        return float(strength)
    known = _known(distances, "an f-number")
    # A sensor lies although its photograph may stand.
    metric = camera.lens(image_width_px=max(size_hw), f_number=strength.f_number, focus_distance_m=FOCUS_IRRELEVANT_M)
    return float(metric.strength_px) * (known.nearest - known.farthest)


def _disparity_of(focus: Distance, camera: CameraSettings, distances: MetricRange) -> float:
    distance_m = focus.m if focus.m is not None else camera.focus_distance_m
    if distance_m is None:
        raise InputError("the photograph's EXIF does not tell the distance in focus: pass it, such as 2.5m")
    within = (1.0 / distance_m - distances.farthest) / (distances.nearest - distances.farthest)
    if not -1e-9 <= within <= 1.0 + 1e-9:
        raise InputError(
            f"the distance in focus must lie in the scene, {distances.nearest_m:g} m to {distances.farthest_m:g} m; "
            f"got {distance_m:g} m"
        )
    return min(max(within, 0.0), 1.0)


def _known(distances: MetricRange | None, what: str) -> MetricRange:
    if distances is None:
        raise InputError(f"{what} needs to know how far the nearest and the farthest point are: pass the distances")
    return distances
