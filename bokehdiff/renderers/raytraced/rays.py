"""The rays of a lens: through which points they pass, where they meet each layer, and how much light they carry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, circle_of_confusion
from bokehdiff.renderers.lens_values import LensValues
from bokehdiff.renderers.raytraced.prefilter import inset

# Backends sum up this many rays by themselves before they add them to the rest: a plain sum of hundreds of float32 is
# off by several parts in a million, and a picture in focus must be exact to one.
RAYS_PER_SUM = 16


@dataclass(frozen=True)
class Rays:
    """One ray per pixel for each of n points of the lens.

    Args:
        walks_px: How far a ray walks from its pixel p to where it meets a layer, as an affine map of p:
            walk = W[:, 0] * p.x + W[:, 1] * p.y + W[:, 2] [px].
        points: Points (x, y) of the opening [radii].
        weights: Light that passes each point in the middle of the image; they sum to 1.
        aperture: The opening, for what its rim cuts off towards the corners.
        spacing: Distance between neighbouring points [radii].
    """

    walks_px: Float[Tensor, "n b l 2 3"]
    points: Float[Tensor, "n 2"]
    weights: Float[Tensor, " n"]
    aperture: Aperture
    spacing: float

    def light(self, i: int, field: Float[Tensor, "2 h w"]) -> Float[Tensor, "h w"]:
        """Light that the ray through point i carries to each place of the image.

        Args:
            i: Number of the point.
            field: Places, as of `image_field`.
        """
        if not self.aperture.cat_eye:
            return self.weights[i].expand(field.shape[1:])
        passed = self.aperture.unvignetted(self.points[i : i + 1], field, spacing=self.spacing)[0]
        return self.weights[i] * passed


@dataclass(frozen=True)
class Gathered:
    """What the rays brought to each pixel.

    Args:
        rgba: Sum over the rays of light times what the ray met.
        light: Sum over the rays of light: what of 1 passed the rim.
    """

    rgba: Float[Tensor, "b 4 h w"]
    light: Float[Tensor, "h w"]


def trace_through(
    planes: Float[Tensor, "b l 3"], lens: LensValues, aperture: Aperture, *, n_samples: int, size_hw: tuple[int, int]
) -> Rays:
    """The rays of a lens through n points of its opening, drawn together by what `prefiltered` spreads layers.

    Args:
        planes: Layers; refused where one is as steep as a ray, K * |(cx, cy)| >= 1.
        lens: Of each image.
        aperture: The opening.
        n_samples: Number of points.
        size_hw: Height and width of the image [px].
    """
    points, weights = aperture.sample(n_samples).to(planes), aperture.weights(n_samples).to(planes)
    spacing = aperture.spacing(n_samples)
    return Rays(
        walks_px=walks(planes, lens, inset(points, weights, spacing=spacing), size_hw=size_hw),
        points=points,
        weights=weights,
        aperture=aperture,
        spacing=spacing,
    )


def walks(
    planes: Float[Tensor, "b l 3"], lens: LensValues, points: Float[Tensor, "n 2"], *, size_hw: tuple[int, int]
) -> Float[Tensor, "n b l 2 3"]:
    """How far rays walk from their pixels to where they meet a layer, as affine maps of the pixel.

    Concretely, a ray meets the layer at x = q + coc(x) * u, where q = middle + (p - middle) / m is what an image
    magnified by m shows at pixel p. So x - q = coc(q) / (1 - K * (cx * u.x + cy * u.y)) * u, where coc(q) is the
    layer's signed circle at q, which is affine in q and thus in p.

    Args:
        planes: Layers; refused where one is as steep as a ray, K * |(cx, cy)| >= 1.
        lens: Of each image.
        points: Points u of the opening.
        size_hw: Height and width of the image, whose middle magnification leaves in place [px].
    """
    slope = lens.strength_px[:, None, None] * planes[..., 1:]
    steepest = float(slope.detach().norm(dim=-1).max())
    if steepest >= 1.0:
        raise InputError(
            f"a layer is too steep for this lens: strength_px * |(cx, cy)| must stay below 1; got {steepest:g}"
        )
    coc_at_corner = circle_of_confusion(planes[..., :1], lens.focus_disparity, lens.strength_px)
    scale = 1.0 / lens.magnification
    moved = (scale - 1.0) * torch.tensor([-size_hw[1] / 2, -size_hw[0] / 2]).to(planes)
    coc_at_corner = coc_at_corner + (slope * moved).sum(-1, keepdim=True)
    coc = torch.cat([scale * slope, coc_at_corner], dim=-1)
    along_point = coc / (1.0 - (slope * points[:, None, None]).sum(-1, keepdim=True))
    enlarged = torch.cat([(scale - 1.0) * torch.eye(2).to(planes), moved[:, None]], dim=1)
    return points[:, None, None, :, None] * along_point[..., None, :] + enlarged
