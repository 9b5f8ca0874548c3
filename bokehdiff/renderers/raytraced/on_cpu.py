"""The ray tracer of layers on OpenCV: one affine warp per lens point and layer, where the layer is seen."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, product

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.optics import image_field
from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.raytraced.coverage import coverage
from bokehdiff.renderers.raytraced.prefilter import SIGMA_PER_SPACING
from bokehdiff.renderers.raytraced.rays import RAYS_PER_SUM, Gathered, Rays
from bokehdiff.renderers.raytraced.tiles import MARGIN, STILL_PX, Meetings, Tile, tiles_of
from bokehdiff.tiling import Window

# One convolution of a whole layer takes as long as 50 warps of it, hardly more with the radius.
LEAST_RAYS_TO_CONVOLVE, MOST_RADIUS_TO_CONVOLVE_PX = 64, 512
# Between pixels of a coarse grid, sums of Gaussians are interpolated exactly: their standard deviation, in its steps.
GAUSSIAN_WIDTH = 1.8
LINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

Light = float | np.ndarray  # that a ray carries to every pixel of a tile, or to each


@dataclass(frozen=True)
class _Scene:
    """One image's layers as OpenCV takes them.

    Args:
        layers: Each [h w 4] of its own.
        alphas: The fourth channel of each, by itself.
        meetings: With the rays.
        sums: For layers that face the camera, the sum over the rays of light times the layer, where that pays.
    """

    layers: list[np.ndarray]
    alphas: list[np.ndarray]
    meetings: Meetings
    sums: dict[int, np.ndarray]


@dataclass(frozen=True)
class _Grid:
    """Pixels of a picture that are traced, and how OpenCV counts them: from the centre of the first.

    Args:
        window: Where they lie in the picture.
        maps: From their numbers to layers, for each ray and layer.
        shape: Of what is traced.
    """

    window: Window
    maps: Float[np.ndarray, "n l 2 3"]
    shape: tuple[int, int, int]


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
        stack: Layers, blurred as `prefiltered` does for these rays: pixels that are left out count on it.
        rays: What to trace.
    """
    images, light = [], torch.zeros(stack.size_hw)
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for rgba, planes, walks in zip(stack.rgba_linear, stack.planes, rays.walks_px.unbind(dim=1), strict=True):
            scene = _scene(rgba, planes, walks, rays)
            tiles = list(tiles_of(scene.meetings, stack.size_hw))
            images.append(torch.empty(4, *stack.size_hw))
            traced = pool.map(partial(_trace_tile, scene, rays), tiles)
            for tile, (seen, passed) in zip(tiles, traced, strict=True):
                tile.window.cut(images[-1])[:] = torch.from_numpy(seen).permute(2, 0, 1)
                tile.window.cut(light)[:] = torch.as_tensor(passed)
    return Gathered(torch.stack(images), light)


def _scene(
    rgba: Float[Tensor, "l 4 h w"], planes: Float[Tensor, "l 3"], walks: Float[Tensor, "n l 2 3"], rays: Rays
) -> _Scene:
    maps = walks.detach().double().numpy() + np.eye(2, 3)
    c0, cx, cy = planes.detach().double().numpy().T[..., None]
    on_ray = cx * maps[:, :, 0] + cy * maps[:, :, 1]
    met = np.concatenate([c0 + on_ray[..., 2:], on_ray[..., :2]], axis=-1)
    layers = [np.ascontiguousarray(layer.permute(1, 2, 0).detach().numpy()) for layer in rgba]
    alphas = [np.ascontiguousarray(layer[..., 3]) for layer in layers]
    smoothed = 0.0 if rays.aperture.cat_eye else SIGMA_PER_SPACING * rays.spacing
    meetings = Meetings(maps, met, [coverage(layer) for layer in layers], smoothed)
    return _Scene(layers, alphas, meetings, _sums(layers, maps, rays))


def _sums(layers: list[np.ndarray], maps: Float[np.ndarray, "n l 2 3"], rays: Rays) -> dict[int, np.ndarray]:
    """Layers that face the camera, which rays only shift: all shifts are one convolution, in float64 for HDR's sake."""
    if rays.aperture.cat_eye or len(rays.points) < LEAST_RAYS_TO_CONVOLVE:
        return {}
    sums = {}
    for i, layer in enumerate(layers):
        moves = STILL_PX <= np.abs(maps[:, i, :, 2]).max() < MOST_RADIUS_TO_CONVOLVE_PX
        if moves and not (maps[:, i, :, :2] - np.eye(2)).any():
            kernel = _kernel(maps[:, i, :, 2], rays.weights.double().numpy())
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


def _trace_tile(scene: _Scene, rays: Rays, tile: Tile) -> tuple[Float[np.ndarray, "wh ww 4"], Light]:
    """A part of the picture, and the light that reached it.

    Layers that all rays meet alike are looked up once. Concretely, with L the sum of the light and S the sum of light
    times what rays see between such layers F in front and B behind, the picture is L F + (1 - A_F) (S + (L - A_S) B).
    """
    grid = _every_pixel(scene, tile)
    picture, light = _between(scene, rays, tile, grid)
    whole = light if isinstance(light, float) else light[..., None]
    for i in tile.behind:
        picture += (whole - picture[..., 3:]) * _warp(scene.layers[i], grid.maps[0, i], np.empty_like(picture))
    for i in reversed(tile.before):
        seen = _warp(scene.layers[i], grid.maps[0, i], np.empty_like(picture))
        picture = whole * seen + (1.0 - seen[..., 3:]) * picture
    return picture, light


def _between(scene: _Scene, rays: Rays, tile: Tile, grid: _Grid) -> tuple[Float[np.ndarray, "wh ww 4"], Light]:
    """Sum over the rays of light times what they see between layers that all meet alike, and the sum of the light."""
    seen = {i for order in tile.orders for i in order}
    nearest = {i for i in seen & scene.sums.keys() if all(i not in order or order[0] == i for order in tile.orders)}
    summed = set() if any(tile.crosses) else nearest
    if tile.stride == 1 or seen == summed:
        return _gathered(scene, rays, tile, grid, summed)
    picture, light = _gathered(scene, rays, tile, _every(tile.stride, grid), set())
    return _finer(picture, tile.stride, grid.shape), light


def _finer(picture: Float[np.ndarray, "gh gw 4"], stride: int, shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels between those of a coarse grid: one separable filter for each place in a block of pixels."""
    rows, columns = (math.ceil(n / stride) for n in shape[:2])
    finer = np.empty((rows * stride, columns * stride, 4), np.float32)
    for row, column in product(range(stride), repeat=2):
        (down, from_row), (across, from_column) = (_between_samples(i / stride) for i in (row, column))
        seen = cv2.sepFilter2D(picture, -1, across, down)
        finer[row::stride, column::stride] = _cut(seen, Window(from_row, from_column, rows, columns))
    return finer[: shape[0], : shape[1]]


@cache
def _between_samples(place: float) -> tuple[Float[np.ndarray, " k"], int]:
    """A filter that interpolates by Gaussians between samples at a place in [0, 1), and the sample it begins from."""
    nearest = round(place)
    at = np.arange(-MARGIN, MARGIN + 1)
    likeness = np.exp(-(np.subtract.outer([*at, place - nearest], at) ** 2) / (2 * GAUSSIAN_WIDTH**2))
    weights = np.linalg.solve(likeness[:-1], likeness[-1])
    return weights / weights.sum(), MARGIN + nearest


def _every_pixel(scene: _Scene, tile: Tile) -> _Grid:
    window = tile.window
    maps = scene.meetings.maps.copy()
    maps[..., 2] = maps @ (window.left + 0.5, window.top + 0.5, 1.0) - 0.5
    return _Grid(window, maps, (window.height, window.width, 4))


def _every(stride: int, grid: _Grid) -> _Grid:
    """One pixel in each block, so that lookups round alike, with a margin beyond the window."""
    maps = grid.maps.copy()
    maps[..., 2] -= maps[..., :2].sum(axis=-1) * MARGIN * stride
    maps[..., :2] *= stride
    height, width = (math.ceil(n / stride) + 2 * MARGIN + 1 for n in grid.shape[:2])
    return _Grid(grid.window, maps, (height, width, 4))


def _gathered(
    scene: _Scene, rays: Rays, tile: Tile, grid: _Grid, summed: set[int]
) -> tuple[Float[np.ndarray, "gh gw 4"], Light]:
    """Sum over the rays of light times what they see, and the sum of the light.

    Args:
        scene: Layers.
        rays: Their light.
        tile: What they see.
        grid: Which pixels are traced.
        summed: Nearest layers, whose sums are taken for all rays at once.
    """
    places = image_field(_centres(tile.window), scene.alphas[0].shape)
    total, some = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    total_light: Light = np.zeros(grid.shape[:2], np.float32) if rays.aperture.cat_eye else 0.0
    weights, buffers = rays.weights.tolist(), _Buffers(grid.shape)
    for i in summed:
        total += _cut(scene.sums[i], tile.window)
    for i, crosses in enumerate(tile.crosses):
        light = rays.light(i, places).numpy() if rays.aperture.cat_eye else weights[i]
        total_light = total_light + light
        if crosses:
            _add_crossing(some, scene, tile, grid, i, light)
        else:
            _add_seen(some, scene, tile, grid, i, light, buffers, summed)
        if i % RAYS_PER_SUM == RAYS_PER_SUM - 1 or i + 1 == len(tile.crosses):
            cv2.add(total, some, dst=total)
            some.fill(0.0)
    return total, total_light


def _cut(image: np.ndarray, window: Window) -> np.ndarray:
    return image[window.top : window.top + window.height, window.left : window.left + window.width]


def _add_seen(
    into: np.ndarray,
    scene: _Scene,
    tile: Tile,
    grid: _Grid,
    i: int,
    light: Light,
    buffers: _Buffers,
    summed: set[int],
) -> None:
    """Add what ray i sees of layers, near first, in light that each takes from those behind it.

    Args:
        into: What to add to.
        scene: Layers.
        tile: What rays see.
        grid: Where.
        i: The ray.
        light: That it carries.
        buffers: To write in.
        summed: Nearest layers that were added for all rays at once.
    """
    order, hides = tile.orders[i], tile.hides[i]
    for layer in order:
        last = hides[layer] or layer == order[-1]
        if layer in summed:
            if last:
                return
            _shifted(scene.alphas[layer], grid.maps[i, layer, :, 2], buffers.alpha)
        else:
            _add(into, _warp(scene.layers[layer], grid.maps[i, layer], buffers.seen), light, buffers.factor)
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


def _add_crossing(into: np.ndarray, scene: _Scene, tile: Tile, grid: _Grid, i: int, light: Light) -> None:
    """Add what ray i sees of layers in an order that each pixel has of its own.

    Concretely, seen = sum over k of seen[k] * product over the layers j nearer than k at the pixel of (1 - alpha[j]).
    Pairs are compared one by one, along affine functions: a sort of every pixel takes ten times as long.
    """
    window = tile.window
    x = np.arange(window.width) + window.left + 0.5
    y = np.arange(window.height)[:, None] + window.top + 0.5
    layers = sorted(tile.orders[i])
    seen = [_warp(scene.layers[k], grid.maps[i, k], np.empty(grid.shape, np.float32)) for k in layers]
    alphas = [cv2.extractChannel(rgba, 3) for rgba in seen]
    reaching = [np.full(grid.shape[:2], light, np.float32) for _ in seen]
    for j, k in combinations(range(len(seen)), 2):
        constant, across, down = np.subtract(*scene.meetings.met[i, [layers[j], layers[k]]])
        listed = across * x >= -(down * y + constant)  # a tie leaves layers as they are listed
        reaching[k] *= 1.0 - listed * alphas[j]
        reaching[j] *= 1.0 - ~listed * alphas[k]
    for rgba, share in zip(seen, reaching, strict=True):
        cv2.accumulateProduct(rgba, cv2.merge([share] * 4), into)


def _centres(window: Window) -> Float[Tensor, "2 wh ww"]:
    """Coordinates (x, y) of the pixel centres of a window [px]."""
    x, y = torch.arange(window.width) + window.left + 0.5, torch.arange(window.height) + window.top + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))
