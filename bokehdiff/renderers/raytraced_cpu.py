"""The ray tracer of layers on OpenCV: one affine warp per lens point and layer, where the layer shows anything."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.rays import RAYS_PER_SUM, Gathered, Rays, image_field
from bokehdiff.tiling import Window

# Pixels of a strip of the picture: its few buffers stay in a processor's cache, and OpenCV leaves it to one thread.
STRIP_PX = 2**16
# Strips are halved where layers cross inside, as pixels with orders of their own take three times as long, but not
# below this: each call costs as much as some thousand pixels.
LEAST_CROSSING_PX = 2**13

Box = tuple[slice, slice]
WHOLE: Box = (slice(None), slice(None))


@dataclass(frozen=True)
class _Scene:
    """One image's layers as OpenCV takes them.

    Args:
        layers: Each [h w 4] of its own.
        bounds: (left, top, right, bottom) of what is not empty in each; infinite where it touches the border, beyond
            which it goes on [px].
        maps: From pixel to layer, x = M[:, 0] * p.x + M[:, 1] * p.y + M[:, 2], for each ray and layer.
        met: Disparity where the ray of a pixel p meets the layer, c[0] + c[1] * p.x + c[2] * p.y.
    """

    layers: list[np.ndarray]
    bounds: Float[np.ndarray, "l 4"]
    maps: Float[np.ndarray, "n l 2 3"]
    met: Float[np.ndarray, "n l 3"]


@dataclass
class _Held:
    """What a layer last looked like in a window, kept while rays meet it alike: in focus they all do."""

    seen: np.ndarray
    passing: np.ndarray
    to_layer: np.ndarray = field(default_factory=lambda: np.full((2, 3), np.nan))


def trace_cpu(stack: LayerStack, rays: Rays) -> Gathered:
    """The `Trace` on OpenCV's warpAffine: float32 on the CPU, no gradients, windows on as many threads as torch uses.

    OpenCV 5 interpolates exactly; OpenCV 4 rounds places to 1/32 px, which costs nothing that can be seen.

    Args:
        stack: Layers.
        rays: What to trace.
    """
    images, light = [], torch.zeros(stack.size_hw)
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for rgba, planes, walks in zip(stack.rgba_linear, stack.planes, rays.walks_px.unbind(dim=1), strict=True):
            scene = _scene(rgba, planes, walks)
            windows = [part for strip in _strips(stack.size_hw) for part in _parted(scene, strip)]
            images.append(np.empty(scene.layers[0].shape, np.float32))
            traced = pool.map(partial(_trace_window, scene, rays), windows)
            for window, (seen, passed) in zip(windows, traced, strict=True):
                images[-1][_slices_of(window)] = seen
                window.cut(light)[:] = passed
    return Gathered(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), light)


def _strips(size_hw: tuple[int, int]) -> list[Window]:
    height, width = size_hw
    n_rows = max(1, STRIP_PX // width)
    return [Window(top, 0, min(n_rows, height - top), width) for top in range(0, height, n_rows)]


def _parted(scene: _Scene, window: Window) -> list[Window]:
    """The window, halved and halved again where layers cross inside."""
    if window.height * window.width < 2 * LEAST_CROSSING_PX or None not in _fixed_orders(scene.met, window):
        return [window]
    if window.width >= window.height:
        half = window.width // 2
        first = replace(window, width=half)
        second = replace(window, left=window.left + half, width=window.width - half)
    else:
        half = window.height // 2
        first = replace(window, height=half)
        second = replace(window, top=window.top + half, height=window.height - half)
    return [*_parted(scene, first), *_parted(scene, second)]


def _scene(rgba: Float[Tensor, "l 4 h w"], planes: Float[Tensor, "l 3"], walks: Float[Tensor, "n l 2 3"]) -> _Scene:
    maps = walks.detach().double().numpy() + np.eye(2, 3)
    c0, cx, cy = planes.detach().double().numpy().T[..., None]
    on_ray = cx * maps[:, :, 0] + cy * maps[:, :, 1]
    met = np.concatenate([c0 + on_ray[..., 2:], on_ray[..., :2]], axis=-1)
    layers = [np.ascontiguousarray(layer.permute(1, 2, 0).detach().numpy()) for layer in rgba]
    return _Scene(layers, np.array([_bounds(layer) for layer in layers]), maps, met)


def _bounds(layer: np.ndarray) -> tuple[float, float, float, float]:
    """Of all places where a lookup finds something: half a pixel beyond the outermost centres' neighbours."""
    filled = layer.any(axis=2)
    edges = []
    for axis in (0, 1):
        places = np.flatnonzero(np.any(filled, axis=axis))
        if not len(places):
            return np.inf, np.inf, -np.inf, -np.inf
        first, last = int(places[0]), int(places[-1])
        edges.append((first - 0.5 if first else -np.inf, last + 1.5 if last + 1 < filled.shape[1 - axis] else np.inf))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _trace_window(
    scene: _Scene, rays: Rays, window: Window
) -> tuple[Float[np.ndarray, "wh ww 4"], Float[Tensor, "wh ww"]]:
    """A part of the picture, and the light that reached it."""
    height, width, n_channels = scene.layers[0].shape
    shape = (window.height, window.width, n_channels)
    places = image_field(_centres(window), (height, width))
    gathered, light = np.zeros(shape, np.float32), torch.zeros(shape[:2])
    some_gathered, some_light = np.zeros_like(gathered), torch.zeros_like(light)
    for i, seen in enumerate(_seen_by_rays(scene, window)):
        if rays.aperture.cat_eye:
            carried = rays.light(i, places)
            cv2.accumulateProduct(seen, cv2.merge([carried.numpy()] * n_channels), some_gathered)
            some_light += carried
        else:
            cv2.scaleAdd(seen, float(rays.weights[i]), some_gathered, dst=some_gathered)
        if i % RAYS_PER_SUM == RAYS_PER_SUM - 1 or i + 1 == len(rays.points):
            cv2.add(gathered, some_gathered, dst=gathered)
            some_gathered.fill(0.0)
            light += some_light
            some_light.zero_()
    return gathered, light if rays.aperture.cat_eye else light + rays.weights.sum()


def _seen_by_rays(scene: _Scene, window: Window) -> Iterator[np.ndarray]:
    """A window as the scene looks through each point of the lens, in a buffer that is written again."""
    shape = (window.height, window.width, scene.layers[0].shape[2])
    buffer = np.empty(shape, np.float32)
    held = [_Held(np.empty(shape, np.float32), np.empty(shape, np.float32)) for _ in scene.layers]
    orders, boxes = _fixed_orders(scene.met, window), _boxes(scene, window)
    for maps, met, order, box in zip(_from_window(scene.maps, window), scene.met, orders, boxes, strict=True):
        if order is None:
            yield _crossing_composite(scene, maps, met, window)
        else:
            yield _lay_over(scene.layers, maps, box, order, held, into=buffer)


def _lay_over(
    layers: list[np.ndarray],
    maps: np.ndarray,
    boxes: np.ndarray,
    order: list[int],
    held: list[_Held],
    *,
    into: np.ndarray,
) -> np.ndarray:
    """Layers over one another, near first in `order`, each only where it shows."""
    farthest = order[-1]
    if boxes[farthest].tolist() != [0, 0, into.shape[1], into.shape[0]]:
        into.fill(0.0)
    _warp(layers[farthest], maps[farthest], into, _slices(boxes[farthest]))
    for i in order[-2::-1]:
        box = _slices(boxes[i])
        below, kept = into[box], held[i]
        if not below.size:
            continue
        if not np.array_equal(kept.to_layer, maps[i]):
            _warp(layers[i], maps[i], kept.seen, box)
            passing = np.subtract(1.0, kept.seen[box][..., 3])
            cv2.merge([passing] * kept.seen.shape[2], dst=kept.passing[box])
            kept.to_layer = maps[i]
        cv2.multiply(below, kept.passing[box], dst=below)
        cv2.add(below, kept.seen[box], dst=below)
    return into


def _warp(layer: np.ndarray, to_layer: np.ndarray, into: np.ndarray, box: Box = WHOLE) -> None:
    """Look up the layer at every pixel of a box of the window."""
    target = into[box]
    if not target.size:
        return
    top, left = (side.start or 0 for side in box)
    shifted = to_layer.copy()
    shifted[:, 2] += left * to_layer[:, 0] + top * to_layer[:, 1]
    size_wh = (target.shape[1], target.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(layer, shifted, size_wh, dst=target, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _slices(box: np.ndarray) -> Box:
    left, top, right, bottom = box.tolist()
    return slice(top, bottom), slice(left, right)


def _slices_of(window: Window) -> Box:
    return slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)


def _boxes(scene: _Scene, window: Window) -> np.ndarray:
    """For each ray and layer, (left, top, right, bottom) of the window's pixels that may see anything of it.

    Along a row the place in the layer moves to the right, and along a column down: no layer is as steep as a ray.
    """
    sides = ((window.left, window.left + window.width), (window.top, window.top + window.height))
    ranges = []
    for axis, (start, stop) in enumerate(sides):
        along, across, constant = (
            scene.maps[:, :, axis, axis],
            scene.maps[:, :, axis, 1 - axis],
            scene.maps[:, :, axis, 2],
        )
        at_ends = [across * end + constant for end in sides[1 - axis]]
        first = np.minimum(*((scene.bounds[:, axis] - place) / along for place in at_ends))
        last = np.maximum(*((scene.bounds[:, 2 + axis] - place) / along for place in at_ends))
        # One pixel more on both sides keeps rounding harmless.
        ranges.append([np.clip(edge, start, stop) - start for edge in (np.floor(first) - 1, np.ceil(last) + 1)])
    (left, right), (top, bottom) = ranges
    return np.stack([left, top, right, bottom], axis=-1).astype(int)


def _centres(window: Window) -> Float[Tensor, "2 wh ww"]:
    """Coordinates (x, y) of the pixel centres of a window [px]."""
    x, y = torch.arange(window.width) + window.left + 0.5, torch.arange(window.height) + window.top + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def _from_window(maps: Float[np.ndarray, "n l 2 3"], window: Window) -> Float[np.ndarray, "n l 2 3"]:
    """The same maps as OpenCV counts: from the centre of the window's first pixel, where we have the image's corner."""
    shifted = maps.copy()
    shifted[..., 2] += (window.left + 0.5) * maps[..., 0] + (window.top + 0.5) * maps[..., 1] - 0.5
    return shifted


def _fixed_orders(met: Float[np.ndarray, "n l 3"], window: Window) -> list[list[int] | None]:
    """For each ray the order, near first, that holds all over the window; None where layers cross inside it.

    Two affine functions that are ordered at the four corners are ordered everywhere between.
    """
    right, bottom = window.left + window.width, window.top + window.height
    corners = np.array([[1.0, x, y] for x in (window.left, right) for y in (window.top, bottom)])
    at_corners = met @ corners.T
    order = np.argsort(-at_corners[..., 0], axis=1, kind="stable")
    falling = np.diff(np.take_along_axis(at_corners, order[..., None], axis=1), axis=1)
    # Equal disparities keep the list's order; the other way round they must differ everywhere.
    listed = (np.diff(order, axis=1) > 0)[..., None]
    holds = np.all(np.where(listed, falling <= 0, falling < 0), axis=(1, 2))
    return [kept.tolist() if fixed else None for kept, fixed in zip(order, holds.tolist(), strict=True)]


def _crossing_composite(scene: _Scene, maps: np.ndarray, met: np.ndarray, window: Window) -> np.ndarray:
    """Layers over one another in an order that each pixel has of its own.

    Concretely, out = sum over i of seen[i] * product over the layers j nearer than i at the pixel of (1 - alpha[j]).
    Pairs are compared one by one, along affine functions: a sort of every pixel takes ten times as long.
    """
    n_channels = scene.layers[0].shape[2]
    x = np.arange(window.width) + window.left + 0.5
    y = np.arange(window.height)[:, None] + window.top + 0.5
    seen = np.empty((len(scene.layers), window.height, window.width, n_channels), np.float32)
    for layer, to_layer, into in zip(scene.layers, maps, seen, strict=True):
        _warp(layer, to_layer, into)
    passing = 1.0 - seen[..., 3]
    reaching = np.ones_like(passing)
    for i, j in combinations(range(len(seen)), 2):
        constant, across, down = met[i] - met[j]
        listed = across * x + (down * y + constant) >= 0.0  # a tie leaves layers as they are listed
        reaching[j] *= np.where(listed, passing[i], np.float32(1.0))
        reaching[i] *= np.where(listed, np.float32(1.0), passing[j])
    picture = np.zeros(seen.shape[1:], np.float32)
    for rgba, share in zip(seen, reaching, strict=True):
        cv2.accumulateProduct(rgba, cv2.merge([share] * n_channels), picture)
    return picture
