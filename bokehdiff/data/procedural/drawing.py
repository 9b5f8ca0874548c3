"""Drawing with transparency: strokes and patches, antialiased by supersampling, kept clear of the image's border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Rgba = Float[np.ndarray, "h w 4"]

SUPERSAMPLE = 4  # 16 samples per pixel; the finest stroke is a quarter of a pixel wide
SUBPIXEL_BITS = 6  # fractional bits of the corners given to OpenCV
STRIP_PX = 128  # rows averaged at a time: keeps the float copy of the supersampled canvas small
BORDER = 0.04  # share of the side that stays transparent all around


@dataclass(frozen=True)
class Strokes:
    """Lines of varying width and colour, later ones over earlier ones.

    Args:
        points: Along each line, in the drawing's own units, y down.
        widths: Full width at each point, in the same units.
        colours: Display RGB in [0, 1] at each point.
    """

    points: Float[np.ndarray, "n k 2"]
    widths: Float[np.ndarray, "n k"]
    colours: Float[np.ndarray, "n k 3"]


@dataclass(frozen=True)
class Patch:
    """A filled outline, textured, lit from one side and darker towards its rim.

    Args:
        outline: Corners, in the drawing's own units, y down.
        texture: Display RGB that repeats across the patch.
        light: Brightness gained from the centre to the rim, towards (x, y) [1].
        roundness: Brightness lost from the centre to the rim [1].
    """

    outline: Float[np.ndarray, "k 2"]
    texture: Float[np.ndarray, "t t 3"]
    light: tuple[float, float] = (0.0, 0.0)
    roundness: float = 0.0


Mark = Strokes | Patch


def draw(marks: Sequence[Mark], size_px: int, *, fill: float = 1.0, centre: tuple[float, float] = (0.5, 0.5)) -> Rgba:
    """Draw marks, later ones over earlier ones, as display RGB with straight alpha.

    The drawing is scaled to fit the square inside its border, so that nothing is cut off.

    Args:
        marks: What to draw, in any units.
        size_px: Side of the image [px].
        fill: Size of the drawing's longer side, as a share of the room inside the border, in (0, 1].
        centre: Where the drawing lies in the room that its size leaves: 0 left or top, 1 right or bottom.
    """
    side = size_px * SUPERSAMPLE
    scale, offset = _fit(marks, side, fill, centre)
    canvas = np.zeros((side, side, 4), dtype=np.uint8)
    for mark in marks:
        if isinstance(mark, Strokes):
            _draw_strokes(canvas, mark, scale, offset)
        else:
            _draw_patch(canvas, mark, scale, offset)
    return _average(canvas, size_px)


def _fit(
    marks: Sequence[Mark], side: int, fill: float, centre: tuple[float, float]
) -> tuple[float, Float[np.ndarray, " 2"]]:
    """Scale and offset [subpixels] that bring the marks, with their widths, into the square inside the border."""
    lows, highs = [], []
    for mark in marks:
        points = mark.points.reshape(-1, 2) if isinstance(mark, Strokes) else mark.outline
        reach = mark.widths.reshape(-1, 1) / 2 if isinstance(mark, Strokes) else 0.0
        lows.append((points - reach).min(axis=0))
        highs.append((points + reach).max(axis=0))
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    room = side * (1 - 2 * BORDER)
    scale = fill * room / float((high - low).max())
    slack = room - scale * (high - low)
    return scale, side * BORDER + slack * np.asarray(centre) - scale * low


def _draw_strokes(
    canvas: UInt8[np.ndarray, "s s 4"], strokes: Strokes, scale: float, offset: Float[np.ndarray, " 2"]
) -> None:
    corners = np.round((strokes.points * scale + offset - 0.5) * 2**SUBPIXEL_BITS).astype(int).tolist()
    thickness = np.maximum(np.round(strokes.widths * scale), 1).astype(int).tolist()
    colours = np.round(np.clip(strokes.colours, 0, 1) * 255).tolist()
    for line, widths, shades in zip(corners, thickness, colours, strict=True):
        for i in range(len(line) - 1):
            cv2.line(canvas, line[i], line[i + 1], (*shades[i], 255), widths[i], cv2.LINE_8, SUBPIXEL_BITS)


def _draw_patch(
    canvas: UInt8[np.ndarray, "s s 4"], patch: Patch, scale: float, offset: Float[np.ndarray, " 2"]
) -> None:
    corners = patch.outline * scale + offset - 0.5
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, len(canvas))
    width, height = high - low
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(inside, [np.round((corners - low) * 2**SUBPIXEL_BITS).astype(np.int32)], color=1, shift=SUBPIXEL_BITS)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = 1 + patch.light[0] * x + patch.light[1] * y - patch.roundness * (x * x + y * y)
    texels = len(patch.texture)
    rows = (np.arange(low[1], high[1]) // SUPERSAMPLE) % texels
    columns = (np.arange(low[0], high[0]) // SUPERSAMPLE) % texels
    surface = patch.texture[rows[:, None], columns[None, :]] * light[..., None]
    region = canvas[low[1] : high[1], low[0] : high[0]]
    chosen = inside.astype(bool)
    region[chosen, :3] = np.round(np.clip(surface[chosen], 0, 1) * 255).astype(np.uint8)
    region[chosen, 3] = 255


def _average(canvas: UInt8[np.ndarray, "s s 4"], size_px: int) -> Rgba:
    """Supersamples to pixels: alpha is the share that was drawn on, colour the mean of that share."""
    image = np.empty((size_px, size_px, 4), dtype=np.float32)
    for top in range(0, size_px, STRIP_PX):
        rows = min(STRIP_PX, size_px - top)
        strip = canvas[top * SUPERSAMPLE : (top + rows) * SUPERSAMPLE].astype(np.float32) / 255
        image[top : top + rows] = cv2.resize(strip, (size_px, rows), interpolation=cv2.INTER_AREA)
    alpha = image[..., 3:]
    image[..., :3] /= np.where(alpha > 0, alpha, 1.0)
    return image
