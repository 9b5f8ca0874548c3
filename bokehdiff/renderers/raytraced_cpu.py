"""The ray tracer of layers on OpenCV: one affine warp per lens point and layer, where the layer is seen."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, pairwise, takewhile

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bokehdiff.renderers.coverage import Coverage, coverage
from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.rays import RAYS_PER_SUM, Gathered, Rays, image_field
from bokehdiff.tiling import Window

# Side of the tiles of the picture: smaller ones see more often one layer only, and keep their buffers in a processor's
# cache, but each call of OpenCV costs as much as a thousand pixels.
TILE_PX = 128
# A layer that moves less from ray to ray is met alike by all [px].
STILL_PX = 1e-6
# One convolution of a whole layer takes as long as 50 warps of it, hardly more with the radius.
LEAST_RAYS_TO_CONVOLVE, MOST_RADIUS_TO_CONVOLVE_PX = 64, 512
LINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

Light = float | np.ndarray  # that a ray carries to every pixel of a tile, or to each


@dataclass(frozen=True)
class _Scene:
    """One image's layers as OpenCV takes them.

    Args:
        layers: Each [h w 4] of its own.
        alphas: The fourth channel of each, by itself.
        covers: What each leaves open.
        maps: From pixel to layer, x = M[:, 0] * p.x + M[:, 1] * p.y + M[:, 2], for each ray and layer.
        met: Disparity where the ray of a pixel p meets the layer, c[0] + c[1] * p.x + c[2] * p.y.
        sums: For layers that face the camera, the sum over the rays of light times the layer, where that pays.
    """

    layers: list[np.ndarray]
    alphas: list[np.ndarray]
    covers: list[Coverage]
    maps: Float[np.ndarray, "n l 2 3"]
    met: Float[np.ndarray, "n l 3"]
    sums: dict[int, np.ndarray]


@dataclass(frozen=True)
class _Sight:
    """What one ray sees in a tile.

    Args:
        layers: Those that are not empty where it can meet them; near first, if they do not cross.
        cross: Whether the order changes within the tile.
    """

    layers: list[int]
    cross: bool


@dataclass(frozen=True)
class _Tile:
    """A part of the picture and what its rays see there.

    Args:
        window: Where it lies.
        maps: As those of the scene, but as OpenCV counts: from the centre of the tile's first pixel.
        sights: Of each ray.
        hides: Whether a layer hides all that is behind it, for each ray and layer.
    """

    window: Window
    maps: Float[np.ndarray, "n l 2 3"]
    sights: list[_Sight]
    hides: list[list[bool]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its part of the picture."""
        return self.window.height, self.window.width, 4


class _Buffers:
    """What the rays of a tile write again and again."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.seen = np.empty(shape, np.float32)
        self.alpha = np.empty(shape[:2], np.float32)
        self.passing = np.empty(shape[:2], np.float32)
        self.factor = np.empty(shape, np.float32)


def trace_cpu(stack: LayerStack, rays: Rays) -> Gathered:
    """The `Trace` on OpenCV's warpAffine: float32 on the CPU, no gradients, tiles on as many threads as torch uses.

    OpenCV 5 interpolates exactly; OpenCV 4 rounds places to 1/32 px, which costs nothing that can be seen.

    Args:
        stack: Layers.
        rays: What to trace.
    """
    images, light = [], torch.zeros(stack.size_hw)
    windows = _windows(stack.size_hw)
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for rgba, planes, walks in zip(stack.rgba_linear, stack.planes, rays.walks_px.unbind(dim=1), strict=True):
            scene = _scene(rgba, planes, walks)
            scene = replace(scene, sums=_sums(scene, rays))
            images.append(torch.empty(4, *stack.size_hw))
            traced = pool.map(partial(_trace_window, scene, rays), windows)
            for window, (seen, passed) in zip(windows, traced, strict=True):
                window.cut(images[-1])[:] = torch.from_numpy(seen).permute(2, 0, 1)
                window.cut(light)[:] = torch.as_tensor(passed)
    return Gathered(torch.stack(images), light)


def _windows(size_hw: tuple[int, int]) -> list[Window]:
    """Tiles of nearly one size."""
    rows, columns = (np.linspace(0, n, max(1, round(n / TILE_PX)) + 1).astype(int).tolist() for n in size_hw)
    return [
        Window(top, left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _scene(rgba: Float[Tensor, "l 4 h w"], planes: Float[Tensor, "l 3"], walks: Float[Tensor, "n l 2 3"]) -> _Scene:
    maps = walks.detach().double().numpy() + np.eye(2, 3)
    c0, cx, cy = planes.detach().double().numpy().T[..., None]
    on_ray = cx * maps[:, :, 0] + cy * maps[:, :, 1]
    met = np.concatenate([c0 + on_ray[..., 2:], on_ray[..., :2]], axis=-1)
    layers = [np.ascontiguousarray(layer.permute(1, 2, 0).detach().numpy()) for layer in rgba]
    alphas = [np.ascontiguousarray(layer[..., 3]) for layer in layers]
    return _Scene(layers, alphas, [coverage(layer) for layer in layers], maps, met, sums={})


def _sums(scene: _Scene, rays: Rays) -> dict[int, np.ndarray]:
    """Layers that face the camera, which rays only shift: all shifts are one convolution, in float64 for HDR's sake."""
    if rays.aperture.cat_eye or len(rays.points) < LEAST_RAYS_TO_CONVOLVE:
        return {}
    sums = {}
    for i, layer in enumerate(scene.layers):
        maps = scene.maps[:, i]
        moves = STILL_PX <= np.abs(maps[..., 2]).max() < MOST_RADIUS_TO_CONVOLVE_PX
        if moves and not (maps[..., :2] - np.eye(2)).any():
            kernel = _kernel(maps[..., 2], rays.weights.double().numpy())
            blurred = cv2.filter2D(layer.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REPLICATE)
            sums[i] = blurred.astype(np.float32)
    return sums


def _kernel(shifts_xy: Float[np.ndarray, "n 2"], weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, "k k"]:
    """What a correlation weights its neighbours with to sum up bilinear lookups at some distances."""
    radius = math.ceil(np.abs(shifts_xy).max())
    kernel = np.zeros((2 * radius + 1,) * 2)
    first = np.minimum(np.floor(shifts_xy), radius - 1)
    (left, top), (across, down) = first.astype(int).T + radius, (shifts_xy - first).T
    for row, row_weight in ((top, 1.0 - down), (top + 1, down)):
        for column, column_weight in ((left, 1.0 - across), (left + 1, across)):
            np.add.at(kernel, (row, column), weights * row_weight * column_weight)
    return kernel


def _tile(scene: _Scene, window: Window) -> _Tile:
    right, bottom = window.left + window.width, window.top + window.height
    corners = np.array(
        [[x, y, 1.0] for x in (window.left + 0.5, right - 0.5) for y in (window.top + 0.5, bottom - 0.5)]
    )
    places = scene.maps[:, :, None] @ corners[..., None]
    first, last = places[..., 0].min(axis=2), places[..., 0].max(axis=2)
    found = [cover.of(first[:, i], last[:, i]) for i, cover in enumerate(scene.covers)]
    empty, hides = (np.stack(flags, axis=1) for flags in zip(*found, strict=True))
    sights = _sights(scene.met @ corners[:, [2, 0, 1]].T, empty)
    maps = scene.maps.copy()
    maps[..., 2] = places[:, :, 0, :, 0] - 0.5
    return _Tile(window, maps, sights, hides.tolist())


def _sights(at_corners: Float[np.ndarray, "n l 4"], empty: Bool[np.ndarray, "n l"]) -> list[_Sight]:
    """For each ray the layers that it can see in a tile, near first by their disparities in its corners.

    Two affine functions that are ordered at the four corners are ordered everywhere between.
    """
    order = np.argsort(-at_corners[..., 0], axis=1, kind="stable")
    falling = np.diff(np.take_along_axis(at_corners, order[..., None], axis=1), axis=1)
    # Equal disparities keep the list's order; the other way round they must differ everywhere.
    listed = (np.diff(order, axis=1) > 0)[..., None]
    holds = np.all(np.where(listed, falling <= 0, falling < 0), axis=(1, 2))
    layers = [[i for i in row if not nothing[i]] for row, nothing in zip(order.tolist(), empty.tolist(), strict=True)]
    return [_Sight(seen, cross=not fixed and len(seen) > 1) for seen, fixed in zip(layers, holds.tolist(), strict=True)]


def _trace_window(scene: _Scene, rays: Rays, window: Window) -> tuple[Float[np.ndarray, "wh ww 4"], Light]:
    """A part of the picture, and the light that reached it.

    Layers that all rays meet alike, as those in focus, are looked up once. Concretely, with L the sum of the light and
    S the sum of light times what rays see between such layers F in front and B behind, the picture is
    L F + (1 - A_F) (S + (L - A_S) B).
    """
    tile = _tile(scene, window)
    before, between, behind = _parted_by_focus(tile)
    picture, light = _gathered(scene, rays, replace(tile, sights=between))
    whole = light if isinstance(light, float) else light[..., None]
    for i in behind:
        picture += (whole - picture[..., 3:]) * _warp(scene.layers[i], tile.maps[0, i], np.empty_like(picture))
    for i in reversed(before):
        seen = _warp(scene.layers[i], tile.maps[0, i], np.empty_like(picture))
        picture = whole * seen + (1.0 - seen[..., 3:]) * picture
    return picture, light


def _parted_by_focus(tile: _Tile) -> tuple[list[int], list[_Sight], list[int]]:
    """Layers that all rays meet alike, before and behind all others, and for each ray those between."""
    if any(sight.cross for sight in tile.sights):
        return [], tile.sights, []
    still = (np.ptp(tile.maps, axis=0).max(axis=(1, 2)) < STILL_PX).tolist()
    orders = [sight.layers for sight in tile.sights]
    before = _common_start(orders, still)
    if any(tile.hides[0][i] for i in before):
        return before, [_Sight([], cross=False) for _ in orders], []
    orders = [order[len(before) :] for order in orders]
    behind = _common_start([order[::-1] for order in orders], still)[::-1]
    return before, [_Sight(order[: len(order) - len(behind)], cross=False) for order in orders], behind


def _common_start(orders: list[list[int]], still: list[bool]) -> list[int]:
    ranks = takewhile(lambda rank: len(set(rank)) == 1 and still[rank[0]], zip(*orders, strict=False))
    return [rank[0] for rank in ranks]


def _gathered(scene: _Scene, rays: Rays, tile: _Tile) -> tuple[Float[np.ndarray, "wh ww 4"], Light]:
    """Sum over the rays of light times what they see, and the sum of the light."""
    places = image_field(_centres(tile.window), scene.alphas[0].shape)
    total, some = np.zeros(tile.shape, np.float32), np.zeros(tile.shape, np.float32)
    total_light: Light = np.zeros(tile.shape[:2], np.float32) if rays.aperture.cat_eye else 0.0
    weights, buffers = rays.weights.tolist(), _Buffers(tile.shape)
    summed = {i for i in scene.sums if all(_is_first(i, sight) for sight in tile.sights)}
    for i in summed:
        total += _cut(scene.sums[i], tile.window)
    for i, sight in enumerate(tile.sights):
        light = rays.light(i, places).numpy() if rays.aperture.cat_eye else weights[i]
        total_light = total_light + light
        if sight.cross:
            _add_crossing(some, scene, tile, i, light)
        else:
            _add_seen(some, scene, tile, i, light, buffers, summed)
        if i % RAYS_PER_SUM == RAYS_PER_SUM - 1 or i + 1 == len(tile.sights):
            cv2.add(total, some, dst=total)
            some.fill(0.0)
    return total, total_light


def _cut(image: np.ndarray, window: Window) -> np.ndarray:
    return image[window.top : window.top + window.height, window.left : window.left + window.width]


def _is_first(layer: int, sight: _Sight) -> bool:
    return layer not in sight.layers or (sight.layers[0] == layer and not sight.cross)


def _add_seen(
    into: np.ndarray, scene: _Scene, tile: _Tile, i: int, light: Light, buffers: _Buffers, summed: set[int]
) -> None:
    """Add what ray i sees of layers, near first, in light that each takes from those behind it.

    Args:
        into: What to add to.
        scene: Layers.
        tile: Where.
        i: The ray.
        light: That it carries.
        buffers: To write in.
        summed: Nearest layers that were added for all rays at once.
    """
    order, hides = tile.sights[i].layers, tile.hides[i]
    for layer in order:
        last = hides[layer] or layer == order[-1]
        if layer in summed:
            if last:
                return
            _shifted(scene.alphas[layer], tile.maps[i, layer, :, 2], buffers.alpha)
        else:
            _add(into, _warp(scene.layers[layer], tile.maps[i, layer], buffers.seen), light, buffers.factor)
            if last:
                return
            cv2.extractChannel(buffers.seen, 3, dst=buffers.alpha)
        light = _left_over(light, buffers.alpha, buffers.passing)


def _left_over(light: Light, alpha: np.ndarray, into: np.ndarray) -> np.ndarray:
    """What a layer lets pass of some light: light * (1 - alpha), for which alpha is written over."""
    np.subtract(1.0, alpha, out=alpha)
    return np.multiply(light, alpha, out=into)


def _add(into: np.ndarray, seen: np.ndarray, light: Light, factor: np.ndarray) -> None:
    """into += light * seen."""
    if isinstance(light, float):
        cv2.scaleAdd(seen, light, into, dst=into)
    else:
        cv2.accumulateProduct(seen, cv2.merge([light] * 4, dst=factor), into)


def _warp(layer: np.ndarray, to_layer: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Look up a layer at every pixel of a tile."""
    return cv2.warpAffine(layer, to_layer, into.shape[1::-1], dst=into, flags=LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _shifted(alpha: np.ndarray, shift_xy: np.ndarray, into: np.ndarray) -> None:
    """Look up the coverage of a layer that is only moved: six times as fast as a warp."""
    height, width = into.shape
    across, down = shift_xy.tolist()
    cv2.getRectSubPix(alpha, (width, height), (across + (width - 1) / 2, down + (height - 1) / 2), patch=into)


def _add_crossing(into: np.ndarray, scene: _Scene, tile: _Tile, i: int, light: Light) -> None:
    """Add what ray i sees of layers in an order that each pixel has of its own.

    Concretely, seen = sum over k of seen[k] * product over the layers j nearer than k at the pixel of (1 - alpha[j]).
    Pairs are compared one by one, along affine functions: a sort of every pixel takes ten times as long.
    """
    window = tile.window
    x = np.arange(window.width) + window.left + 0.5
    y = np.arange(window.height)[:, None] + window.top + 0.5
    layers = sorted(tile.sights[i].layers)
    seen = [_warp(scene.layers[k], tile.maps[i, k], np.empty(tile.shape, np.float32)) for k in layers]
    alphas = [cv2.extractChannel(rgba, 3) for rgba in seen]
    reaching = [np.full(tile.shape[:2], light, np.float32) for _ in seen]
    for j, k in combinations(range(len(seen)), 2):
        constant, across, down = scene.met[i, layers[j]] - scene.met[i, layers[k]]
        listed = across * x >= -(down * y + constant)  # a tie leaves layers as they are listed
        reaching[k] *= 1.0 - listed * alphas[j]
        reaching[j] *= 1.0 - ~listed * alphas[k]
    for rgba, share in zip(seen, reaching, strict=True):
        cv2.accumulateProduct(rgba, cv2.merge([share] * 4), into)


def _centres(window: Window) -> Float[Tensor, "2 wh ww"]:
    """Coordinates (x, y) of the pixel centres of a window [px]."""
    x, y = torch.arange(window.width) + window.left + 0.5, torch.arange(window.height) + window.top + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))
