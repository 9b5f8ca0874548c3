"""Procedural scenes to stand behind a subject: dead leaves, clouds, lights at night, facades; and photographs."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from bokehdiff.data.procedural.textures import Rgb, colour_ramp, fractal_noise, grid_of, palette, texture

# scikit-image's photographs in the public domain or under CC0, shipped in its wheel (see each one's docstring there).
PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "hubble_deep_field",
    "grass",
    "gravel",
    "brick",
    "camera",
)
SMALLEST_CROP = 0.6  # side of a photograph's crop, as a share of its shorter side


def clouds(rng: Generator, size_px: int) -> Rgb:
    """A gradient with 1/f noise over it: sky, plaster, fog."""
    x, y = grid_of((size_px, size_px))
    heading = rng.uniform(0, 2 * np.pi)
    gradient = (x - 0.5) * np.cos(heading) + (y - 0.5) * np.sin(heading)
    noise = fractal_noise(rng, (size_px, size_px), slope=rng.uniform(1.1, 1.9), stretch=rng.uniform(1, 4))
    fine = fractal_noise(rng, (size_px, size_px), slope=0.7)
    field = 0.5 + rng.uniform(0.4, 0.9) * gradient + rng.uniform(0.08, 0.25) * noise + 0.02 * fine
    return colour_ramp(field, palette(rng, int(rng.integers(3, 6))))


def lights(rng: Generator, size_px: int) -> Rgb:
    """Small bright lights before darkness: a town at night, sun through leaves."""
    dark = clouds(rng, size_px) ** 2 * rng.uniform(0.3, 0.8)
    side = 4 * size_px
    canvas = np.zeros((side, side, 4), dtype=np.uint8)
    colours = palette(rng, 6, lightness=(0.75, 1.0)) ** 0.6
    n = int(rng.integers(60, 400))
    band = rng.uniform(0.2, 0.8)
    height = rng.normal(band, rng.uniform(0.08, 0.4), size=n) if rng.uniform() < 0.6 else rng.uniform(0, 1, size=n)
    for i in range(n):
        radius = min(rng.pareto(2.0) + 0.6, 8.0) * size_px / 400
        centre = (int(rng.uniform(0, side) * 64), int(height[i] * side * 64))
        colour = np.round(np.clip(colours[rng.integers(6)] * rng.uniform(0.6, 1.0), 0, 1) * 255).tolist()
        cv2.circle(canvas, centre, int(radius * 4 * 64), (*colour, 255), -1, cv2.LINE_8, 6)
    spots = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.clip(dark * (1 - spots[..., 3:]) + spots[..., :3], 0, 1)


def facade(rng: Generator, size_px: int) -> Rgb:
    """Rows of windows, shelves or tiles in perspective: straight edges and repetition."""
    side = 2 * size_px
    wall = cv2.resize(texture(rng, size_px=256), (side, side), interpolation=cv2.INTER_CUBIC)
    n_columns, n_rows = rng.integers(4, 16, size=2)
    widths = rng.dirichlet(np.full(n_columns, rng.choice([4.0, 60.0]))) * side
    heights = rng.dirichlet(np.full(n_rows, rng.choice([4.0, 60.0]))) * side
    colours = palette(rng, 8)
    left, top = np.concatenate([[0], np.cumsum(widths)]), np.concatenate([[0], np.cumsum(heights)])
    gap, image = rng.uniform(0.05, 0.22), wall * rng.uniform(0.6, 1.0)
    for i in range(n_columns):
        for j in range(n_rows):
            box = np.array(
                [
                    left[i] + gap * widths[i],
                    top[j] + gap * heights[j],
                    left[i + 1] - gap * widths[i],
                    top[j + 1] - gap * heights[j],
                ]
            )
            x0, y0, x1, y1 = np.round(box).astype(int)
            pane = (
                colours[rng.integers(8)]
                * np.linspace(rng.uniform(0.6, 1), rng.uniform(0.6, 1), max(y1 - y0, 1))[:, None, None]
            )
            image[y0:y1, x0:x1] = 0.75 * pane[: y1 - y0] + 0.25 * image[y0:y1, x0:x1]
    return _seen_askew(rng, np.clip(image, 0, 1).astype(np.float32), size_px)


def _seen_askew(rng: Generator, image: Float[np.ndarray, "s s 3"], size_px: int) -> Rgb:
    """A part of a square image in perspective, turned a little, at half its resolution."""
    side = len(image)
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], dtype=np.float32)
    moved = corners + rng.uniform(-0.25, 0.0, size=(4, 2)).astype(np.float32) * side * np.sign(side / 2 - corners) * -1
    middle = (moved - side / 2) * rng.uniform(1.0, 1.15) + side / 2
    transform = cv2.getPerspectiveTransform(corners, (middle + (side / 2 - middle.mean(axis=0))).astype(np.float32))
    seen = cv2.warpPerspective(
        image, transform, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.clip(cv2.resize(seen, (size_px, size_px), interpolation=cv2.INTER_AREA), 0, 1)


def photograph(rng: Generator, size_px: int) -> Rgb:
    """A crop of one of scikit-image's free photographs, mirrored half of the time; grey ones are tinted."""
    import skimage.data

    name = PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))]
    image = getattr(skimage.data, name)().astype(np.float32) / 255
    if image.ndim == 2:
        image = colour_ramp(
            image, np.vstack([np.zeros((1, 3)), palette(rng, 1, lightness=(0.5, 0.7)), np.ones((1, 3))])
        )
    height, width = image.shape[:2]
    side = int(min(height, width) * rng.uniform(SMALLEST_CROP, 1.0))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = image[top : top + side, left : left + side]
    if rng.uniform() < 0.5:
        crop = crop[:, ::-1]
    shrinks = side > size_px
    resized = cv2.resize(
        np.ascontiguousarray(crop), (size_px, size_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return np.clip(resized, 0, 1)
