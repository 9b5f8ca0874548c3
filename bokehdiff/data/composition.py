"""What training samples are drawn from: ranges and probabilities of scene, lens, camera, and of what is told.

Defaults are the published distribution. Sizes are those of BokehDiff's 768-px image, from which 512 px are cropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from bokehdiff.errors import InputError
from bokehdiff.images import Transfer
from bokehdiff.optics import Aperture

REFERENCE_PX = 768  # side of the published image, at whose size strengths are given
MOST_FOREGROUNDS = 8  # layers cost time each; more than a handful hide one another

Range = tuple[float, float]
PresetName = Literal["published", "bokehdiff"]


@dataclass(frozen=True)
class SceneRange:
    """What stands where.

    Args:
        n_foregrounds: Fewest and most subjects.
        foreground_scale: Range of the square root of a subject's box's share of the image; of n subjects each is
            smaller by the square root of n [1].
        offset: A subject's centre lies up to this share of the image's side from the middle, each way [1].
        tilt: A subject leans by up to this share of the room between it and the background, or the camera [1].
        mirror_foregrounds: Probability that a subject is mirrored by itself.
        background_disparity: Range that the background stays in.
        fronto: Probability that the background faces the camera.
        curved: Probability that it is bent (wall and floor, bowl, corner); otherwise it is a ramp.
        colour_match: Range of how far a subject's mean light is brought to the background's: 0 not, 1 wholly.
        shadow: Probability that a subject darkens the background behind it.
        shadow_depth: Range of the share of light that a shadow takes where it is deepest [1].
    """

    n_foregrounds: tuple[int, int] = (1, 1)
    foreground_scale: Range = (0.5, 1.0)
    offset: float = 0.25
    tilt: float = 0.0
    mirror_foregrounds: float = 0.0
    background_disparity: Range = (1 / 1000, 1 / 4)
    fronto: float = 0.0
    curved: float = 0.0
    colour_match: Range = (0.0, 0.0)
    shadow: float = 0.0
    shadow_depth: Range = (0.1, 0.5)

    def __post_init__(self) -> None:
        _check_ranges(self, n_foregrounds=(1, MOST_FOREGROUNDS), shadow_depth=(0, 1), colour_match=(0, 1))
        _check_ranges(self, foreground_scale=(0, 1), background_disparity=(0, 1))
        _check_shares(self, "offset", "tilt", "mirror_foregrounds", "fronto", "curved", "shadow")
        if self.foreground_scale[0] == 0 or self.background_disparity[1] == 1:
            raise InputError("a foreground needs a size above 0 and room in front of the background, below disparity 1")
        if self.fronto + self.curved > 1:
            raise InputError(f"fronto and curved must sum to 1 at most; got {self.fronto:g} and {self.curved:g}")


@dataclass(frozen=True)
class LensRange:
    """What is in focus, and through which opening. The blur's strength stands in `Composition`.

    Args:
        focus_foreground: Probability that a subject is in focus, and not the background.
        focus_between: Probability that the focus lies between two neighbouring things instead.
        focus_spread: Where on the background the focus lies: 0 in the middle of the image, 1 anywhere in it [1].
        shaped: Probability of an opening that is no plain disc. The network is not told of it.
        blades: Fewest and most blades of a shaped opening.
        rounding: Range of their curvature: 0 straight, 1 a disc.
        cat_eye: Range of the vignetting of a shaped opening; see `Aperture`.
        edge: Range of the brightness of its blur's rim; see `Aperture`.
    """

    focus_foreground: float = 0.5
    focus_between: float = 0.0
    focus_spread: float = 0.0
    shaped: float = 0.0
    blades: tuple[int, int] = (5, 9)
    rounding: Range = (0.2, 1.0)
    cat_eye: Range = (0.0, 0.5)
    edge: Range = (-0.3, 0.3)

    def __post_init__(self) -> None:
        _check_ranges(self, blades=(0, math.inf), rounding=(0, 1), cat_eye=(0, 1), edge=(-1, 1))
        for blades in self.blades:
            Aperture(blades=blades)  # knows how many there may be
        _check_shares(self, "focus_foreground", "focus_between", "focus_spread", "shaped")


@dataclass(frozen=True)
class CameraRange:
    """How light becomes a picture.

    Args:
        flip: Probability of each of the two mirrorings of the whole sample.
        exposure_probability: Probability that display values are scaled.
        exposure: Range of that scale [1].
        highlights: Probability that lights which the background's file has clipped are made brighter before blurring.
        highlight_gain: Range of how much brighter than white they become [1], drawn evenly in its logarithm.
        noise: Probability of sensor noise.
        shot_noise: Range of the variance per light of the noise of photons [1], even in the logarithm.
        read_noise: Range of the noise of the electronics, as light [1].
        jpeg: Probability of JPEG compression.
        jpeg_quality: Range of its quality [1 ... 100].
    """

    flip: float = 0.5
    exposure_probability: float = 0.75
    exposure: Range = (0.5, 1.1)
    highlights: float = 0.0
    highlight_gain: Range = (2.0, 16.0)
    noise: float = 0.0
    shot_noise: Range = (1e-4, 2e-3)
    read_noise: Range = (0.0, 4e-3)
    jpeg: float = 0.0
    jpeg_quality: Range = (70.0, 98.0)

    def __post_init__(self) -> None:
        _check_ranges(self, exposure=(0, math.inf), highlight_gain=(1, math.inf), jpeg_quality=(1, 100))
        _check_ranges(self, shot_noise=(0, math.inf), read_noise=(0, math.inf))
        _check_shares(self, "flip", "exposure_probability", "highlights", "noise", "jpeg")


@dataclass(frozen=True)
class ToldRange:
    """What the network is told of a scene whose truth the target shows: as wrong as depth estimators are.

    Args:
        coc_jitter: Range of the factor between the rendered circle of confusion and the one told [1].
        corrupted: Probability that the disparity told is wrong at all.
        growth_px: Range by which near things are too large (or, below 0, too small) [px at 512].
        misplaced_px: Range by which edges are displaced, unevenly along them [px at 512].
        blur_px: Range of the standard deviation of a blur [px at 512].
        contrast: Range of the share of [0, 1] that disparity is squeezed into, anywhere; the focus and the strength
            follow, so that circles of confusion stay [1].
        quantised: Probability that disparity comes in few steps.
        levels: Fewest and most steps.
    """

    coc_jitter: Range = (2 / 3, 1.0)
    corrupted: float = 0.0
    growth_px: Range = (-3.0, 3.0)
    misplaced_px: Range = (0.0, 3.0)
    blur_px: Range = (0.0, 3.0)
    contrast: Range = (0.7, 1.0)
    quantised: float = 0.3
    levels: tuple[int, int] = (32, 256)

    def __post_init__(self) -> None:
        _check_ranges(self, coc_jitter=(0, math.inf), growth_px=(-64, 64), misplaced_px=(0, 64), blur_px=(0, 64))
        _check_ranges(self, contrast=(1e-3, 1), levels=(2, 65536))
        _check_shares(self, "corrupted", "quantised")


@dataclass(frozen=True)
class Composition:
    """What training samples are drawn from. Defaults are the published distribution.

    Args:
        resolution_px: Side of a sample [px].
        image_to_crop: Side of the composed image over that of the sample cropped from it [1].
        strength_range_px: Range of the blur strength at 768 px, drawn evenly in its logarithm [px]: the circle of
            confusion at the greatest defocus that the focus leaves possible, so an upper bound of all.
        n_samples: Lens points per sample; None picks enough for about 50 dB.
        transfer: From display values to light and back.
        scene: What stands where.
        lens: What is in focus, and the opening.
        camera: How light becomes a picture.
        told: What the network is told.
    """

    resolution_px: int = 512
    image_to_crop: float = 1.5
    strength_range_px: Range = (3.0, 96.0)
    n_samples: int | None = None
    transfer: Transfer = "gamma22"
    scene: SceneRange = field(default_factory=SceneRange)
    lens: LensRange = field(default_factory=LensRange)
    camera: CameraRange = field(default_factory=CameraRange)
    told: ToldRange = field(default_factory=ToldRange)

    def __post_init__(self) -> None:
        _check_ranges(self, strength_range_px=(0, math.inf))
        if self.resolution_px < 1 or self.image_to_crop < 1:
            raise InputError(
                "resolution_px and image_to_crop must be at least 1; "
                f"got {self.resolution_px} and {self.image_to_crop:g}"
            )
        if self.n_samples is not None and self.n_samples < 1:
            raise InputError(f"n_samples must be at least 1, or None; got {self.n_samples}")

    @property
    def image_px(self) -> int:
        """Side of the composed image [px]."""
        return round(self.resolution_px * self.image_to_crop)

    @property
    def reach_px(self) -> float:
        """How far beyond the image the background is taken to go on [px]."""
        return 2 * self.strength_range_px[1] * self.image_px / REFERENCE_PX


def preset(
    name: PresetName, *, resolution_px: int = 512, strength_range_px: Range = Composition.strength_range_px
) -> Composition:
    """A distribution by its name: "published" is BokehDiff's, with its faults mended, "bokehdiff" is ours.

    Ours has one to four subjects that may lean, backgrounds that may face the camera or bend, the focus on anything or
    between, lights above white, noise, compression, and disparities as wrong as those of estimators. Openings stay
    discs, since the network is not told of others: it could only learn their mean.

    Args:
        name: Which one.
        resolution_px: Side of a sample [px].
        strength_range_px: See `Composition`.
    """
    if name not in get_args(PresetName):
        raise InputError(f"the composition must be one of {', '.join(get_args(PresetName))}; got {name!r}")
    if name == "published":
        return Composition(resolution_px=resolution_px, strength_range_px=strength_range_px)
    return Composition(
        resolution_px=resolution_px,
        strength_range_px=strength_range_px,
        scene=SceneRange(
            n_foregrounds=(1, 4),
            tilt=0.5,
            mirror_foregrounds=0.5,
            background_disparity=(0.0, 0.4),
            fronto=0.2,
            curved=0.4,
            colour_match=(0.0, 0.6),
        ),
        lens=LensRange(focus_between=0.15, focus_spread=1.0),
        camera=CameraRange(highlights=0.5, noise=0.4, jpeg=0.3),
        told=ToldRange(coc_jitter=(0.8, 1.0), corrupted=0.6),
    )


def _check_ranges(ranges: object, **limits: Range) -> None:
    for name, (least, most) in limits.items():
        low, high = getattr(ranges, name)
        if not least <= low <= high <= most:
            raise InputError(f"{name} must rise within {least:g} ... {most:g}; got {low:g}, {high:g}")


def _check_shares(ranges: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(ranges, name) <= 1:
            raise InputError(f"{name} must be in [0, 1]; got {getattr(ranges, name):g}")
