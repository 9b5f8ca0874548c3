"""Procedural subjects with transparency: hair, fans of leaves, lattices, solids, fur, veils.

Each kind turns a generator into marks (see `drawing`), or into RGBA where alpha is not a matter of coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float
from numpy.random import Generator

from bokehdiff.data.procedural.drawing import Mark, Patch, Rgba, Strokes, draw
from bokehdiff.data.procedural.textures import (
    colour_ramp,
    fractal_noise,
    grid_of,
    outline,
    palette,
    texture,
    unit_range,
)

DOWN = np.pi / 2  # heading of gravity: y points down
HAIR_COLOURS = (  # display RGB of black, brown, red, blond and grey hair
    (0.16, 0.12, 0.10),
    (0.38, 0.24, 0.15),
    (0.60, 0.30, 0.14),
    (0.85, 0.68, 0.42),
    (0.75, 0.74, 0.73),
)


def _turned(points: Float[np.ndarray, "*k 2"], angle: float) -> Float[np.ndarray, "*k 2"]:
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ rotation


def _solid(
    rng: Generator, centre: Float[np.ndarray, " 2"], scale: Float[np.ndarray, " 2"] | float, *, wobble: float
) -> Patch:
    """A smooth textured lump, lit from above."""
    return Patch(
        outline=np.asarray(centre) + outline(rng, wobble=wobble, n_points=160) * scale,
        texture=texture(rng),
        light=(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.35, -0.05))),
        roundness=float(rng.uniform(0.05, 0.3)),
    )


def solids(rng: Generator) -> list[Mark]:
    """One to five lumps, the later in front."""
    n = int(rng.integers(1, 6))
    spread = 0.0 if n == 1 else 0.8
    return [
        _solid(rng, rng.normal(0, spread, size=2), rng.uniform(0.5, 1.0, size=2), wobble=rng.uniform(0.05, 0.4))
        for _ in range(n)
    ]


def _strand_paths(
    rng: Generator,
    roots: Float[np.ndarray, "n 2"],
    heading: Float[np.ndarray, " n"],
    length: Float[np.ndarray, " n"],
    *,
    gravity: float,
    curl: float,
    n_steps: int,
) -> Float[np.ndarray, "n s 2"]:
    """Strands that leave their roots along `heading`, sink with gravity and curl in locks of their own.

    Args:
        rng: Source of chance.
        roots: Where each strand begins.
        heading: Direction it sets out in [rad].
        length: Of each strand.
        gravity: Turn towards straight down along a strand [rad, for a strand that lies level].
        curl: Deviation of the waves' angle [rad].
        n_steps: Points along a strand, less one.
    """
    n = len(roots)
    n_locks = max(n // 14, 1)
    lock = rng.integers(n_locks, size=n)
    waves = rng.uniform(0.8, 3.0, size=n_locks)[lock] * rng.normal(1, 0.08, size=n)
    phase = rng.uniform(0, 2 * np.pi, size=n_locks)[lock] + rng.normal(0, 0.5, size=n)
    amplitude = curl * rng.gamma(2.0, 0.5, size=n_locks)[lock] * rng.normal(1, 0.2, size=n)
    drift = rng.normal(0, 0.18, size=n_locks)[lock] + rng.normal(0, 0.12, size=n)
    angle = heading + rng.normal(0, 0.16, size=n)
    paths = [roots]
    for step in range(n_steps):
        t = (step + 0.5) / n_steps
        angle = angle + (gravity * np.cos(angle) + drift) / n_steps
        wave = amplitude * t * np.sin(2 * np.pi * waves * t + phase)
        course = angle + wave
        paths.append(paths[-1] + (length / n_steps)[:, None] * np.stack([np.cos(course), np.sin(course)], axis=1))
    return np.stack(paths, axis=1)


def _strands(
    rng: Generator, paths: Float[np.ndarray, "n s 2"], *, colours: Float[np.ndarray, "c 3"], width: float
) -> Strokes:
    """Strokes for strand paths: tapering, darker at the root, each of its own shade, with a sheen on the way."""
    n, n_points = len(paths), paths.shape[1]
    t = np.linspace(0, 1, n_points)
    taper = np.sqrt(np.clip(1.04 - t, 0, 1)) * np.minimum(0.6 + 2 * t, 1)
    sheen_at, sheen = rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.6)
    glow = 0.6 + 0.35 * t + sheen * np.exp(-(((t - sheen_at) / 0.13) ** 2))
    base = colours[rng.integers(len(colours), size=n)] * rng.normal(1.0, 0.16, size=(n, 1))
    widths = width * rng.uniform(0.5, 1.2, size=(n, 1)) * taper
    return Strokes(paths, widths, np.clip(base[:, None] * glow[:, None], 0, 1))


def _hair_colours(rng: Generator) -> Float[np.ndarray, "c 3"]:
    """Mostly what grows on heads: black, brown, red, blond, grey; one in four is dyed."""
    dyed = rng.uniform() < 0.25
    base = palette(rng, 1, lightness=(0.4, 0.8))[0] if dyed else np.array(HAIR_COLOURS[rng.integers(len(HAIR_COLOURS))])
    shades = base * rng.uniform(0.75, 1.3, size=(5, 1)) + rng.normal(0, 0.02, size=(5, 3))
    return np.clip(shades, 0.02, 1).astype(np.float32)


def hair(rng: Generator) -> list[Mark]:
    """A head of hair from behind, sometimes over shoulders: a covered scalp and a fringe of single strands."""
    colours = _hair_colours(rng)
    n_strands = int(rng.integers(1300, 2000))
    around = rng.uniform(0, 2 * np.pi, size=n_strands)
    depth = np.sqrt(rng.uniform(0, 1, size=n_strands))
    roots = np.stack([0.8 * depth * np.cos(around), depth * np.sin(around)], axis=1)
    roots = roots[np.argsort(-roots[:, 1] + rng.normal(0, 0.3, size=n_strands))]
    crown = np.array([rng.normal(0, 0.25), rng.uniform(-0.9, -0.3)])
    heading = np.arctan2(roots[:, 1] - crown[1], roots[:, 0] - crown[0])
    length = rng.uniform(0.5, 2.6) * rng.beta(5, 2.2, size=n_strands)
    gravity, curl = rng.uniform(0.3, 4.5), rng.uniform(0.05, 1.1)
    paths = _strand_paths(rng, roots, heading, length, gravity=gravity, curl=curl, n_steps=18)
    scalp = Patch(
        outline(rng, wobble=0.02) * (0.82, 1.02), np.broadcast_to(colours.mean(axis=0) * 0.45, (2, 2, 3)), roundness=0.2
    )
    marks: list[Mark] = [scalp, _strands(rng, paths, colours=colours, width=rng.uniform(0.009, 0.014))]
    if rng.uniform() < 0.5:
        around = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        bust = np.stack([np.cos(around), np.sin(around)], axis=1)
        shoulders = np.sign(bust) * np.abs(bust) ** 0.6 * (1.5, 0.8) + (0, 1.85)  # a box with well-rounded corners
        marks.insert(0, Patch(shoulders, texture(rng), light=(float(rng.uniform(-0.3, 0.3)), -0.3), roundness=0.15))
    return marks


def fur(rng: Generator) -> list[Mark]:
    """A furry body: a lump under short hairs that all lie one way, densest at its rim."""
    colours = np.vstack([_hair_colours(rng), _hair_colours(rng)[:2]])
    body = outline(rng, wobble=rng.uniform(0.05, 0.3), n_points=160) * rng.uniform(0.6, 1.0, size=2)
    n_inner, n_rim = 1500, 1100
    inner = body[rng.integers(160, size=n_inner)] * np.sqrt(rng.uniform(0, 0.95, size=(n_inner, 1)))
    edge = rng.uniform(0, 160, size=n_rim)
    low = np.floor(edge).astype(int) % 160
    rim = body[low] + (edge % 1)[:, None] * (body[(low + 1) % 160] - body[low])
    roots = np.vstack([rim * 0.97, inner[np.argsort(inner[:, 1])]])
    lie = rng.uniform(0, 2 * np.pi)
    heading = np.arctan2(roots[:, 1] + 0.35 * np.sin(lie), roots[:, 0] + 0.35 * np.cos(lie))
    length = rng.uniform(0.12, 0.38) * rng.beta(5, 2.5, size=len(roots))
    paths = _strand_paths(
        rng, roots, heading, length, gravity=rng.uniform(0.0, 1.0), curl=rng.uniform(0.0, 0.5), n_steps=8
    )
    skin = Patch(body, np.broadcast_to(colours.mean(axis=0) * 0.6, (2, 2, 3)), light=(0.0, -0.2), roundness=0.2)
    return [skin, _strands(rng, paths, colours=colours, width=0.014)]


def _leaflet(
    rng: Generator,
    root: Float[np.ndarray, " 2"],
    angle: float,
    length: float,
    surface: Float[np.ndarray, "t t 3"],
    *,
    n_veins: int,
) -> Iterator[Mark]:
    """A pointed leaf with its midrib and pairs of side veins, bent a little."""
    slim, belly, bend = rng.uniform(0.1, 0.24), rng.uniform(0.7, 1.3), rng.normal(0, 0.12)

    def half_width(t: Any) -> Any:
        return slim * np.sin(np.pi * t**belly) ** 0.9

    def spine(t: Any) -> Any:
        return np.stack([t, 4 * bend * t * (1 - t)], axis=-1)

    def place(points: Float[np.ndarray, "*k 2"]) -> Float[np.ndarray, "*k 2"]:
        return root + _turned(points * length, angle)

    t = np.linspace(0, 1, 20)
    side = np.stack([np.zeros_like(t), half_width(t)], axis=1)
    tint = np.clip(surface * rng.normal(1.0, 0.14), 0, 1)
    blade = np.vstack([spine(t) + side, (spine(t) - side)[::-1]])
    yield Patch(place(blade), tint, light=(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.3, 0.3))), roundness=0.1)
    mean = tint.mean(axis=(0, 1))
    rib = np.clip(mean * rng.choice([0.65, 1.4]), 0, 1)
    if n_veins:
        at = np.repeat(np.linspace(0.15, 0.8, n_veins), 2)
        sideways = np.stack([0 * at, 0.8 * half_width(at + 0.12) * np.tile([-1, 1], n_veins)], axis=1)
        veins = place(np.stack([spine(at), spine(at + 0.12) + sideways], axis=1))
        yield Strokes(veins, np.full((len(at), 2), 0.006 * length), np.tile((rib + mean) / 2, (len(at), 2, 1)))
    along = np.linspace(0, 1, 7)
    yield Strokes(place(spine(along))[None], np.linspace(0.022, 0.004, 7)[None] * length, np.tile(rib, (1, 7, 1)))


def leaves(rng: Generator) -> list[Mark]:
    """Sprigs with leaves on both sides, or fans and flowers whose leaves share one root."""
    greens = palette(rng, 4) if rng.uniform() < 0.4 else palette(rng, 4) * 0.35 + np.array([0.22, 0.38, 0.12])
    surface = texture(rng, colours=np.clip(greens, 0, 1))
    surface = 0.35 * surface + 0.65 * surface.mean(axis=(0, 1))
    if rng.uniform() < 0.4:
        spread, n = rng.uniform(0.6, 1.0) * 2 * np.pi, int(rng.integers(9, 34))
        angles = rng.permutation(np.linspace(-spread / 2, spread / 2, n, endpoint=spread < 6)) + rng.uniform(0, 6.28)
        return [
            mark
            for angle in angles
            for mark in _leaflet(rng, np.zeros(2), angle, rng.uniform(0.75, 1.0), surface, n_veins=6)
        ]
    marks: list[Mark] = []
    for _ in range(int(rng.integers(2, 6))):
        marks += _sprig(rng, np.array([rng.normal(0, 0.3), 0.0]), surface)
    return marks


def _sprig(rng: Generator, root: Float[np.ndarray, " 2"], surface: Float[np.ndarray, "t t 3"]) -> Iterator[Mark]:
    """A bent stem with leaves in turn on either side, shorter towards the tip."""
    heading, bend, n = -DOWN + rng.normal(0, 0.45), rng.normal(0, 0.8), int(rng.integers(7, 17))
    t = np.linspace(0, 1, 3 * n)
    course = heading + bend * t
    stem = root + np.cumsum(np.stack([np.cos(course), np.sin(course)], axis=1), axis=0) * rng.uniform(1.2, 2.0) / len(t)
    colour = np.clip(surface.mean(axis=(0, 1)) * rng.uniform(0.5, 0.8), 0, 1)
    yield Strokes(stem[None], np.linspace(0.03, 0.01, len(t))[None], np.tile(colour, (1, len(t), 1)))
    open_angle, size = rng.uniform(0.5, 1.2), rng.uniform(0.35, 0.7)
    for i in range(n):
        at = 3 * i + 2
        for sign in (-1, 1) if i < n - 1 else (0,):
            angle = course[at] + sign * open_angle + rng.normal(0, 0.1)
            yield from _leaflet(rng, stem[at], angle, size * (1.1 - 0.6 * t[at]), surface, n_veins=0)


def lattice(rng: Generator) -> list[Mark]:
    """A framed mesh: wire netting, trellis or bars, seen at an angle."""
    n = int(rng.integers(5, 15))
    wire = rng.uniform(0.012, 0.06)
    surface = palette(rng, 3, lightness=(0.3, 0.85))
    diagonal, wavy = rng.uniform() < 0.5, rng.uniform() < 0.4
    ticks = np.linspace(-1, 1, n) if not diagonal else np.linspace(-2, 2, 2 * n)
    lines: list[Float[np.ndarray, "k 2"]] = []
    t = np.linspace(-1, 1, 48)
    for at in ticks:
        sway = (0.25 / n) * np.sin(np.pi * n * t + np.pi * (at > 0)) if wavy else 0 * t
        if diagonal:
            for sign in (-1, 1):
                line = np.stack([t, sign * (t + at) + sway], axis=1)
                lines.append(line[np.abs(line[:, 1]) <= 1])
        else:
            lines += [
                np.stack([t, np.full_like(t, at) + sway], axis=1),
                np.stack([np.full_like(t, at) + sway, t], axis=1),
            ]
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]], dtype=float)
    frame = np.stack([np.interp(np.linspace(0, 4, 161), np.arange(5), corners[:, c]) for c in range(2)], axis=1)
    marks: list[Mark] = [mark for line in lines if len(line) > 1 for mark in _rod(rng, line, wire, surface[0])]
    marks += _rod(rng, frame, 2.5 * wire, surface[1])
    return _tilted(rng, marks)


def _rod(
    rng: Generator, line: Float[np.ndarray, "k 2"], width: float, colour: Float[np.ndarray, " 3"]
) -> Iterator[Strokes]:
    """A round rod: dark rim, body, a highlight along it."""
    mottle = 1 + 0.12 * np.interp(np.linspace(0, 9, len(line)), np.arange(10), rng.standard_normal(10))
    for share, gain, shift in ((1.0, 0.55, 0.0), (0.75, 1.0, -0.06), (0.28, 1.45, -0.14)):
        shades = np.clip(colour * (gain * mottle)[:, None], 0, 1)
        yield Strokes((line + shift * width)[None], np.full((1, len(line)), share * width), shades[None])


def _tilted(rng: Generator, marks: list[Mark]) -> list[Mark]:
    """The marks turned within the image and seen in perspective."""
    turn, lean = rng.normal(0, 0.3), rng.uniform(-0.2, 0.2, size=2)
    tilted: list[Mark] = []
    for mark in marks:
        if isinstance(mark, Strokes):
            distance = 1 + mark.points @ lean
            points = _turned(mark.points / distance[..., None], turn)
            tilted.append(Strokes(points, mark.widths / distance, mark.colours))
    return tilted


def veil(rng: Generator, size_px: int) -> Rgba:
    """Something light shines through: smoke, gauze or tinted glass of uneven density, fading out before the border."""
    x, y = grid_of((size_px, size_px))
    warp = fractal_noise(rng, (size_px, size_px), slope=1.8)
    radius = np.hypot((x - 0.5) / rng.uniform(0.7, 1.1), (y - 0.5) / rng.uniform(0.7, 1.1)) * 2 + 0.1 * warp
    falloff = np.clip((0.95 - radius) / rng.choice([0.02, 0.2, 0.5]), 0, 1)
    border = np.clip((0.5 - np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) - 0.02) / 0.06, 0, 1)
    density = rng.uniform(0.35, 0.8) + rng.uniform(0.1, 0.35) * fractal_noise(
        rng, (size_px, size_px), slope=rng.uniform(1.1, 1.7)
    )
    smooth = falloff * falloff * (3 - 2 * falloff) * border * border * (3 - 2 * border)
    alpha = np.clip(density, 0.05, 1) * smooth
    colours = colour_ramp(
        unit_range(fractal_noise(rng, (size_px, size_px), slope=1.5)), palette(rng, 4, lightness=(0.5, 0.98))
    )
    return np.dstack([colours, alpha]).astype(np.float32)


def drawn(kind: Callable[[Generator], list[Mark]], rng: Generator, size_px: int) -> Rgba:
    """The marks of a kind, drawn at a size and place of their own and given a common unevenness of light."""
    image = draw(kind(rng), size_px, fill=rng.uniform(0.8, 1.0), centre=tuple(rng.uniform(0.2, 0.8, size=2)))
    light = fractal_noise(rng, (64, 64), slope=1.8)
    light = cv2.resize(light, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    image[..., :3] = np.clip(image[..., :3] * (1 + 0.07 * light[..., None]), 0, 1)
    return image
