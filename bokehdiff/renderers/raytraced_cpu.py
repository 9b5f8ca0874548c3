"""The ray tracer of layers on OpenCV: one affine warp per lens point and layer."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.renderers.layers import LayerStack, composite_by_disparity

STRIP_VALUES = 2**18  # one megabyte per buffer: a few of them fit into a processor's cache


def trace_cpu(
    stack: LayerStack, walk_planes_px: Float[Tensor, "n b l 3"], points: Float[Tensor, "n 2"]
) -> Float[Tensor, "b 4 h w"]:
    """The `Trace` on OpenCV's warpAffine: float32 on the CPU, no gradients.

    OpenCV 5 interpolates exactly; OpenCV 4 rounds places to 1/32 px, which costs nothing that can be seen.

    Args:
        stack: Layers.
        walk_planes_px: See `raytraced.walk_planes`.
        points: Points (x, y) of the unit disc.
    """
    images = [
        _trace_image(rgba, planes, walks, points)
        for rgba, planes, walks in zip(
            stack.rgba_linear.detach(), stack.planes.detach(), walk_planes_px.detach().unbind(dim=1), strict=True
        )
    ]
    return torch.stack(images)


def _trace_image(
    rgba: Float[Tensor, "l 4 h w"],
    planes: Float[Tensor, "l 3"],
    walks: Float[Tensor, "n l 3"],
    points: Float[Tensor, "n 2"],
) -> Float[Tensor, "4 h w"]:
    layers = np.ascontiguousarray(rgba.permute(0, 2, 3, 1).numpy())
    height, width = layers.shape[1:3]
    coefficients = planes.double().numpy()
    # Per lens point and layer, the affine map from pixel to layer.
    maps = np.stack(
        [
            [_pixel_to_layer(layer_walk, point) for layer_walk in walk]
            for walk, point in zip(walks.double().numpy(), points.double().numpy(), strict=True)
        ]
    )
    n_rows = max(1, STRIP_VALUES // (width * layers.shape[3]))
    strips = [
        _trace_strip(layers, coefficients, maps, rows=(top, min(top + n_rows, height)))
        for top in range(0, height, n_rows)
    ]
    return torch.from_numpy(np.concatenate(strips)).permute(2, 0, 1)


def _trace_strip(layers: np.ndarray, planes: np.ndarray, maps: np.ndarray, *, rows: tuple[int, int]) -> np.ndarray:
    """Some rows of the picture, small enough that all that is written stays in the processor's cache."""
    shape = (rows[1] - rows[0], *layers.shape[2:])
    total = np.zeros(shape, np.float32)
    seen = np.empty((len(layers), *shape), np.float32)
    passing, passing_rgba = np.empty(shape[:2], np.float32), np.empty(shape, np.float32)
    for to_layers in maps:
        for layer, to_layer, into in zip(layers, to_layers, seen, strict=True):
            _warp(layer, to_layer, rows[0], into)
        met = [_disparity_on_ray(plane, to_layer) for plane, to_layer in zip(planes, to_layers, strict=True)]
        order = _fixed_order(met, rows, shape[1])
        if order is None:
            cv2.add(total, _sorted_composite(seen, met, rows), dst=total)
            continue
        result = seen[order[-1]]
        for i in order[-2::-1]:
            np.subtract(1.0, seen[i, ..., 3], out=passing)
            cv2.merge([passing] * shape[2], dst=passing_rgba)
            cv2.multiply(result, passing_rgba, dst=result)
            cv2.add(result, seen[i], dst=result)
        cv2.add(total, result, dst=total)
    return total / np.float32(len(maps))


def _pixel_to_layer(walk: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The affine map [2 3] x = p + walk(p) * u, of image coordinates."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) + np.outer(point, [walk[1], walk[2], walk[0]])


def _warp(layer: np.ndarray, to_layer: np.ndarray, first_row: int, into: np.ndarray) -> None:
    # OpenCV counts from the centre of the first pixel of the strip, we count from the image's corner.
    shifted = to_layer.copy()
    shifted[:, 2] += 0.5 * to_layer[:, 0] + (first_row + 0.5) * to_layer[:, 1] - 0.5
    size_wh = (into.shape[1], into.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(layer, shifted, size_wh, dst=into, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _disparity_on_ray(plane: np.ndarray, to_layer: np.ndarray) -> np.ndarray:
    """Disparity where the ray of a pixel meets the layer: again an affine function (c0, cx, cy) of the pixel."""
    across, down, constant = plane[1] * to_layer[0] + plane[2] * to_layer[1]
    return np.array([plane[0] + constant, across, down])


def _fixed_order(met: list[np.ndarray], rows: tuple[int, int], width: int) -> list[int] | None:
    """The order, near first, that holds on every ray of the strip; None where layers cross inside it.

    Two affine functions that are ordered at the four corners are ordered everywhere between.
    """
    corners = np.array([[1.0, x, y] for x in (0.0, width) for y in rows])
    at_corners = corners @ np.stack(met, axis=1)
    order = np.argsort(-at_corners[0], kind="stable")
    falling = np.diff(at_corners[:, order], axis=1)
    # Equal disparities keep the list's order; the other way round they must differ everywhere.
    listed = np.diff(order) > 0
    holds = np.where(listed, falling <= 0, falling < 0).all()
    return order.tolist() if holds else None


def _sorted_composite(seen: np.ndarray, met: list[np.ndarray], rows: tuple[int, int]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(seen.shape[2]) + 0.5, np.arange(*rows) + 0.5)
    disparity = torch.from_numpy(np.stack([c0 + cx * x + cy * y for c0, cx, cy in met]))
    rgba = torch.from_numpy(seen).permute(0, 3, 1, 2)
    return composite_by_disparity(rgba[None], disparity[None])[0].permute(1, 2, 0).contiguous().numpy()
