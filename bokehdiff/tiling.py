"""Sizes that networks accept, and images larger than memory: padding, windows, and blending of what they give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError


@dataclass(frozen=True, eq=False)
class Padded:
    """An image that was padded to the right and at the bottom, and the size it had.

    Args:
        image: Padded image.
        size_hw: Height and width before [px].
    """

    image: Float[Tensor, "b c h w"]
    size_hw: tuple[int, int]

    def crop(self, result: Float[Tensor, "b c2 h2 w2"]) -> Float[Tensor, "b c2 h3 w3"]:
        """Cut the padding off something of the padded size.

        Args:
            result: What was made of `image`, with any number of channels.
        """
        if result.shape[2:] != self.image.shape[2:]:
            raise InputError(
                f"expected a result of the padded size {list(self.image.shape[2:])}; got {list(result.shape[2:])}"
            )
        return result[..., : self.size_hw[0], : self.size_hw[1]]


def pad_to_multiple(image: Float[Tensor, "b c h w"], multiple: int) -> Padded:
    """Repeat the last row and column until both sides are multiples of `multiple`.

    Concretely, out[b, c, y, x] = image[b, c, min(y, h - 1), min(x, w - 1)]. Padding stands at the right and at the
    bottom only, so that pixel coordinates stay what they were.

    Args:
        image: Any image, from 1 px on.
        multiple: What both sides shall be multiples of [px], at least 1.
    """
    if multiple < 1:
        raise InputError(f"multiple must be at least 1; got {multiple}")
    if 0 in image.shape:
        raise InputError(f"an empty image cannot be padded; got shape {list(image.shape)}")
    height, width = image.shape[2:]
    padded = image
    # Repetition by `expand`: its gradient is deterministic on every device, that of "replicate" padding is not.
    if height % multiple:
        rows = padded[:, :, -1:, :].expand(-1, -1, -height % multiple, -1)
        padded = torch.cat([padded, rows], dim=2)
    if width % multiple:
        columns = padded[:, :, :, -1:].expand(-1, -1, -1, -width % multiple)
        padded = torch.cat([padded, columns], dim=3)
    return Padded(padded, (height, width))


@dataclass(frozen=True)
class Window:
    """A rectangle of an image: rows top to top + height, columns left to left + width [px]."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: Float[Tensor, "*any h w"]) -> Float[Tensor, "*any h2 w2"]:
        """The part of an image that lies in the window: a view, not a copy.

        Args:
            image: Image that contains the window.
        """
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def scaled(self, factor: int) -> Window:
        """The same part of an image that is `factor` times as large."""
        return Window(self.top * factor, self.left * factor, self.height * factor, self.width * factor)


def tile_windows(size_hw: tuple[int, int], tile_px: int, overlap_px: int) -> tuple[Window, ...]:
    """Windows of one size that cover an image, row by row, evenly spread, the last ending at the border.

    Concretely, along an axis of n pixels there are m = ceil((n - overlap) / (tile - overlap)) windows, of which the
    i-th begins at floor(i * (n - tile) / (m - 1)); neighbours share at least `overlap_px`. Where the image is smaller
    than a tile there is one window of the image's own size.

    Args:
        size_hw: Height and width of the image [px], at least 1.
        tile_px: Side of a window [px], at least 1.
        overlap_px: What neighbours share at least [px]; 0 or more, less than `tile_px`.
    """
    _refuse_impossible(size_hw, tile_px, overlap_px)
    tops, lefts = (_starts(length, tile_px, overlap_px) for length in size_hw)
    height, width = min(tile_px, size_hw[0]), min(tile_px, size_hw[1])
    return tuple(Window(top, left, height, width) for top in tops for left in lefts)


def _refuse_impossible(size_hw: tuple[int, int], tile_px: int, overlap_px: int) -> None:
    if min(size_hw) < 1:
        raise InputError(f"an image must have at least 1 x 1 pixels; got {size_hw[0]} x {size_hw[1]}")
    if not 0 <= overlap_px < tile_px:
        raise InputError(f"overlap_px must be 0 or more and less than tile_px; got {overlap_px} and {tile_px}")


def _starts(length: int, tile_px: int, overlap_px: int) -> list[int]:
    if length <= tile_px:
        return [0]
    count = math.ceil((length - overlap_px) / (tile_px - overlap_px))
    return [index * (length - tile_px) // (count - 1) for index in range(count)]


def map_tiles(
    function: Callable[[Tensor], Tensor],
    image: Float[Tensor, "b c h w"],
    *,
    tile_px: int,
    overlap_px: int,
) -> Float[Tensor, "b c2 h w"]:
    """Apply a function tile by tile and blend what it gives; see `map_windows`.

    Args:
        function: Takes [b c th tw], gives [b c2 th tw] for any c2.
        image: Any image.
        tile_px: Side of a tile [px].
        overlap_px: What neighbouring tiles share at least [px].
    """
    return map_windows(lambda tile, _: function(tile), image, tile_px=tile_px, overlap_px=overlap_px)


def map_windows(
    function: Callable[[Tensor, Window], Tensor],
    image: Float[Tensor, "b c h w"],
    *,
    tile_px: int,
    overlap_px: int,
) -> Float[Tensor, "b c2 h w"]:
    """Apply a function that also knows where its tile lies, and blend what it gives.

    Concretely, out[b, c, y, x] = sum_i w_i(y, x) f_i[b, c, y, x] / sum_i w_i(y, x) over the windows i of
    `tile_windows`. w_i is a raised cosine in each overlap: 0 over the outermost quarter of `overlap_px` at a cut edge,
    then rising to 1 over the next half. So a function that looks no further than overlap_px // 4 gives exactly what it
    would give for the whole image, and others are blended without seams.

    The sum is taken as a chain of steps from the value so far towards the next tile's, each by that tile's share of the
    weight so far. Where all tiles agree each step is zero, so that the identity comes back bit for bit in any dtype.

    Args:
        function: Takes [b c th tw] and its window, gives [b c2 th tw] for any c2. Tiles have one size throughout:
            tile_px, or the image's side where that is smaller.
        image: Any image.
        tile_px: Side of a tile [px].
        overlap_px: What neighbouring tiles share at least [px].
    """
    size_hw = (image.shape[2], image.shape[3])
    windows = tile_windows(size_hw, tile_px, overlap_px)
    if len(windows) == 1:
        return _checked(function(image, windows[0]), windows[0])
    blended = total = torch.empty(0)
    for index, window in enumerate(windows):
        tile = _checked(function(window.cut(image), window), window)
        if index == 0:
            dtype = tile.dtype
            blended = tile.new_zeros(*tile.shape[:2], *size_hw, dtype=torch.promote_types(dtype, torch.float32))
            total = blended.new_zeros(size_hw)
        weight = _weight(window, size_hw, overlap_px).to(blended)
        seen = window.cut(total)
        seen += weight
        share = torch.where(weight > 0, weight / seen.clamp_min(torch.finfo(seen.dtype).tiny), torch.zeros_like(weight))
        so_far = window.cut(blended)
        window.cut(blended).copy_(so_far + share * (tile - so_far))
    return blended.to(dtype)


def _checked(tile: Tensor, window: Window) -> Tensor:
    if tile.ndim != 4 or tuple(tile.shape[2:]) != (window.height, window.width):
        raise InputError(
            f"the function must keep its tile's size, {window.height} x {window.width}; got shape {list(tile.shape)}"
        )
    return tile


def _weight(window: Window, size_hw: tuple[int, int], overlap_px: int) -> Float[Tensor, "h w"]:
    rows = _ramps(window.top, window.height, size_hw[0], overlap_px)
    columns = _ramps(window.left, window.width, size_hw[1], overlap_px)
    return rows[:, None] * columns[None, :]


def _ramps(start: int, length: int, whole: int, overlap_px: int) -> Float[Tensor, " n"]:
    """Weight of a window along one axis: raised cosines at its cut edges, none at the image's border."""
    margin = overlap_px // 4
    run = max(overlap_px - 2 * margin, 1)
    position = torch.arange(length, dtype=torch.float64) + 0.5
    weight = torch.ones(length, dtype=torch.float64)
    for is_cut, distance in ((start > 0, position), (start + length < whole, length - position)):
        if is_cut and overlap_px:
            progress = ((distance - margin) / run).clamp(0.0, 1.0)
            weight = weight * (0.5 - 0.5 * torch.cos(torch.pi * progress))
    return weight
