"""Everything about one sample that is left to chance, as plain numbers: a recipe, drawn from (seed, n)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from bokehdiff.data.composition import REFERENCE_PX, CameraRange, Composition, LensRange, Range, ToldRange
from bokehdiff.optics import Aperture, Lens

MOST_STEEPNESS = 0.25  # strength_px * slope of any plane: the renderer wants it below 1, and shallow is realistic
CURVE_PIECES = 5  # of a smoothly bent background: kinks of a few hundredths of its range do not show
GRAIN_LIMIT = 2**31  # seeds of the noise


@dataclass(frozen=True)
class Shadow:
    """What a subject's shadow does to the background behind it.

    Args:
        depth: Share of light that it takes where it is deepest [1].
        offset_xy: How far it falls from the subject, as a share of the image's side.
        softness: Standard deviation of its edge, as a share of the image's side.
    """

    depth: float
    offset_xy: tuple[float, float]
    softness: float


@dataclass(frozen=True)
class Subject:
    """One foreground, and where it stands.

    Args:
        file: Place of its file among the foregrounds.
        scale: Square root of its box's share of the image [1].
        offset_xy: Of its centre from the image's, as a share of the image's side.
        level: Disparity at its centre.
        lean_xy: Change of its disparity per pixel to the right and down [1/px].
        mirror: Left and right are swapped.
        colour_match: How far its mean light is brought to the background's: 0 not, 1 wholly.
        shadow: None for none.
    """

    file: int
    scale: float
    offset_xy: tuple[float, float]
    level: float
    lean_xy: tuple[float, float] = (0.0, 0.0)
    mirror: bool = False
    colour_match: float = 0.0
    shadow: Shadow | None = None


@dataclass(frozen=True)
class Ground:
    """The background: a surface whose disparity changes along one direction, in straight pieces.

    Concretely, with t = (x - image_px / 2) * cos(heading) + (y - image_px / 2) * sin(heading) at a point of the image,
    the disparity is linear between (stops_px[i], disparity[i]); the first and last piece go on for ever.

    Args:
        file: Place of its file among the backgrounds.
        part_xy: Which part of a background that is not square is taken: 0 left or top, 1 right or bottom.
        heading: Direction of the change [rad]; y points down.
        stops_px: Rising places along it, from the middle of the image [px].
        disparity: At these places.
    """

    file: int
    part_xy: tuple[float, float]
    heading: float
    stops_px: tuple[float, ...]
    disparity: tuple[float, ...]

    def at(self, t_px: float) -> float:
        """Disparity at a place along the heading, between the first stop and the last.

        Args:
            t_px: From the middle of the image [px].
        """
        return float(np.interp(t_px, self.stops_px, self.disparity))

    def planes(self, image_px: int) -> list[tuple[float, float, float]]:
        """Disparity (c0, cx, cy) of each piece, with x, y in pixels of the image.

        Args:
            image_px: Side of the image [px].
        """
        planes = []
        for t, value, slope in zip(self.stops_px, self.disparity, self._slopes(), strict=False):
            cx, cy = slope * math.cos(self.heading), slope * math.sin(self.heading)
            planes.append((value - slope * t - image_px / 2 * (cx + cy), cx, cy))
        return planes

    def steepest(self) -> float:
        """Largest change of disparity per pixel [1/px]."""
        return max(abs(slope) for slope in self._slopes())

    def _slopes(self) -> list[float]:
        return (np.diff(self.disparity) / np.diff(self.stops_px)).tolist()


@dataclass(frozen=True)
class Shot:
    """How light becomes the sample.

    Args:
        crop_xy: Left and top of the sample in the image [px].
        mirror: Left and right are swapped.
        flip: Top and bottom are swapped.
        exposure: Factor on display values.
        highlight_gain: How much brighter than white clipped lights of the background are [1]; 1 leaves them.
        shot_noise: Variance per light of the noise of photons [1].
        read_noise: Noise of the electronics, as light [1].
        grain: Seed of the noise.
        jpeg_quality: 1 to 100; None without compression.
    """

    crop_xy: tuple[int, int] = (0, 0)
    mirror: bool = False
    flip: bool = False
    exposure: float = 1.0
    highlight_gain: float = 1.0
    shot_noise: float = 0.0
    read_noise: float = 0.0
    grain: int = 0
    jpeg_quality: float | None = None


@dataclass(frozen=True)
class Told:
    """How what the network is told differs from what is.

    Args:
        jitter: Factor on the circle of confusion.
        growth_px: Near things are too large by this [px]; below 0 too small.
        misplaced_px: Standard deviation of the displacement of edges [px].
        blur_px: Standard deviation of a blur [px].
        squeeze: (scale, shift) of disparity; focus and strength follow.
        levels: Steps that disparity comes in; None without.
        dice: Seed of what the displacement looks like.
    """

    jitter: float = 1.0
    growth_px: int = 0
    misplaced_px: float = 0.0
    blur_px: float = 0.0
    squeeze: tuple[float, float] = (1.0, 0.0)
    levels: int | None = None
    dice: int = 0


@dataclass(frozen=True)
class Recipe:
    """One sample.

    Args:
        subjects: Foregrounds in any order: disparity decides what hides what.
        ground: The background.
        lens: Focus, strength at the image's size, opening.
        shot: How light becomes the sample.
        told: How what the network is told differs from what is.
    """

    subjects: tuple[Subject, ...]
    ground: Ground
    lens: Lens
    shot: Shot = Shot()
    told: Told = Told()


def _half_px(heading: float, image_px: int, reach_px: float) -> float:
    """From the middle of the image to its farthest corner along a heading, with its surroundings."""
    return (image_px / 2 + reach_px) * (abs(math.cos(heading)) + abs(math.sin(heading)))


def draw_recipe(rng: Generator, composition: Composition, *, files: tuple[int, int], n_foregrounds: int) -> Recipe:
    """Draw one sample's recipe.

    Args:
        rng: Source of chance, the sample's own.
        composition: What to draw from.
        files: Places of the first subject's file among the foregrounds, and of the background's.
        n_foregrounds: How many foregrounds there are; further subjects take any.
    """
    radius_px = _log_uniform(rng, composition.strength_range_px) * composition.image_px / REFERENCE_PX
    steepest = MOST_STEEPNESS / max(2 * radius_px, 1e-9)  # the strength is at most twice the radius
    ground = _draw_ground(rng, composition, files[1], steepest=steepest)
    high = max(ground.disparity)
    n_subjects = int(rng.integers(composition.scene.n_foregrounds[0], composition.scene.n_foregrounds[1] + 1))
    levels = rng.uniform(high, 1.0, size=n_subjects).tolist()
    focus = _draw_focus(rng, composition.lens, ground, levels, composition.image_px)
    subjects = []
    for i, level in enumerate(levels):
        file = int(rng.integers(n_foregrounds)) if i else files[0]
        leanest = min(composition.scene.tilt * min(level - high, 1 - level) / composition.image_px, steepest)
        subjects.append(_draw_subject(rng, composition, file, level, leanest=leanest, n_subjects=n_subjects))
    lens = Lens(focus, radius_px / max(focus, 1 - focus), _draw_aperture(rng, composition.lens))
    shot = _draw_shot(rng, composition.camera, composition.image_px - composition.resolution_px)
    told = _draw_told(rng, composition.told, composition.image_px / REFERENCE_PX)
    return Recipe(tuple(subjects), ground, lens, shot, told)


def _draw_ground(rng: Generator, composition: Composition, file: int, *, steepest: float) -> Ground:
    scene, image_px, reach_px = composition.scene, composition.image_px, composition.reach_px
    low, high = np.sort(rng.uniform(*scene.background_disparity, size=2)).tolist()
    heading = float(rng.uniform(0, 2 * np.pi))
    part_xy = _pair(rng.uniform(0, 1, size=2))
    kind = rng.uniform()
    half, inside = (_half_px(heading, image_px, reach) for reach in (reach_px, 0.0))
    if not scene.fronto <= kind < scene.fronto + scene.curved:
        rise = 0.0 if kind < scene.fronto else min(high - low, steepest * 2 * half)
        middle = (low + high) / 2
        return Ground(file, part_xy, heading, (-half, half), (middle - rise / 2, middle + rise / 2))
    share = _draw_profile(rng)
    stops = (-half, *np.linspace(-inside, inside, len(share))[1:-1].tolist(), half)
    bent = Ground(file, part_xy, heading, stops, tuple(share))
    rise = min(high - low, steepest / max(bent.steepest(), 1e-12))
    return Ground(file, part_xy, heading, stops, tuple(low + rise * s for s in share))


def _draw_profile(rng: Generator) -> list[float]:
    """A bent background, as shares of its range from one end to the other: wall and floor, bowl or hill, corner."""
    kind = rng.integers(3)
    t = np.linspace(0, 1, CURVE_PIECES + 1)
    if kind == 0:
        kink = rng.uniform(0.3, 0.7)
        share = np.clip((t - kink) / (1 - kink), 0, 1)
    elif kind == 1:
        share = t ** rng.uniform(1.5, 3)
        share = share if rng.uniform() < 0.5 else 1 - share[::-1]
    else:
        kink = rng.uniform(0.3, 0.7)
        share = np.abs(np.interp(t, [0, kink, 1], [1, 0, rng.uniform(0.3, 1)]))
        share = share if rng.uniform() < 0.5 else 1 - share
    return share.tolist()


def _draw_focus(rng: Generator, lens: LensRange, ground: Ground, levels: list[float], image_px: int) -> float:
    """On a subject, on the background, or between two neighbours in depth."""
    kind, subject = rng.uniform(), int(rng.integers(len(levels)))
    t = rng.uniform(-1, 1) * lens.focus_spread * image_px / 2
    on_ground = ground.at(t)
    if rng.uniform() < lens.focus_between:
        things = sorted([on_ground, *levels])
        first = int(rng.integers(len(things) - 1))
        return float(rng.uniform(things[first], things[first + 1]))
    return levels[subject] if kind < lens.focus_foreground else on_ground


def _draw_subject(
    rng: Generator, composition: Composition, file: int, level: float, *, leanest: float, n_subjects: int
) -> Subject:
    """A subject that, leaning, stays in front of the background and of the camera wherever it is in the image."""
    scene = composition.scene
    scale = rng.uniform(*scene.foreground_scale) / math.sqrt(n_subjects)
    offset_xy = _pair(rng.uniform(-scene.offset, scene.offset, size=2))
    heading, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0, leanest)
    shadow = Shadow(
        depth=float(rng.uniform(*scene.shadow_depth)),
        offset_xy=_pair(rng.uniform(-0.1, 0.1, size=2)),
        softness=float(rng.uniform(0.005, 0.05)),
    )
    return Subject(
        file=file,
        scale=float(scale),
        offset_xy=offset_xy,
        level=level,
        lean_xy=(float(lean * math.cos(heading)), float(lean * math.sin(heading))),
        mirror=bool(rng.uniform() < scene.mirror_foregrounds),
        colour_match=float(rng.uniform(*scene.colour_match)),
        shadow=shadow if rng.uniform() < scene.shadow else None,
    )


def _draw_aperture(rng: Generator, lens: LensRange) -> Aperture:
    shaped = rng.uniform() < lens.shaped
    aperture = Aperture(
        blades=int(rng.integers(lens.blades[0], lens.blades[1] + 1)),
        rounding=float(rng.uniform(*lens.rounding)),
        rotation_deg=float(rng.uniform(0, 360)),
        cat_eye=float(rng.uniform(*lens.cat_eye)),
        edge=float(rng.uniform(*lens.edge)),
    )
    return aperture if shaped else Aperture()


def _draw_shot(rng: Generator, camera: CameraRange, slack_px: int) -> Shot:
    left, top = rng.integers(slack_px + 1, size=2)
    exposed, lit, noisy, compressed = rng.uniform(size=4) < (
        camera.exposure_probability, camera.highlights, camera.noise, camera.jpeg,
    )  # fmt: skip
    exposure, gain = float(rng.uniform(*camera.exposure)), _log_uniform(rng, camera.highlight_gain)
    shot_noise, read_noise = _log_uniform(rng, camera.shot_noise), float(rng.uniform(*camera.read_noise))
    quality = float(rng.uniform(*camera.jpeg_quality))
    return Shot(
        crop_xy=(int(left), int(top)),
        mirror=bool(rng.uniform() < camera.flip),
        flip=bool(rng.uniform() < camera.flip),
        exposure=exposure if exposed else 1.0,
        highlight_gain=gain if lit else 1.0,
        shot_noise=shot_noise if noisy else 0.0,
        read_noise=read_noise if noisy else 0.0,
        grain=int(rng.integers(GRAIN_LIMIT)),
        jpeg_quality=quality if compressed else None,
    )


def _draw_told(rng: Generator, told: ToldRange, size: float) -> Told:
    jitter = float(rng.uniform(*told.coc_jitter))
    corrupted = rng.uniform() < told.corrupted
    scale = float(rng.uniform(*told.contrast))
    levels = int(rng.integers(told.levels[0], told.levels[1] + 1))
    wrong = Told(
        jitter=jitter,
        growth_px=round(float(rng.uniform(*told.growth_px)) * size),
        misplaced_px=float(rng.uniform(*told.misplaced_px)) * size,
        blur_px=float(rng.uniform(*told.blur_px)) * size,
        squeeze=(scale, float(rng.uniform(0, 1 - scale))),
        levels=levels if rng.uniform() < told.quantised else None,
        dice=int(rng.integers(GRAIN_LIMIT)),
    )
    return wrong if corrupted else Told(jitter=jitter)


def _log_uniform(rng: Generator, bounds: Range) -> float:
    """Even in the logarithm; a range that begins at 0 is drawn evenly, since it has no logarithm."""
    low, high = bounds
    share = float(rng.uniform())
    return low * (high / low) ** share if low > 0 else high * share


def _pair(values: Float[np.ndarray, " 2"]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
