"""First guess of depth from defocus: how large a disc, the same everywhere, makes each patch look as it was seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.images import linear_to_srgb
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import render_photo

STEP_PX = 0.5  # between radii; discs closer than that differ by less than noise does, and a parabola goes between
PATCH_PX = 1.5  # standard deviation of the patch that is compared
NOISE_SRGB = 0.004  # one step of 8 bits: differences below tell nothing
ROBUST_SRGB = 0.1  # larger differences come from occlusion and clipped lights, and count no more than this
EDGE_SRGB = 0.05  # colour that changes so much from pixel to pixel lets depth change too
LEAST_LINK = 0.02  # of neighbours across the strongest edge, so that nothing is left without a value
FILL = 0.02  # weight of links over that of what patches say, whose weight is below 1
N_PROBES = 4000  # pixels that vote for the lens


@dataclass(frozen=True)
class Sweep:
    """How well discs of every radius explain every pixel of every defocused image.

    Args:
        costs: Squared difference of patches, robust, display values; n images, m radii.
        radii_px: 0, STEP_PX, 2 STEP_PX, ... [px]
    """

    costs: Float[Tensor, "n m h w"]
    radii_px: Float[Tensor, " m"]

    def at(self, image: int, coc_px: Float[Tensor, " k"], where: Tensor | None = None) -> Float[Tensor, "k ..."]:
        """Costs of one image for signed circles of confusion, between two radii by linear shares.

        Args:
            image: Which.
            coc_px: Signed [px]; beyond the largest radius as for that one.
            where: Flat indices of pixels; None for all, as h w.
        """
        costs = self.costs[image] if where is None else self.costs[image].flatten(1)[:, where]
        position = (coc_px.abs() / STEP_PX).clamp(max=len(self.radii_px) - 1)
        low = position.floor().long().clamp(max=max(len(self.radii_px) - 2, 0))
        share = (position - low).view(-1, *[1] * (costs.ndim - 1))
        return costs[low] * (1.0 - share) + costs[(low + 1).clamp(max=len(self.radii_px) - 1)] * share


@dataclass(frozen=True)
class Guess:
    """What patches say of the circle of confusion in the first defocused image.

    Args:
        coc_px: Signed, filled where patches tell nothing [px].
        confidence: How much they tell, in [0, 1): 0 without texture.
        uniform_px: The one circle of confusion that explains the whole of the images best [px].
    """

    coc_px: Float[Tensor, "1 h w"]
    confidence: Float[Tensor, "1 h w"]
    uniform_px: float


def sweep_radii(
    sharp_linear: Float[Tensor, "1 3 h w"],
    blurred_srgb: Float[Tensor, "n 3 h w"],
    *,
    largest_px: float,
    aperture: Aperture,
) -> Sweep:
    """Blur the sharp image by discs of every radius and compare patches with the defocused images.

    Concretely, cost[n, m, y, x] = sum over (i, j) of g(i, j) rho(blur_m - blurred_n)[y + i, x + j], with a gaussian g
    of `PATCH_PX`, and rho(e) the mean over the colours of e^2 / (1 + e^2 / ROBUST_SRGB^2), in display values.

    Args:
        sharp_linear: All in focus.
        blurred_srgb: Defocused images, display values in [0, 1].
        largest_px: Largest radius [px].
        aperture: Shape of the opening.
    """
    radii_px = torch.arange(math.ceil(largest_px / STEP_PX) + 1, dtype=torch.float32) * STEP_PX
    uniform = torch.zeros_like(sharp_linear[:, 0])
    costs = []
    for radius in radii_px.tolist():
        # A disc is the same before and behind the focus; of a lopsided opening one side is taken for both.
        picture = render_photo(sharp_linear, uniform + radius, Lens(0.0, 1.0, aperture), method="scatter")
        squared = (linear_to_srgb(picture).clamp(0.0, 1.0) - blurred_srgb).square()
        costs.append(_patches((squared / (1.0 + squared / ROBUST_SRGB**2)).mean(dim=1)))
    return Sweep(torch.stack(costs, dim=1), radii_px)


def _patches(image: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Gaussian averages; beyond the border the edge pixels go on."""
    reach = math.ceil(2.5 * PATCH_PX)
    offset = torch.arange(-reach, reach + 1, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offset / PATCH_PX).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def explained(
    sweep: Sweep,
    levels_px: Float[Tensor, " k"],
    scales: Sequence[float],
    shifts: Float[Tensor, " n"],
    images: Sequence[int],
    where: Tensor | None = None,
) -> Float[Tensor, "k ..."]:
    """Costs, summed over images, if the circle of confusion in image i is scales[i] * level + shifts[i].

    Args:
        sweep: Of the images.
        levels_px: Signed circles of confusion in the first image.
        scales: Of each image's over the first's.
        shifts: Added to it [px].
        images: Which.
        where: Flat indices of pixels; None for all, as h w.
    """
    parts = [sweep.at(i, scales[i] * levels_px + shifts[i], where) for i in images]
    return torch.stack(parts).sum(dim=0)


def probes(sweep: Sweep) -> Tensor:
    """Flat indices of the pixels whose costs depend most on the radius, at most N_PROBES."""
    spread = (sweep.costs.amax(dim=1) - sweep.costs.amin(dim=1)).sum(dim=0).flatten()
    return spread.topk(min(N_PROBES, len(spread))).indices


def guess(
    sweep: Sweep,
    sharp_srgb: Float[Tensor, "1 3 h w"],
    levels_px: Float[Tensor, " k"],
    scales: Sequence[float],
    shifts: Float[Tensor, " n"],
) -> Guess:
    """The best level of each patch, between levels by a parabola, and filled in where patches tell nothing.

    Concretely, with c the costs of the levels, u their minimum and c'' their curvature there, the confidence is
    v / (1 + v), v = c'' / (min c + NOISE_SRGB^2) per px^2, and what is returned minimises
    sum_p confidence(p) (x(p) - u(p))^2 + FILL * sum over neighbours p, q of link(p, q) (x(p) - x(q))^2.

    Args:
        sweep: Of the images.
        sharp_srgb: All in focus; its edges part the filling.
        levels_px: Signed circles of confusion of the first image, ascending by STEP_PX.
        scales: Of each image's over the first's.
        shifts: Added to it [px].
    """
    costs = explained(sweep, levels_px, scales, shifts, range(len(shifts)))
    uniform_px = float(levels_px[int(costs.mean(dim=(1, 2)).argmin())])
    least, index = costs.min(dim=0)
    if len(levels_px) < 3:
        return Guess(levels_px[index][None], torch.zeros_like(least)[None], uniform_px)
    middle = index.clamp(1, len(levels_px) - 2)
    before, here, after = (costs.gather(0, (middle + k)[None])[0] for k in (-1, 0, 1))
    curvature = (before - 2.0 * here + after).clamp_min(1e-12)
    offset = (0.5 * (before - after) / curvature).clamp(-1.0, 1.0)
    offset = torch.where(index == middle, offset.clamp(-0.5, 0.5), offset)
    coc_px = levels_px[middle] + offset * STEP_PX
    value = curvature / STEP_PX**2 / (least + NOISE_SRGB**2)
    confidence = value / (1.0 + value)
    return Guess(_filled(coc_px, confidence, sharp_srgb[0])[None], confidence[None], uniform_px)


def links(sharp_srgb: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b h _"], Float[Tensor, "b _ w"]]:
    """How surely neighbours, to the right and below, lie on one surface: exp(-change of colour / EDGE_SRGB).

    Args:
        sharp_srgb: All in focus.
    """
    changes = (sharp_srgb.diff(dim=3).abs().amax(dim=1), sharp_srgb.diff(dim=2).abs().amax(dim=1))
    right, below = (torch.exp(-change / EDGE_SRGB).clamp_min(LEAST_LINK) for change in changes)
    return right, below


def _filled(
    coc_px: Float[Tensor, "h w"], confidence: Float[Tensor, "h w"], sharp_srgb: Float[Tensor, "3 h w"]
) -> Float[Tensor, "h w"]:
    """The weighted least squares of `guess`, by a sparse solver."""
    from scipy import sparse
    from scipy.sparse.linalg import cg

    height, width = coc_px.shape
    number = np.arange(height * width).reshape(height, width)
    right, below = (part[0].double().numpy().ravel() for part in links(sharp_srgb[None]))
    first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    strength = FILL * np.concatenate([right, below])
    adjacent = sparse.coo_matrix((strength, (first, second)), shape=(number.size,) * 2).tocsr()
    adjacent = adjacent + adjacent.T
    weight = confidence.double().numpy().ravel() + 1e-6  # so that a picture without texture has a solution
    diagonal = weight + np.asarray(adjacent.sum(axis=1)).ravel()
    system = sparse.diags(diagonal) - adjacent
    value = coc_px.double().numpy().ravel()
    filled, _ = cg(system, weight * value, x0=value, rtol=1e-6, maxiter=500, M=sparse.diags(1.0 / diagonal))
    return torch.from_numpy(filled.reshape(height, width)).to(coc_px)
