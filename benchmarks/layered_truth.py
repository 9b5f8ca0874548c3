"""What layers look like through a lens at some pixels: the truth for benchmarks/renderers.py.

It shares nothing with the renderers but the scene and `Lens`: NumPy on single pixels instead of warped pictures, points
of the R2 sequence instead of Vogel's, nothing filtered, double precision in its sums.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float, Int

from bokehdiff.optics import Lens
from bokehdiff.renderers import LayerStack

PLASTIC = 1.32471795724474602596  # x^3 = x + 1; its powers make the R2 sequence (M. Roberts, 2018)
ROW_PX = 128  # pixels are looked up as a picture of such rows, whose sides OpenCV bounds by 2^15
RAYS_PER_TASK = 64


@dataclass(frozen=True)
class Pixels:
    """Some pixels of a picture.

    Args:
        row: Of each.
        column: Of each.
    """

    row: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Truth:
    """Colour and coverage of some pixels.

    Args:
        rgba: Through all points of the lens.
        half: Through the first half of them.
    """

    rgba: Float[np.ndarray, "n 4"]
    half: Float[np.ndarray, "n 4"]


def scattered_pixels(size_hw: tuple[int, int], *, border_px: int, cell_px: int, seed: int = 0) -> Pixels:
    """One pixel at random of each square cell, without the border: what is averaged over them is so over all.

    Args:
        size_hw: Height and width of the picture [px].
        border_px: What to leave out on each side.
        cell_px: Side of the cells.
        seed: Of the choice.
    """
    rng = np.random.default_rng(seed)
    firsts = [np.arange(border_px, length - border_px - cell_px + 1, cell_px) for length in size_hw]
    row, column = np.stack(np.meshgrid(*firsts, indexing="ij")) + rng.integers(cell_px, size=(2, *map(len, firsts)))
    return Pixels(row.ravel(), column.ravel())


def r2_disc(n_points: int) -> Float[np.ndarray, "n 2"]:
    """The R2 sequence on the disc, by the map of Shirley and Chiu that keeps areas."""
    index = np.arange(1, n_points + 1)
    x, y = (2.0 * ((0.5 + index / PLASTIC**power) % 1.0) - 1.0 for power in (1, 2))
    wide = np.abs(x) > np.abs(y)
    radius = np.where(wide, x, y)
    angle = np.where(wide, np.pi / 4 * y / x, np.pi / 2 - np.pi / 4 * x / y)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def truth_at(stack: LayerStack, lens: Lens, pixels: Pixels, n_points: int) -> Truth:
    """Trace rays from some pixels through many points of the disc.

    Concretely, the ray from the centre p of a pixel through the point u meets the layer of disparity c0 + c . x at
    x = p + u coc(p) / (1 - K c . u); nearer layers hide those behind.

    Args:
        stack: One scene on the CPU.
        lens: A disc that treats all colours alike.
        pixels: Where to look.
        n_points: Points of the lens; even.
    """
    points = r2_disc(n_points)
    scene = _Scene.of(stack, lens, pixels)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        first, second = (
            sum(pool.map(scene.gathered, np.array_split(some, max(1, len(some) // RAYS_PER_TASK))))[: len(pixels.row)]
            for some in np.array_split(points, 2)
        )
    return Truth((first + second) / n_points, 2.0 * first / n_points)


@dataclass(frozen=True)
class _Scene:
    """Layers, and pixels to look at them from.

    Args:
        layers: Each [h w 4].
        planes: (c0, cx, cy) of each.
        focus: Disparity in focus.
        strength_px: K.
        x: Of the pixels' centres, in rows; the last one is filled up [px].
        y: [px].
    """

    layers: list[np.ndarray]
    planes: Float[np.ndarray, "l 3"]
    focus: float
    strength_px: float
    x: Float[np.ndarray, "rows columns"]
    y: Float[np.ndarray, "rows columns"]

    @staticmethod
    def of(stack: LayerStack, lens: Lens, pixels: Pixels) -> _Scene:
        layers = [np.ascontiguousarray(layer.permute(1, 2, 0).numpy()) for layer in stack.rgba_linear[0]]
        x, y = (
            np.pad(places + np.float32(0.5), (0, -len(places) % ROW_PX)).astype(np.float32).reshape(-1, ROW_PX)
            for places in (pixels.column, pixels.row)
        )
        planes = stack.planes[0].double().numpy()
        return _Scene(layers, planes, float(lens.focus_disparity), float(lens.strength_px), x, y)

    def gathered(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 4"]:
        """The sum of what the rays through some points see."""
        total = np.zeros((*self.x.shape, 4), np.float64)
        for point in points:
            met = [self._met(plane, point) for plane in self.planes]
            seen = [self._looked_up(layer, x, y) for layer, (x, y, _) in zip(self.layers, met, strict=True)]
            passing = [1.0 - rgba[..., 3:] for rgba in seen]
            for i, j in combinations(range(len(seen)), 2):
                listed = (met[i][2] >= met[j][2])[..., None]
                if listed.all():
                    seen[j] *= passing[i]
                else:
                    seen[j] *= np.where(listed, passing[i], np.float32(1.0))
                    seen[i] *= np.where(listed, np.float32(1.0), passing[j])
            for rgba in seen:
                total += rgba
        return total.reshape(-1, 4)

    def _met(self, plane: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the rays through a point meet a layer, x and y [px], and its disparity there."""
        c0, cx, cy = (np.float32(c) for c in plane)
        stretch = self.strength_px / (1.0 - self.strength_px * float(plane[1:] @ point))
        along = (c0 - np.float32(self.focus) + cx * self.x + cy * self.y) * np.float32(stretch)
        x, y = self.x + np.float32(point[0]) * along, self.y + np.float32(point[1]) * along
        return x, y, c0 + cx * x + cy * y

    def _looked_up(self, layer: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bilinear; edge pixels go on beyond the border. OpenCV counts from the centre of the first pixel."""
        half = np.float32(0.5)
        return cv2.remap(layer, x - half, y - half, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
