"""The opening that light passes, and the points of it that renderers trace rays through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.errors import InputError

LEAST_BLADES = 3
MOST_BLADES = 64  # from there on a polygon is a disc to a quarter of a percent
OUTLINE_STEPS = 512  # of the table that spreads points evenly over one blade's sector
CORNER_UP = -math.pi / 2  # y points down
MOST_CANDIDATES = 2**20  # points tried to find those that a transmission map lets through
LEAST_SHARE = 1e-6  # a ray that the rim cuts keeps this much of its weight, so that no pixel is left without any


@dataclass(frozen=True, kw_only=True)
class Aperture:
    """Shape and transmission of the opening that light passes; by default a disc of radius 1 of even transmission.

    Lens points have x to the right and y down, as in the picture: a dot behind the focus shows the opening as it is,
    one before the focus shows it upside down. Every renderer takes its lens points and weights from here, so that a
    new shape is added once.

    Args:
        blades: Straight or rounded blades, at least 3, whose corners lie on the unit circle; 0 for a disc.
        rounding: Curvature of the blades: 0 straight, 1 the disc itself [1].
        rotation_deg: Turn of the blades, or of the transmission map, clockwise in the picture; at 0 a corner is up.
        transmission: Share of light that passes, in [0, 1], on a map of the square [-1, 1] x [-1, 1]; what lies outside
            the unit disc does not count. None for an opening of even transmission.
        edge: Brightness of the blur's rim, in [-1, 1]: at 1 (over-corrected spherical aberration) it rises from nothing
            in the middle to twice the mean at the rim, at -1 (under-corrected) it falls from twice the mean to nothing.
        cat_eye: How far the rim of the lens has moved across the opening in the corner of the image, in radii of the
            opening, in [0, 1]; it moves in proportion to the distance from the image's centre, whatever the resolution.
        falloff: Whether light that the rim cuts off is missing from the picture. Otherwise cat's eyes keep their light.
    """

    blades: int = 0
    rounding: float = 0.0
    rotation_deg: float = 0.0
    transmission: Float[Tensor, "th tw"] | None = None
    edge: float = 0.0
    cat_eye: float = 0.0
    falloff: bool = False

    def __post_init__(self) -> None:
        if self.blades and not LEAST_BLADES <= self.blades <= MOST_BLADES:
            raise InputError(f"blades must be 0 (a disc) or {LEAST_BLADES} ... {MOST_BLADES}; got {self.blades}")
        for name, least in (("rounding", 0.0), ("edge", -1.0), ("cat_eye", 0.0)):
            if not least <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} must be in [{least:g}, 1]; got {getattr(self, name):g}")
        if not math.isfinite(self.rotation_deg):
            raise InputError(f"rotation_deg must be finite; got {self.rotation_deg:g}")
        if self.transmission is not None:
            _check_map(self.transmission, self.blades)

    def sample(self, n_samples: int, *, device: torch.device | str = "cpu") -> Float[Tensor, "n 2"]:
        """Points (x, y) of the opening, evenly spread over it.

        Concretely, point[i] = sqrt((i + 1/2) / n) * (cos(i * g), sin(i * g)) with the golden angle g; the mean is taken
        out so that an average over the points does not shift the image. Blades stretch this disc over their shape
        without changing areas; of a transmission map, points are taken where light passes. Source: H. Vogel, "A better
        way to construct the sunflower head", 1979.

        Args:
            n_samples: Number of points, at least 1. One point is the centre.
            device: Where the points are put.
        """
        return self._points(n_samples).to(device=device, dtype=torch.float32)

    def weights(self, n_samples: int, *, device: torch.device | str = "cpu") -> Float[Tensor, " n"]:
        """How much of all light passes each point of `sample`, in the middle of the image; they sum to 1.

        Args:
            n_samples: Number of points, as in `sample`.
            device: Where the weights are put.
        """
        points = self._points(n_samples)
        light = self._brightness(points.square().sum(dim=1)) * self._mapped(points)
        # One point may be where the rim's or the map's weight is 0: then all are alike.
        light = light if float(light.sum()) > 0 else torch.ones_like(light)
        return (light / light.sum()).to(device=device, dtype=torch.float32)

    def spacing(self, n_samples: int) -> float:
        """Distance between neighbouring points of `sample`, in radii: the side of the square that each stands for.

        Args:
            n_samples: Number of points, as in `sample`.
        """
        return math.sqrt(math.pi * self._filled_share(n_samples) / n_samples)

    def transmittance(self, points: Float[Tensor, "*n 2"], *, softness: float = 0.0) -> Float[Tensor, "*n"]:
        """Share of light that passes any point of the plane, in the middle of the image: 0 outside the opening.

        Concretely, at distance r from the centre, inside(r) * (1 + edge * (2 r^2 - 1)), times the transmission map;
        inside falls from 1 to 0 across the outline.

        Args:
            points: Places (x, y), in radii of the opening.
            softness: Width over which the outline falls [radii]; the size of a pixel makes it smooth.
        """
        radius, angle = points.norm(dim=-1), torch.atan2(points[..., 1], points[..., 0])
        outside = radius - self._outline(angle - CORNER_UP - math.radians(self.rotation_deg))
        inside = (0.5 - outside / softness).clamp(0.0, 1.0) if softness > 0 else (outside <= 0).to(points)
        return inside * self._brightness(radius.square()) * self._mapped(points)

    def unvignetted(
        self, points: Float[Tensor, "n 2"], field: Float[Tensor, "2 h w"], *, spacing: float
    ) -> Float[Tensor, "n h w"]:
        """Share of each point's light that the rim of the lens lets pass to each place of the image: cat's eyes.

        Concretely, clip(1/2 + (1 - |u + cat_eye * q|) / s, 0, 1) for the lens point u and the place q: a second circle
        that moves inwards as seen from the corners, because the front of the barrel cuts what comes from the side. Its
        edge is as soft as the points are apart, s, but no softer than it has moved.

        Args:
            points: Points u of the opening.
            field: Places q (x, y) from the image's centre, 1 in its corners.
            spacing: Distance s between the points, in radii.
        """
        shift = self.cat_eye * field
        softness = shift.norm(dim=0).clamp(LEAST_SHARE, spacing)
        distance = (points[:, :, None, None] + shift).norm(dim=1)
        return (0.5 + (1.0 - distance) / softness).clamp(LEAST_SHARE, 1.0)

    def _points(self, n_samples: int) -> Float[Tensor, "n 2"]:
        if n_samples < 1:
            raise InputError(f"n_samples must be at least 1; got {n_samples}")
        if self.transmission is not None:
            return self._points_of_map(n_samples)
        points = _vogel_spiral(n_samples)
        if self.blades:
            points = self._over_blades(points)
        return points - points.mean(dim=0)

    def _over_blades(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """The disc stretched over the blades; angles are crowded so that equal areas stay equal."""
        sector = 2 * math.pi / self.blades
        angles = torch.linspace(0.0, sector, OUTLINE_STEPS, dtype=torch.float64)
        areas = torch.cumulative_trapezoid(self._outline(angles).square(), angles)
        share = torch.cat([torch.zeros(1, dtype=torch.float64), areas / areas[-1]])
        radius, angle = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
        within = angle.remainder(sector)
        crowded = angle - within + _interpolate(within / sector, share, angles)
        turned = crowded + CORNER_UP + math.radians(self.rotation_deg)
        reach = radius * self._outline(crowded)
        return torch.stack([reach * turned.cos(), reach * turned.sin()], dim=1)

    def _outline(self, angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Distance of the outline from the centre, at an angle from a corner.

        A blade is an arc of curvature k through two corners at angles -a and a from its middle: with
        s = sqrt(1 - k^2 sin(a)^2), R solves k R^2 + 2 (s - k cos a) cos(t) R = 2 s cos(a) - k cos(2 a).
        """
        if not self.blades:
            return torch.ones_like(angle)
        half = math.pi / self.blades
        cos_t = (angle.remainder(2 * half) - half).cos()
        straight = math.sqrt(1.0 - (self.rounding * math.sin(half)) ** 2)
        linear = (straight - self.rounding * math.cos(half)) * cos_t
        constant = 2 * straight * math.cos(half) - self.rounding * math.cos(2 * half)
        return constant / (linear + (linear.square() + self.rounding * constant).sqrt())

    def _filled_share(self, n_samples: int) -> float:
        """Share of the unit disc that the points stand for."""
        if self.transmission is not None:
            return n_samples / self._n_candidates(n_samples)
        angles = torch.linspace(0.0, 2 * math.pi / max(self.blades, 1), OUTLINE_STEPS, dtype=torch.float64)
        return float(self._outline(angles).square().mean())

    def _brightness(self, square_radius: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return (1.0 + self.edge * (2.0 * square_radius - 1.0)).clamp_min(0.0)

    def _mapped(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
        """Value of the transmission map, interpolated; 1 where there is none."""
        if self.transmission is None:
            return torch.ones_like(points[..., 0])
        turn = math.radians(self.rotation_deg)
        x, y = points[..., 0], points[..., 1]
        places = torch.stack([math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x], -1)
        light = self.transmission.to(points)[None, None]
        grid = places.reshape(1, 1, -1, 2)
        return F.grid_sample(light, grid, padding_mode="border", align_corners=False).reshape(x.shape)

    def _points_of_map(self, n_samples: int) -> Float[Tensor, "n 2"]:
        """The first spiral of which at least n points pass light, less those of the least light."""
        points = _vogel_spiral(self._n_candidates(n_samples))
        light = self._mapped(points)
        kept = light.argsort(descending=True, stable=True)[:n_samples].sort().values
        return points[kept]

    def _n_candidates(self, n_samples: int) -> int:
        def n_passing(n_candidates: int) -> int:
            return int((self._mapped(_vogel_spiral(n_candidates)) > 0).sum())

        too_few, enough = n_samples - 1, n_samples
        while n_passing(enough) < n_samples:
            too_few, enough = enough, 2 * enough
            if enough > MOST_CANDIDATES:
                raise InputError(f"the transmission map lets less than {n_samples} in {MOST_CANDIDATES} points through")
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if n_passing(middle) >= n_samples else (middle, enough)
        return enough


def image_field(centres: Float[Tensor, "2 h w"], size_hw: tuple[int, int]) -> Float[Tensor, "2 h w"]:
    """Places of an image as seen from its middle, 1 in its corners: what vignetting depends on at any resolution.

    Args:
        centres: Pixel centres (x, y), of the image or a part of it [px].
        size_hw: Height and width of the whole image [px].
    """
    height, width = size_hw
    middle = torch.tensor([width / 2, height / 2]).to(centres)[:, None, None]
    return (centres - middle) / middle.norm()


def _check_map(transmission: Tensor, blades: int) -> None:
    if blades:
        raise InputError(f"an aperture has blades or a transmission map, not both; got {blades} blades and a map")
    if transmission.numel() == 0:
        raise InputError(f"the transmission map must have pixels; got shape {list(transmission.shape)}")
    least, most = (float(value) for value in transmission.detach().aminmax())
    if not (least >= 0.0 and 0.0 < most <= 1.0):
        raise InputError(f"the transmission map must be in [0, 1] and not all 0; got {least:g} ... {most:g}")


def _vogel_spiral(n_points: int) -> Float[Tensor, "n 2"]:
    index = torch.arange(n_points, dtype=torch.float64)
    angle = index * (torch.pi * (3.0 - 5.0**0.5))
    radius = torch.sqrt((index + 0.5) / n_points)
    points = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return points - points.mean(dim=0)


def _interpolate(x: Float[Tensor, " n"], xs: Float[Tensor, " k"], ys: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
    """The broken line through (xs, ys), with xs ascending, at x."""
    above = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    share = (x - xs[above - 1]) / (xs[above] - xs[above - 1])
    return torch.lerp(ys[above - 1], ys[above], share)
