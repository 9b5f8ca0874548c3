"""Training pairs on the fly: a foreground, a background and a lens from (seed, n); one physics for both photographs.

The distributions are those of BokehDiff's training, in the sizes of its 768-px image, from which 512 px are cropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from torch import Tensor

from bokehdiff.data.folders import UsableFiles, find_training_folders, load_background, load_foreground
from bokehdiff.data.randomness import generator_for
from bokehdiff.data.samples import TrainSample
from bokehdiff.errors import InputError
from bokehdiff.images import Transfer, linear_to_srgb, resize, srgb_to_linear
from bokehdiff.optics import Lens
from bokehdiff.renderers import LayerStack, render_layers

REFERENCE_PX = 768  # side of the published image, at whose size strengths are given
MARGIN_PER_COC = 1.25  # circle of confusion, and 2.5 deviations of the renderer's prefilter of at most a tenth of it
MARGIN_SLACK_PX = 2  # interpolation of the renderer
SAMPLES_AT_REST = 16  # lens points where nothing is blurred much ...
SAMPLES_PER_PX = 1.5  # ... more for each pixel of blur ...
MOST_SAMPLES = 128  # ... up to 50 dB and more for images without highlights above white


@dataclass(frozen=True)
class Composition:
    """What training samples are drawn from. Defaults are the published distribution.

    Args:
        resolution_px: Side of a sample [px].
        image_to_crop: Side of the composed image over that of the sample cropped from it [1].
        strength_range_px: Range of the blur strength at 768 px, drawn evenly in its logarithm [px]: the circle of
            confusion at the greatest defocus that the focus leaves possible, so an upper bound of all.
        foreground_scale: Range of the square root of the foreground's box's share of the image [1].
        offset: The foreground's centre lies up to this share of the image's side from the middle, each way [1].
        background_disparity: Range that the background plane stays in.
        focus_foreground: Probability that the foreground is in focus, and not the background.
        flip: Probability of each of the two mirrorings.
        exposure_probability: Probability that display values are scaled.
        exposure: Range of that scale [1].
        coc_jitter: Range of the factor between the rendered circle of confusion and the one told to the network [1].
        n_samples: Lens points per sample; None picks enough for about 50 dB.
        transfer: From display values to light and back.
    """

    resolution_px: int = 512
    image_to_crop: float = 1.5
    strength_range_px: tuple[float, float] = (3.0, 96.0)
    foreground_scale: tuple[float, float] = (0.5, 1.0)
    offset: float = 0.25
    background_disparity: tuple[float, float] = (1 / 1000, 1 / 4)
    focus_foreground: float = 0.5
    flip: float = 0.5
    exposure_probability: float = 0.75
    exposure: tuple[float, float] = (0.5, 1.1)
    coc_jitter: tuple[float, float] = (2 / 3, 1.0)
    n_samples: int | None = None
    transfer: Transfer = "gamma22"

    def __post_init__(self) -> None:
        ranges = {
            "strength_range_px": (*self.strength_range_px, 0.0, math.inf),
            "foreground_scale": (*self.foreground_scale, 0.0, 1.0),
            "background_disparity": (*self.background_disparity, 0.0, 1.0),
            "exposure": (*self.exposure, 0.0, math.inf),
            "coc_jitter": (*self.coc_jitter, 0.0, math.inf),
        }
        for name, (low, high, least, most) in ranges.items():
            if not least <= low <= high <= most:
                raise InputError(f"{name} must rise within {least:g} ... {most:g}; got {low:g}, {high:g}")
        for name in ("focus_foreground", "flip", "exposure_probability", "offset"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be in [0, 1]; got {getattr(self, name):g}")
        if self.resolution_px < 1 or self.image_to_crop < 1:
            raise InputError(
                "resolution_px and image_to_crop must be at least 1; "
                f"got {self.resolution_px} and {self.image_to_crop:g}"
            )
        if self.n_samples is not None and self.n_samples < 1:
            raise InputError(f"n_samples must be at least 1, or None; got {self.n_samples}")
        if self.foreground_scale[0] == 0 or self.background_disparity[1] == 1:
            raise InputError("a foreground needs a size above 0 and room in front of the background, below disparity 1")

    @property
    def image_px(self) -> int:
        """Side of the composed image [px]."""
        return round(self.resolution_px * self.image_to_crop)

    @property
    def reach_px(self) -> float:
        """How far beyond the image its planes are taken to go on [px]."""
        return 2 * self.strength_range_px[1] * self.image_px / REFERENCE_PX


@dataclass(frozen=True)
class Recipe:
    """Everything about one sample that is left to chance.

    Args:
        foreground: Place of its file among the foregrounds.
        background: Place of its file among the backgrounds.
        scale: Square root of the foreground's box's share of the image [1].
        offset_xy: Of the foreground's centre from the image's, as a share of its side.
        background_xy: Which part of a background that is not square is taken: 0 left or top, 1 right or bottom.
        plane: Disparity (c0, cx, cy) of the background, with x, y in pixels of the image.
        level: Disparity of the foreground.
        focus_disparity: Of the plane in focus.
        strength_px: Circle of confusion at one unit of defocus, at the image's size [px].
        crop_xy: Left and top of the sample in the image [px].
        mirror: Left and right are swapped.
        flip: Top and bottom are swapped.
        exposure: Factor on display values.
        jitter: Factor between the rendered circle of confusion and the one told to the network.
    """

    foreground: int
    background: int
    scale: float
    offset_xy: tuple[float, float]
    background_xy: tuple[float, float]
    plane: tuple[float, float, float]
    level: float
    focus_disparity: float
    strength_px: float
    crop_xy: tuple[int, int]
    mirror: bool
    flip: bool
    exposure: float
    jitter: float


def draw_recipe(rng: Generator, composition: Composition, *, n_foregrounds: int, n_backgrounds: int) -> Recipe:
    """Draw one sample's recipe.

    Args:
        rng: Source of chance, the sample's own.
        composition: What to draw from.
        n_foregrounds: How many there are.
        n_backgrounds: How many there are.
    """
    image_px = composition.image_px
    low, high = np.sort(rng.uniform(*composition.background_disparity, size=2))
    plane = _tilted_plane(rng.uniform(0, 2 * np.pi), low, high, image_px=image_px, reach_px=composition.reach_px)
    level = rng.uniform(high, 1.0)
    on_foreground = rng.uniform() < composition.focus_foreground
    focus = level if on_foreground else (low + high) / 2  # the mean of an affine function is its value in the middle
    radius_px = _log_uniform(rng, *composition.strength_range_px)
    strength_px = radius_px * image_px / REFERENCE_PX / max(focus, 1 - focus)
    exposed = rng.uniform() < composition.exposure_probability
    exposure = rng.uniform(*composition.exposure)
    left, top = rng.integers(image_px - composition.resolution_px + 1, size=2)
    return Recipe(
        foreground=int(rng.integers(n_foregrounds)),
        background=int(rng.integers(n_backgrounds)),
        scale=float(rng.uniform(*composition.foreground_scale)),
        offset_xy=_pair(rng.uniform(-composition.offset, composition.offset, size=2)),
        background_xy=_pair(rng.uniform(0, 1, size=2)),
        plane=plane,
        level=float(level),
        focus_disparity=float(focus),
        strength_px=float(strength_px),
        crop_xy=(int(left), int(top)),
        mirror=bool(rng.uniform() < composition.flip),
        flip=bool(rng.uniform() < composition.flip),
        exposure=float(exposure) if exposed else 1.0,
        jitter=float(rng.uniform(*composition.coc_jitter)),
    )


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    """Even in the logarithm; a range that begins at 0 is drawn evenly, since it has no logarithm."""
    share = float(rng.uniform())
    return low * (high / low) ** share if low > 0 else high * share


def _pair(values: Float[np.ndarray, " 2"]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _tilted_plane(
    heading: float, low: float, high: float, *, image_px: int, reach_px: float
) -> tuple[float, float, float]:
    """Disparity (c0, cx, cy) that rises along `heading` from `low` to `high` across the image with its surroundings."""
    direction = np.array([np.cos(heading), np.sin(heading)])
    half = (image_px / 2 + reach_px) * np.abs(direction).sum()
    slope = (high - low) / 2 / half * direction
    return float((low + high) / 2 - image_px / 2 * slope.sum()), float(slope[0]), float(slope[1])


def compose(
    recipe: Recipe,
    foreground: Float[Tensor, "4 fh fw"],
    background: Float[Tensor, "3 bh bw"],
    *,
    composition: Composition,
    n: int = 0,
    wider_px: int = 0,
) -> TrainSample:
    """Compose and photograph one sample.

    Only what the lens can see is composed: the crop, and around it the largest circle of confusion that occurs. The
    photograph all in focus and the one through the lens come from the same layers in the same linear light.

    Args:
        recipe: What to do.
        foreground: Display RGB with straight alpha, cut to its visible part.
        background: Display RGB.
        composition: Sizes and transfer.
        n: Number of the sample, for the record.
        wider_px: Compose this much more around the crop than needed [px]; does not change the result.
    """
    lens = Lens(recipe.focus_disparity, recipe.strength_px)
    margin = _margin_px(recipe, composition) + wider_px
    stack = _layers(recipe, foreground, background, composition=composition, margin_px=margin)
    largest_coc_px = float(lens.coc_px(stack.disparity()[0]).abs().max())
    n_samples = composition.n_samples or samples_for(largest_coc_px)
    blurred = render_layers(stack, lens, n_samples=n_samples, backend="cpu")
    alpha = stack.rgba_linear[0, 0, 3]
    near, far = stack.disparity()[0]
    disparity = alpha * near + (1 - alpha) * far

    def finished(image_linear: Float[Tensor, "c h w"]) -> Float[Tensor, "c ch cw"]:
        image_srgb = linear_to_srgb(image_linear, transfer=composition.transfer) * recipe.exposure
        return _framed(image_srgb.clamp(0.0, 1.0), recipe, margin_px=margin)

    disparity = _framed(disparity[None], recipe, margin_px=margin)
    return TrainSample(
        image_srgb=finished(stack.composite()[0, :3]),
        target_srgb=finished(blurred[0, :3]),
        disparity=disparity[0],
        coc_px=recipe.jitter * lens.coc_px(disparity)[0],
        focus_disparity=recipe.focus_disparity,
        strength_px=recipe.strength_px,
        n=n,
    )


def samples_for(radius_px: float) -> int:
    """Lens points that show a blur of this radius to about 50 dB, for images without highlights above white.

    Args:
        radius_px: Largest circle of confusion [px].
    """
    return min(math.ceil(SAMPLES_AT_REST + SAMPLES_PER_PX * radius_px), MOST_SAMPLES)


def _margin_px(recipe: Recipe, composition: Composition) -> int:
    """What the lens sees beyond the crop's border [px]: the largest circle of confusion on the image or around it."""
    c0, cx, cy = recipe.plane
    low, high = -composition.reach_px, composition.image_px + composition.reach_px
    corners = [c0 + cx * x + cy * y for x in (low, high) for y in (low, high)]
    defocus = max(abs(value - recipe.focus_disparity) for value in (*corners, recipe.level))
    steepness = recipe.strength_px * math.hypot(cx, cy)  # a tilted plane is met up to 1 / (1 - steepness) times farther
    return math.ceil(MARGIN_PER_COC * recipe.strength_px * defocus / (1 - steepness)) + MARGIN_SLACK_PX


def _layers(
    recipe: Recipe,
    foreground: Float[Tensor, "4 fh fw"],
    background: Float[Tensor, "3 bh bw"],
    *,
    composition: Composition,
    margin_px: int,
) -> LayerStack:
    """Foreground and background in the window of the crop and its margin, premultiplied and linear."""
    image_px, side = composition.image_px, composition.resolution_px + 2 * margin_px
    left, top = recipe.crop_xy[0] - margin_px, recipe.crop_xy[1] - margin_px
    far = _covering(srgb_to_linear(background, transfer=composition.transfer), recipe.background_xy, image_px)
    columns, rows = _reflected(left, side, image_px), _reflected(top, side, image_px)
    layers = torch.zeros(2, 4, side, side)
    layers[1, :3] = far[:, rows[:, None], columns[None, :]]
    layers[1, 3] = 1.0
    near = _scaled(_premultiplied_linear(foreground, composition.transfer), recipe.scale, image_px)
    x, y = (_place(size, offset, image_px) for size, offset in zip(near.shape[:0:-1], recipe.offset_xy, strict=True))
    _paste(layers[0], near, x - left, y - top)
    c0, cx, cy = recipe.plane
    planes = [[recipe.level, 0.0, 0.0], [c0 + cx * left + cy * top, cx, cy]]
    return LayerStack(layers[None], torch.tensor([planes]))


def _premultiplied_linear(rgba_srgb: Float[Tensor, "4 h w"], transfer: Transfer) -> Float[Tensor, "4 h w"]:
    alpha = rgba_srgb[3:].clamp(0.0, 1.0)
    return torch.cat([srgb_to_linear(rgba_srgb[:3], transfer=transfer) * alpha, alpha])


def _scaled(rgba: Float[Tensor, "4 h w"], scale: float, image_px: int) -> Float[Tensor, "4 sh sw"]:
    """Bring the foreground's box to `scale` squared of the image's area, or as much of it as fits.

    A rim of transparent pixels first, so that its outermost pixels stay as soft as they are.
    """
    padded = torch.nn.functional.pad(rgba, (1, 1, 1, 1))
    height, width = padded.shape[1:]
    factor = min(scale * image_px / math.sqrt(height * width), image_px / height, image_px / width)
    size_hw = (min(max(round(height * factor), 1), image_px), min(max(round(width * factor), 1), image_px))
    return resize(padded[None], size_hw)[0].clamp(0.0, 1.0)


def _covering(
    image_linear: Float[Tensor, "3 h w"], part_xy: tuple[float, float], side_px: int
) -> Float[Tensor, "3 s s"]:
    """The largest square of the image, resized to `side_px`; which one, if it is not square, says `part_xy`."""
    height, width = image_linear.shape[1:]
    square = min(height, width)
    left, top = round(part_xy[0] * (width - square)), round(part_xy[1] * (height - square))
    return resize(image_linear[None, :, top : top + square, left : left + square], (side_px, side_px))[0]


def _reflected(first: int, count: int, size: int) -> Tensor:
    """Places first ... first + count - 1 of an axis, mirrored at the borders where they lie beyond it."""
    folded = torch.arange(first, first + count) % (2 * size)
    return torch.where(folded < size, folded, 2 * size - 1 - folded)


def _place(size_px: int, offset: float, image_px: int) -> int:
    """Where a foreground of this size begins: its centre off the middle, but inside the image."""
    return min(max(round((image_px - size_px) / 2 + offset * image_px), 0), image_px - size_px)


def _paste(canvas: Float[Tensor, "c h w"], image: Float[Tensor, "c ih iw"], left: int, top: int) -> None:
    """Put `image` into `canvas` at a place that may lie partly or wholly outside."""
    height, width = canvas.shape[1:]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + image.shape[2], width), min(top + image.shape[1], height)
    if x0 < x1 and y0 < y1:
        canvas[:, y0:y1, x0:x1] = image[:, y0 - top : y1 - top, x0 - left : x1 - left]


def _framed(image: Float[Tensor, "c h w"], recipe: Recipe, *, margin_px: int) -> Float[Tensor, "c ch cw"]:
    """The crop without its margin, mirrored as the recipe says."""
    height, width = image.shape[1:]
    crop = image[:, margin_px : height - margin_px, margin_px : width - margin_px]
    mirrored = [axis for axis, wanted in ((2, recipe.mirror), (1, recipe.flip)) if wanted]
    return crop.flip(mirrored).contiguous()


class OnTheFlyDataset:
    """Training samples by number, composed when asked for: sample n is a function of (seed, n) and the files.

    Args:
        root: Folder with foregrounds (*fg/) and backgrounds (bg/), anywhere below it.
        seed: The same seed gives the same samples.
        composition: What to draw from.
        length: How many samples there are said to be; a sample costs nothing until it is asked for.
    """

    def __init__(
        self, root: str | Path, *, seed: int, composition: Composition | None = None, length: int = 2**40
    ) -> None:
        folders = find_training_folders(root)
        self.seed = seed
        self.composition = composition or Composition()
        self.length = length
        self.foregrounds = UsableFiles(folders.foregrounds, load_foreground)
        self.backgrounds = UsableFiles(folders.backgrounds, load_background)

    def __len__(self) -> int:
        return self.length

    def recipe(self, n: int) -> Recipe:
        """What sample n is made of.

        Args:
            n: Number of the sample, from 0.
        """
        return draw_recipe(
            generator_for(self.seed, n),
            self.composition,
            n_foregrounds=len(self.foregrounds),
            n_backgrounds=len(self.backgrounds),
        )

    def __getitem__(self, n: int) -> TrainSample:
        if not 0 <= n < self.length:
            raise IndexError(f"sample {n} of {self.length}")
        recipe = self.recipe(n)
        foreground = self.foregrounds.draw(recipe.foreground)
        background = self.backgrounds.draw(recipe.background)
        return compose(recipe, foreground, background, composition=self.composition, n=n)
