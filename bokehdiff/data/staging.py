"""From a recipe and the light of its files to layers in space: what stands before the lens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.data.recipe import Ground, Recipe, Shadow, Subject
from bokehdiff.images import resize
from bokehdiff.renderers import LayerStack

MARGIN_PER_COC = 1.25  # circle of confusion, and 2.5 deviations of the renderer's prefilter of at most a tenth of it
MARGIN_SLACK_PX = 2  # interpolation of the renderer
OVERLAP_PX = 2.0  # of neighbouring pieces of a bent background: none shows a gap under interpolation
SHADOW_COARSENESS = 8  # a shadow is soft: it is blurred at an eighth of the size
LEAST_LIGHT = 1e-3  # of a mean that is matched: black has no colour to match
GAIN_LIMIT = 2.0  # a subject's light is brought to the background's by no more than one stop, each colour


@dataclass(frozen=True)
class Window:
    """The part of the image that is composed: the crop, and around it what the lens may see.

    Args:
        left: Of the window, in the image [px].
        top: Of the window, in the image [px].
        side: Of the window [px].
        margin_px: Around the crop.
        image_px: Side of the image.
    """

    left: int
    top: int
    side: int
    margin_px: int
    image_px: int

    @classmethod
    def around(cls, recipe: Recipe, *, image_px: int, crop_px: int, wider_px: int = 0) -> Window:
        """The smallest window whose border no ray of the crop reaches.

        Args:
            recipe: Crop, lens and planes.
            image_px: Side of the image [px].
            crop_px: Side of the crop [px].
            wider_px: So much more on each side [px].
        """
        margin = _margin_px(recipe, image_px) + wider_px
        left, top = (place - margin for place in recipe.shot.crop_xy)
        return cls(left, top, crop_px + 2 * margin, margin, image_px)

    def crop(self, image: Float[Tensor, "*c h w"]) -> Float[Tensor, "*c ch cw"]:
        """A picture of the window without its margin."""
        kept = slice(self.margin_px, self.side - self.margin_px)
        return image[..., kept, kept]

    def moved(self, plane: tuple[float, float, float]) -> tuple[float, float, float]:
        """A plane of the image as one of the window."""
        c0, cx, cy = plane
        return c0 + cx * self.left + cy * self.top, cx, cy


def _margin_px(recipe: Recipe, image_px: int) -> int:
    """What the lens sees beyond the crop's border [px]: the largest circle of confusion on the image or around it."""
    strength_px = float(recipe.lens.strength_px)
    leans = [math.hypot(*subject.lean_xy) for subject in recipe.subjects]
    steepness = strength_px * max(recipe.ground.steepest(), *leans)
    # A tilted plane is met up to 1 / (1 - steepness) times farther.
    return math.ceil(MARGIN_PER_COC * largest_coc_px(recipe, image_px) / (1 - steepness)) + MARGIN_SLACK_PX


def largest_coc_px(recipe: Recipe, image_px: int) -> float:
    """Largest circle of confusion of anything on the image or, for the background, around it [px].

    Args:
        recipe: Lens and planes.
        image_px: Side of the image [px].
    """
    reached = [*recipe.ground.disparity]
    for subject in recipe.subjects:
        lean = sum(abs(slope) for slope in subject.lean_xy) * image_px / 2
        reached += [subject.level - lean, subject.level + lean]
    focus_disparity = float(recipe.lens.focus_disparity)
    return float(recipe.lens.strength_px) * max(abs(value - focus_disparity) for value in reached)


def stage(
    recipe: Recipe, subjects: Sequence[Float[Tensor, "4 _ _"]], scenery: Float[Tensor, "c bh bw"], window: Window
) -> LayerStack:
    """Subjects and background as layers of the window.

    Args:
        recipe: What stands where.
        subjects: Premultiplied linear light of each subject, cut to its visible part.
        scenery: Linear light of the background, 3 channels, or 6 with the glow of its lights; see `ingredients`.
        window: The part that is composed.
    """
    image = _covering(scenery, recipe.ground.part_xy, window.image_px, gain=recipe.shot.highlight_gain)
    far, ambient = _extended(image, window), image.clamp(max=1.0).mean(dim=(1, 2))
    near, planes = [], []
    for subject, rgba in zip(recipe.subjects, subjects, strict=True):
        layer, plane = _standing(subject, rgba, ambient, window)
        near.append(layer)
        planes.append(window.moved(plane))
    for subject, layer in zip(recipe.subjects, near, strict=True):
        if subject.shadow is not None:
            far = far * (1 - _shade(layer[3], subject.shadow, window.image_px))
    pieces, their_planes = _pieces(recipe.ground, far, window)
    return LayerStack(
        torch.stack([*near, *pieces])[None], torch.tensor([[*planes, *map(window.moved, their_planes)]]).to(far)
    )


def _covering(
    scenery: Float[Tensor, "c h w"], part_xy: tuple[float, float], image_px: int, *, gain: float
) -> Float[Tensor, "3 s s"]:
    """The largest square of the background as the image; which one, if it is not square, says `part_xy`."""
    height, width = scenery.shape[1:]
    square = min(height, width)
    left, top = round(part_xy[0] * (width - square)), round(part_xy[1] * (height - square))
    image = scenery[None, :, top : top + square, left : left + square]
    image = resize(image, (image_px, image_px))[0]
    return image[:3] if len(image) == 3 or gain == 1 else image[:3] + (gain - 1) * image[3:]


def _extended(image: Float[Tensor, "3 s s"], window: Window) -> Float[Tensor, "3 ws ws"]:
    """The window of an image that is mirrored at its borders."""
    columns, rows = (
        _reflected(first, window.side, window.image_px).to(image.device) for first in (window.left, window.top)
    )
    return image[:, rows[:, None], columns[None, :]]


def _reflected(first: int, count: int, size: int) -> Tensor:
    """Places first ... first + count - 1 of an axis, mirrored at the borders where they lie beyond it."""
    folded = torch.arange(first, first + count) % (2 * size)
    return torch.where(folded < size, folded, 2 * size - 1 - folded)


def _standing(
    subject: Subject, rgba: Float[Tensor, "4 fh fw"], ambient: Float[Tensor, " 3"], window: Window
) -> tuple[Float[Tensor, "4 s s"], tuple[float, float, float]]:
    """A subject in its place in the window, and its plane in the image."""
    near = _scaled(rgba.flip(2) if subject.mirror else rgba, subject.scale, window.image_px)
    height, width = near.shape[1:]
    x, y = (
        _place(size, offset, window.image_px) for size, offset in zip((width, height), subject.offset_xy, strict=True)
    )
    if subject.colour_match:
        near = _matched(near, ambient, subject.colour_match)
    layer = torch.zeros(4, window.side, window.side, device=near.device)
    _paste(layer, near, x - window.left, y - window.top)
    cx, cy = subject.lean_xy
    return layer, (subject.level - cx * (x + width / 2) - cy * (y + height / 2), cx, cy)


def _scaled(rgba: Float[Tensor, "4 h w"], scale: float, image_px: int) -> Float[Tensor, "4 sh sw"]:
    """Bring the foreground's box to `scale` squared of the image's area, or as much of it as fits.

    A rim of transparent pixels first, so that its outermost pixels stay as soft as they are.
    """
    padded = F.pad(rgba, (1, 1, 1, 1))
    height, width = padded.shape[1:]
    factor = min(scale * image_px / math.sqrt(height * width), image_px / height, image_px / width)
    size_hw = (min(max(round(height * factor), 1), image_px), min(max(round(width * factor), 1), image_px))
    return resize(padded[None], size_hw)[0].clamp_min(0.0)


def _place(size_px: int, offset: float, image_px: int) -> int:
    """Where a foreground of this size begins: its centre off the middle, but inside the image."""
    return min(max(round((image_px - size_px) / 2 + offset * image_px), 0), image_px - size_px)


def _matched(rgba: Float[Tensor, "4 h w"], ambient: Float[Tensor, " 3"], share: float) -> Float[Tensor, "4 h w"]:
    """The subject in light more like the background's: each colour times (ambient / own mean) ** share."""
    own = rgba[:3].sum(dim=(1, 2)) / rgba[3].sum().clamp_min(1e-6)
    gain = (ambient.clamp_min(LEAST_LIGHT) / own.clamp_min(LEAST_LIGHT)).pow(share).clamp(1 / GAIN_LIMIT, GAIN_LIMIT)
    return torch.cat([rgba[:3] * gain[:, None, None], rgba[3:]])


def _paste(canvas: Float[Tensor, "c h w"], image: Float[Tensor, "c ih iw"], left: int, top: int) -> None:
    """Put `image` into `canvas` at a place that may lie partly or wholly outside."""
    height, width = canvas.shape[1:]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + image.shape[2], width), min(top + image.shape[1], height)
    if x0 < x1 and y0 < y1:
        canvas[:, y0:y1, x0:x1] = image[:, y0 - top : y1 - top, x0 - left : x1 - left]


def _shade(alpha: Float[Tensor, "s s"], shadow: Shadow, image_px: int) -> Float[Tensor, "s s"]:
    """Share of light that a subject's shadow takes at each place of the window."""
    from kornia.filters import gaussian_blur2d

    side = alpha.shape[0]
    coarse = max(side // SHADOW_COARSENESS, 1)
    small = resize(alpha[None, None], (coarse, coarse))
    sigma = max(shadow.softness * image_px * coarse / side, 0.3)
    kernel = 2 * math.ceil(3 * sigma) + 1
    shift = [round(offset * image_px * coarse / side) for offset in shadow.offset_xy]
    reach = kernel // 2 + max(abs(step) for step in shift)
    wide = F.pad(small, (reach,) * 4, mode="replicate").roll((shift[1], shift[0]), dims=(2, 3))
    blurred = gaussian_blur2d(wide, (kernel, kernel), (sigma, sigma), border_type="constant")
    return shadow.depth * resize(blurred[..., reach:-reach, reach:-reach], (side, side))[0, 0].clamp(0.0, 1.0)


def _pieces(
    ground: Ground, far: Float[Tensor, "3 s s"], window: Window
) -> tuple[list[Float[Tensor, "4 s s"]], list[tuple[float, float, float]]]:
    """The background as one opaque layer per straight piece that the window shows, each a little beyond its ends."""
    axis = torch.arange(window.side, device=far.device) + 0.5
    x, y = (axis + first - window.image_px / 2 for first in (window.left, window.top))
    t = x[None, :] * math.cos(ground.heading) + y[:, None] * math.sin(ground.heading)
    pieces, planes = [], []
    n_pieces = len(ground.stops_px) - 1
    for i, plane in enumerate(ground.planes(window.image_px)):
        first = -math.inf if i == 0 else ground.stops_px[i] - OVERLAP_PX
        last = math.inf if i == n_pieces - 1 else ground.stops_px[i + 1] + OVERLAP_PX
        cover = torch.minimum(t - first, last - t).clamp(0.0, 1.0)
        if bool(cover.any()):
            pieces.append(torch.cat([far * cover, cover[None]]))
            planes.append(plane)
    return pieces, planes
