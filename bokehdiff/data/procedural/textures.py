"""Procedural colours and surfaces: palettes, 1/f noise, textures that repeat without a seam, dead leaves.

Arrays are NumPy, h w c, float32, display colours in [0, 1]; chance comes from the caller's generator only.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

Rgb = Float[np.ndarray, "h w 3"]
Field = Float[np.ndarray, "h w"]

SUPERSAMPLE = 2  # dead leaves are drawn at twice the size: 4 samples per pixel where leaves meet
COVERAGE = 6.0  # leaves drawn per unit of area: leaves exp(-6) = 0.2 % of the ground uncovered
POLYGON_POINTS = 40  # corners of a leaf's outline
TEXTURE_PX = 256  # side of a leaf's texture, which repeats

# OKLab to linear sRGB. Source: B. Ottosson, "A perceptual color space for image processing", 2020.
_LAB_TO_LMS = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def display_colours(
    lightness: Float[np.ndarray, " n"], chroma: Float[np.ndarray, " n"], hue: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Display RGB in [0, 1] of OKLCh colours, clipped to the gamut.

    Args:
        lightness: Perceived lightness, in [0, 1].
        chroma: Colourfulness, 0 grey to about 0.3.
        hue: Angle [rad].
    """
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = (lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    return (np.clip(linear, 0.0, 1.0) ** (1 / 2.2)).astype(np.float32)


def palette(rng: Generator, n: int, *, lightness: tuple[float, float] = (0.2, 0.92)) -> Float[np.ndarray, "n 3"]:
    """Colours that go together: one to three hues, mostly muted, some vivid.

    Args:
        rng: Source of chance.
        n: Number of colours.
        lightness: Range of OKLab lightness.
    """
    hues = rng.uniform(0, 2 * np.pi, size=rng.integers(1, 4))
    hue = rng.choice(hues, size=n) + rng.normal(0, 0.22, size=n)
    chroma = np.minimum(rng.gamma(2.0, rng.uniform(0.015, 0.04), size=n), 0.22)
    return display_colours(rng.uniform(*lightness, size=n), chroma, hue)


def fractal_noise(
    rng: Generator, size_hw: tuple[int, int], *, slope: float = 1.0, stretch: float = 1.0, angle: float = 0.0
) -> Field:
    """Noise whose amplitude falls as 1 / frequency^slope, of mean 0 and deviation 1; it repeats without a seam.

    Args:
        rng: Source of chance.
        size_hw: Height and width [px].
        slope: 0 is white; natural images have about 1; above 1.5 is smooth as clouds.
        stretch: The pattern is this many times longer along `angle` than across: grain of wood, fibres.
        angle: Direction of the stretch [rad].
    """
    height, width = size_hw
    v = np.fft.fftfreq(height)[:, None] * height
    u = np.fft.rfftfreq(width)[None, :] * width
    along = (u * np.cos(angle) + v * np.sin(angle)) * stretch
    across = v * np.cos(angle) - u * np.sin(angle)
    frequency = np.hypot(along, across)
    frequency[0, 0] = np.inf
    phases = rng.standard_normal((2, height, width // 2 + 1))
    field = np.fft.irfft2((phases[0] + 1j * phases[1]) * frequency**-slope, s=size_hw)
    return ((field - field.mean()) / max(float(field.std()), 1e-12)).astype(np.float32)


def unit_range(field: Field) -> Field:
    """Squeeze a field of deviation 1 into (0, 1) without hard limits."""
    return 0.5 + 0.5 * np.tanh(0.8 * field)


def colour_ramp(field: Field, colours: Float[np.ndarray, "n 3"]) -> Rgb:
    """Colours along a ramp: field 0 is the first, 1 the last."""
    stops = np.linspace(0.0, 1.0, len(colours))
    return np.stack([np.interp(field, stops, colours[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def grid_of(size_hw: tuple[int, int]) -> tuple[Field, Field]:
    """x and y of each pixel's centre, from 0 to 1 across the image."""
    height, width = size_hw
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return x.astype(np.float32), y.astype(np.float32)


def _grain(rng: Generator, size: int) -> Field:
    noise = fractal_noise(
        rng,
        (size, size),
        slope=rng.uniform(0.6, 1.5),
        stretch=float(rng.choice([1, 1, 4, 12])),
        angle=rng.uniform(0, np.pi),
    )
    return unit_range(noise)


def _marble(rng: Generator, size: int) -> Field:
    x, y = grid_of((size, size))
    u, v = rng.integers(-5, 6, size=2)
    warp = rng.uniform(0.1, 0.5) * fractal_noise(rng, (size, size), slope=1.4)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (u * x + (v or 2) * y + warp))


def _weave(rng: Generator, size: int) -> Field:
    x, y = grid_of((size, size))
    threads = int(rng.integers(8, 40))
    warp = 0.004 * fractal_noise(rng, (size, size), slope=1.5)
    columns, rows = np.sin(2 * np.pi * threads * (x + warp)), np.sin(2 * np.pi * threads * (y + warp))
    return np.clip(
        0.5 + 0.3 * columns * rows + 0.12 * (columns + rows) + 0.06 * fractal_noise(rng, (size, size), slope=0.3), 0, 1
    )


def _cells(rng: Generator, size: int) -> Field:
    """Distance to the nearest of scattered points, over that to the second: cracked mud, scales, leather."""
    from scipy.spatial import cKDTree

    n_cells = int(rng.integers(30, 220))
    points = rng.uniform(0, 1, size=(n_cells, 2))
    x, y = grid_of((size, size))
    distance, _ = cKDTree(points, boxsize=1.0).query(np.stack([x.ravel(), y.ravel()], axis=1), k=2)
    return (distance[:, 0] / np.maximum(distance[:, 1], 1e-9)).reshape(size, size).astype(np.float32)


def _spots(rng: Generator, size: int) -> Field:
    noise = fractal_noise(rng, (size, size), slope=2.4)
    return 1 / (1 + np.exp(-rng.uniform(4, 14) * (noise - rng.uniform(-0.6, 0.9))))


_PATTERNS: tuple[Callable[[Generator, int], Field], ...] = (_grain, _grain, _marble, _weave, _cells, _spots)


def texture(rng: Generator, *, size_px: int = TEXTURE_PX, colours: Float[np.ndarray, "n 3"] | None = None) -> Rgb:
    """A surface that repeats without a seam: grain, marble, weave, cells or spots, in a ramp of colours.

    Args:
        rng: Source of chance.
        size_px: Side [px].
        colours: Ramp to colour it with; None draws a palette.
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, size_px)
    ramp = palette(rng, 4) if colours is None else colours
    fine = fractal_noise(rng, (size_px, size_px), slope=rng.uniform(0.3, 0.9))
    relief = 1 + rng.uniform(0.02, 0.08) * fine[..., None]
    return np.clip(colour_ramp(pattern.astype(np.float32), ramp) * relief, 0, 1)


def outlines(
    rng: Generator, wobble: Float[np.ndarray, " n"], *, n_points: int = POLYGON_POINTS
) -> Float[np.ndarray, "n k 2"]:
    """Closed smooth outlines about the origin, of mean radius 1.

    Args:
        rng: Source of chance.
        wobble: Deviation of each one's radius [1]; 0 is a circle.
        n_points: Corners.
    """
    angle = np.linspace(0, 2 * np.pi, n_points, endpoint=False)
    order = np.arange(1, 8)[:, None]
    amplitude = wobble[:, None, None] * rng.standard_normal((len(wobble), 7, 1)) / order
    phase = rng.uniform(0, 2 * np.pi, (len(wobble), 7, 1))
    radius = np.exp((amplitude * np.cos(order * angle + phase)).sum(axis=1))
    return radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def outline(rng: Generator, *, wobble: float, n_points: int = POLYGON_POINTS) -> Float[np.ndarray, "k 2"]:
    """One closed smooth outline; see `outlines`."""
    return outlines(rng, np.array([wobble]), n_points=n_points)[0]


def _leaf_outlines(rng: Generator, n: int) -> Float[np.ndarray, "n k 2"]:
    """Leaves of a dead-leaves image: discs, ellipses, boxes and wobbly shapes, turned anyhow."""
    form = rng.integers(4, size=n)
    points = outlines(rng, np.array([0.0, 0.0, 0.12, 0.3])[form])
    boxes = form == 0
    points[boxes] *= 0.9 / np.abs(points[boxes]).max(axis=2, keepdims=True)
    points[..., 1] *= rng.uniform(0.35, 1.0, size=(n, 1))
    turn = rng.uniform(0, 2 * np.pi, size=n)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.einsum("nki,ijn->nkj", points, rotation)


def dead_leaves(rng: Generator, size_px: int) -> Rgb:
    """Textured shapes that cover one another, sized by a power law: the statistics of natural images.

    Concretely, radii follow p(r) ~ r^-3 between 1/55 and 1/2.5 of the image, centres are uniform, later leaves hide
    earlier ones. Source: Lee, Mumford and Huang, "Occlusion models for natural images", 2001.

    Args:
        rng: Source of chance.
        size_px: Side [px].
    """
    size = size_px * SUPERSAMPLE
    smallest, largest = size / 55, size / 2.5
    mean_area = 2 * np.pi * smallest**2 * np.log(largest / smallest)
    n_leaves = int(COVERAGE * size**2 / mean_area)
    radius = smallest / np.sqrt(1 - rng.uniform(0, 1, n_leaves) * (1 - (smallest / largest) ** 2))
    centre = rng.uniform(-0.1 * size, 1.1 * size, size=(n_leaves, 2))
    labels = np.zeros((size, size), dtype=np.int32)
    corners = centre[:, None] + radius[:, None, None] * _leaf_outlines(rng, n_leaves)
    for i, polygon in enumerate(np.round(corners * 256).astype(np.int32)):
        cv2.fillPoly(labels, [polygon], color=i + 1, shift=8)
    leaves = _paint_leaves(rng, labels, np.vstack([[[size / 2, size / 2]], centre]), np.concatenate([[size], radius]))
    return cv2.resize(leaves, (size_px, size_px), interpolation=cv2.INTER_AREA)


def _paint_leaves(
    rng: Generator, labels: Int[np.ndarray, "s s"], centre: Float[np.ndarray, "n 2"], radius: Float[np.ndarray, " n"]
) -> Rgb:
    """Give each leaf a texture at its own offset, a tint and a light that falls off across it."""
    n = len(radius)
    bank = np.stack([texture(rng) for _ in range(8)])
    size = len(labels)
    rows, columns = np.mgrid[:size, :size].astype(np.int32)
    which = rng.integers(len(bank), size=n)
    offset = rng.integers(TEXTURE_PX, size=(n, 2)).astype(np.int32)
    texel_row = (rows // SUPERSAMPLE + offset[labels, 1]) % TEXTURE_PX
    texel_column = (columns // SUPERSAMPLE + offset[labels, 0]) % TEXTURE_PX
    tint = palette(rng, n) / 0.6
    blend = rng.uniform(0.1, 0.7, size=n)[:, None]
    tint = (blend * tint + (1 - blend)).astype(np.float32)
    slope = (rng.normal(0, 0.16, size=(n, 2)) / radius[:, None]).astype(np.float32)
    base = (1 - (slope * centre).sum(axis=1)).astype(np.float32)
    light = base[labels] + slope[labels, 0] * columns + slope[labels, 1] * rows
    colours = bank[which[labels], texel_row, texel_column]
    return np.clip(colours * tint[labels] * light[..., None], 0, 1).astype(np.float32)
