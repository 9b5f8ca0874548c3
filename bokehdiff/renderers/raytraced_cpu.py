"""The ray tracer of layers on OpenCV: one affine warp per lens point and layer."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.renderers.layers import LayerStack, composite_by_disparity


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
    layers = [np.ascontiguousarray(layer.permute(1, 2, 0).numpy()) for layer in rgba]
    height, width = layers[0].shape[:2]
    total = torch.zeros(height, width, 4)
    coefficients = planes.double().numpy()
    for walk, point in zip(walks.double().numpy(), points.double().numpy(), strict=True):
        maps = [_pixel_to_layer(layer_walk, point) for layer_walk in walk]
        seen = [_warp(layer, to_layer) for layer, to_layer in zip(layers, maps, strict=True)]
        met = [_disparity_on_ray(plane, to_layer) for plane, to_layer in zip(coefficients, maps, strict=True)]
        order = _fixed_order(met, (height, width))
        total += _sorted_composite(seen, met) if order is None else _stacked([seen[i] for i in order])
    return (total / len(points)).permute(2, 0, 1)


def _pixel_to_layer(walk: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The affine map [2 3] x = p + walk(p) * u, of image coordinates."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) + np.outer(point, [walk[1], walk[2], walk[0]])


def _warp(layer: np.ndarray, to_layer: np.ndarray) -> Tensor:
    # OpenCV counts from the centre of the first pixel, we count from its corner.
    shifted = to_layer.copy()
    shifted[:, 2] += 0.5 * (to_layer[:, 0] + to_layer[:, 1]) - 0.5
    size_wh = (layer.shape[1], layer.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return torch.from_numpy(cv2.warpAffine(layer, shifted, size_wh, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _disparity_on_ray(plane: np.ndarray, to_layer: np.ndarray) -> np.ndarray:
    """Disparity where the ray of a pixel meets the layer: again an affine function (c0, cx, cy) of the pixel."""
    across, down, constant = plane[1] * to_layer[0] + plane[2] * to_layer[1]
    return np.array([plane[0] + constant, across, down])


def _fixed_order(met: list[np.ndarray], size_hw: tuple[int, int]) -> list[int] | None:
    """The order, near first, that holds on every ray; None where layers cross inside the image.

    Two affine functions that are ordered at the four corners are ordered everywhere between.
    """
    height, width = size_hw
    corners = np.array([[1.0, x, y] for x in (0.0, width) for y in (0.0, height)])
    at_corners = corners @ np.stack(met, axis=1)
    order = np.argsort(-at_corners[0], kind="stable")
    falling = np.diff(at_corners[:, order], axis=1)
    # Layers that touch at a corner are ordered by the others; ties everywhere keep the list's order.
    listed = np.diff(order) > 0
    holds = np.where(listed, falling <= 0, falling < 0).all()
    return order.tolist() if holds else None


def _stacked(near_first: list[Tensor]) -> Tensor:
    result = near_first[-1]
    for layer in near_first[-2::-1]:
        result = torch.addcmul(layer, 1.0 - layer[..., 3:], result)
    return result


def _sorted_composite(seen: list[Tensor], met: list[np.ndarray]) -> Tensor:
    rgba = torch.stack(seen).permute(0, 3, 1, 2)
    height, width = rgba.shape[-2:]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    disparity = np.stack([c0 + cx * x + cy * y for c0, cx, cy in met])
    return composite_by_disparity(rgba[None], torch.from_numpy(disparity)[None])[0].permute(1, 2, 0)
