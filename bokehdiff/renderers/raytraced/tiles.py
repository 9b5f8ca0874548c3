"""Tiles of a picture of layers: what its rays can see there, in which order, and from how many pixels it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

import numpy as np
from jaxtyping import Bool, Float

from bokehdiff.renderers.raytraced.coverage import Coverage
from bokehdiff.tiling import Window

# Side of the tiles that are traced pixel by pixel: smaller ones see more often one layer only, and keep their buffers
# in a processor's cache, but each call of OpenCV costs as much as a thousand pixels.
TILE_PX = 128
# A layer that moves less from ray to ray is met alike by all [px].
STILL_PX = 1e-6
# Where all that the rays sum up is blurred, it is told from every fourth or second pixel. Layers must be smooth even
# before they are summed up: the standard deviation of their blur, over the distance of those pixels, must reach this.
STRIDES, SMOOTHNESS = (4, 2), 0.75
MARGIN = 4  # pixels of that coarse picture which are needed beyond a tile


@dataclass(frozen=True)
class Meetings:
    """Where the rays of a picture meet its layers.

    Args:
        maps: From pixel p to layer, x = M[:, 0] * p.x + M[:, 1] * p.y + M[:, 2], for each ray and layer.
        met: Disparity where the ray of a pixel p meets the layer, c[0] + c[1] * p.x + c[2] * p.y.
        covers: What each layer leaves open.
        smoothed: Standard deviation of the blur of each layer, over its circle of confusion; 0 for pictures that are
            told pixel by pixel.
    """

    maps: Float[np.ndarray, "n l 2 3"]
    met: Float[np.ndarray, "n l 3"]
    covers: list[Coverage]
    smoothed: float


@dataclass(frozen=True)
class Tile:
    """A part of the picture and what its rays see there.

    Layers that all rays meet alike, as those in focus, stand apart where they lie before or behind all others.

    Args:
        window: Where it lies.
        before: Layers that all rays meet alike, before all others, near first.
        orders: Of each ray, the layers between that it can see, near first if they do not cross.
        crosses: Whether the order of those changes within the tile, for each ray.
        behind: Layers that all rays meet alike, behind all others, near first.
        hides: Whether a layer hides all that is behind it, for each ray and layer.
        stride: From every how many pixels what lies between is told.
    """

    window: Window
    before: list[int]
    orders: list[list[int]]
    crosses: list[bool]
    behind: list[int]
    hides: list[list[bool]]
    stride: int = 1


def tiles_of(meetings: Meetings, size_hw: tuple[int, int]) -> Iterator[Tile]:
    """Tiles that make up a picture: as large as can be told from pixels of one stride.

    Args:
        meetings: Of rays and layers.
        size_hw: Height and width of the picture [px].
    """
    for window in _parts(Window(0, 0, *size_hw), TILE_PX * STRIDES[0]):
        yield from _tiles(meetings, window, STRIDES)


def _tiles(meetings: Meetings, window: Window, strides: tuple[int, ...]) -> Iterator[Tile]:
    """The window as one tile, if the first stride will do for it; else its parts, for the next."""
    if not strides:
        yield _tile(meetings, window)
        return
    stride, *smaller = strides
    if _is_smooth(meetings, _tile(meetings, window), stride):
        # Once more, with what is seen from the margin.
        tile = _tile(meetings, window, margin_px=(MARGIN + 1) * stride)
        if _is_smooth(meetings, tile, stride):
            yield replace(tile, stride=stride)
            return
    for part in _parts(window, TILE_PX * (smaller[0] if smaller else 1)):
        yield from _tiles(meetings, part, tuple(smaller))


def _parts(window: Window, side_px: int) -> Iterator[Window]:
    """Windows of nearly one size that make up a larger one."""
    spans = ((window.top, window.height), (window.left, window.width))
    rows, columns = (
        np.linspace(first, first + n, max(1, round(n / side_px)) + 1).astype(int).tolist() for first, n in spans
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Window(top, left, bottom - top, right - left)


def _corners(window: Window, margin_px: int) -> Float[np.ndarray, "4 3"]:
    """Centres (x, y, 1) of the outermost pixels."""
    left, right = window.left - margin_px, window.left + window.width + margin_px
    top, bottom = window.top - margin_px, window.top + window.height + margin_px
    return np.array([[x, y, 1.0] for x in (left + 0.5, right - 0.5) for y in (top + 0.5, bottom - 0.5)])


def _tile(meetings: Meetings, window: Window, *, margin_px: int = 0) -> Tile:
    """A part of the picture, with all that its rays see there or up to a margin beyond."""
    corners = _corners(window, margin_px)
    places = meetings.maps @ corners.T
    first, last = places.min(axis=-1), places.max(axis=-1)
    found = [cover.of(first[:, i], last[:, i]) for i, cover in enumerate(meetings.covers)]
    empty, hides = (np.stack(flags, axis=1) for flags in zip(*found, strict=True))
    orders, crosses = _orders(meetings.met @ corners[:, [2, 0, 1]].T, empty)
    tile = Tile(window, [], orders, crosses, [], hides.tolist())
    return tile if any(crosses) else _without_still(tile, meetings.maps, window)


def _orders(
    at_corners: Float[np.ndarray, "n l 4"], empty: Bool[np.ndarray, "n l"]
) -> tuple[list[list[int]], list[bool]]:
    """For each ray the layers that it can see in a tile, near first by their disparities in its corners, or crossing.

    Two affine functions that are ordered at the four corners are ordered everywhere between.
    """
    order = np.argsort(-at_corners[..., 0], axis=1, kind="stable")
    falling = np.diff(np.take_along_axis(at_corners, order[..., None], axis=1), axis=1)
    # Equal disparities keep the list's order; the other way round they must differ everywhere.
    listed = (np.diff(order, axis=1) > 0)[..., None]
    holds = np.all(np.where(listed, falling <= 0, falling < 0), axis=(1, 2))
    seen = [[i for i in row if not nothing[i]] for row, nothing in zip(order.tolist(), empty.tolist(), strict=True)]
    return seen, [not fixed and len(row) > 1 for row, fixed in zip(seen, holds.tolist(), strict=True)]


def _without_still(tile: Tile, maps: Float[np.ndarray, "n l 2 3"], window: Window) -> Tile:
    """The tile with layers that all rays meet alike apart."""
    spread = np.abs(np.ptp(maps, axis=0)) @ (window.left + window.width, window.top + window.height, 1.0)
    still = (spread.max(axis=-1) < STILL_PX).tolist()
    orders = tile.orders
    before = _common_start(orders, still)
    if any(tile.hides[0][i] for i in before):
        return replace(tile, before=before, orders=[[] for _ in orders])
    orders = [order[len(before) :] for order in orders]
    behind = _common_start([order[::-1] for order in orders], still)[::-1]
    return replace(tile, before=before, orders=[order[: len(order) - len(behind)] for order in orders], behind=behind)


def _common_start(orders: list[list[int]], still: list[bool]) -> list[int]:
    ranks = takewhile(lambda rank: len(set(rank)) == 1 and still[rank[0]], zip(*orders, strict=False))
    return [rank[0] for rank in ranks]


def _is_smooth(meetings: Meetings, tile: Tile, stride: int) -> bool:
    """Whether what lies between is told from every so many pixels."""
    seen = {i for order in tile.orders for i in order}
    if any(tile.crosses) or not seen:
        return False
    coc_px = _least_coc_px(meetings.maps[:, sorted(seen)] @ _corners(tile.window, 0).T)
    return meetings.smoothed * coc_px >= SMOOTHNESS * stride


def _least_coc_px(places: Float[np.ndarray, "n l 2 4"]) -> float:
    """How far apart, over two, the rays of a tile's corners meet a layer at least; 0 where one passes the focus.

    The circle of confusion is affine over the tile, so that it is least in a corner unless its sign changes.
    """
    across = places[:, :, 0]
    rightmost, leftmost = across[..., :1].argmax(axis=0), across[..., :1].argmin(axis=0)
    ends = (np.take_along_axis(across, index[None], axis=0)[0] for index in (rightmost, leftmost))
    apart = np.subtract(*ends) / 2
    return max(0.0, float(apart.min()))
