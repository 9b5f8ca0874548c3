"""One circle of confusion per pixel from costs of many: surfaces hold together, and part where colours do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import kornia
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

STEP_PX = 0.5  # between radii; discs closer than that differ by less than noise does, and a parabola goes between
WINDOW_PX = 7  # side of the windows whose costs are averaged: a few hairs wide
SAME_COLOUR = 1e-3  # variance of display values within a window below which all of it counts as one surface
SLOPE_COST = 1e-3  # of a change by one level between neighbours: (0.03 display values)^2
EDGE_COST = 8e-3  # of a change by any more, where colours are equal
EDGE_SRGB = 0.05  # colour that changes so much from pixel to pixel lets depth change too
LEAST_EDGE_SHARE = 0.1  # of EDGE_COST, across the strongest edge of colour
LEAST_LINK = 0.02  # of neighbours across the strongest edge, so that nothing is left without a value
FILL = 0.02  # weight of links over that of what costs say, whose weight is below 1
LEAST_WEIGHT = 1e-3  # of what costs say, so that a picture without texture has a solution
REFINE_LEVELS = 2  # how far from its label a pixel's own least cost is looked for
NOISE_SQUARED = 0.004**2  # of display values: one step of 8 bits


@dataclass(frozen=True)
class Guess:
    """A circle of confusion per pixel.

    Args:
        coc_px: Signed, in the first defocused image [px].
        confidence: How much texture tells about it, in [0, 1).
    """

    coc_px: Float[Tensor, "1 h w"]
    confidence: Float[Tensor, "1 h w"]


def guided(costs: Float[Tensor, "k h w"], sharp_srgb: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "k h w"]:
    """Averages within surfaces: the guided filter (He et al., ECCV 2010), as Hosni et al. (PAMI 2013) use it for costs.

    Args:
        costs: Of k levels.
        sharp_srgb: All in focus; pixels of a window count as far as their colours are alike.
    """
    if min(costs.shape[1:]) <= WINDOW_PX // 2:  # the filter mirrors at the border
        return costs
    averaged: Tensor = kornia.filters.guided_blur(sharp_srgb, costs[None], WINDOW_PX, SAME_COLOUR)
    return averaged[0].clamp_min(0.0)


def labelled(
    costs: Float[Tensor, "k h w"], sharp_srgb: Float[Tensor, "1 3 h w"], levels_px: Float[Tensor, " k"]
) -> Guess:
    """The level of each pixel that suits it and its neighbours, between levels by a parabola.

    Concretely, semi-global matching (Hirschmueller, PAMI 2008): with L_r(p, k) = C(p, k) + min(L_r(q, k),
    L_r(q, k +- 1) + SLOPE_COST, min_j L_r(q, j) + E(p, q)) - min_j L_r(q, j) along each of eight directions r, q the
    pixel before p, and E = EDGE_COST * max(exp(-change of colour / EDGE_SRGB), LEAST_EDGE_SHARE), the label is the k of
    the least sum over r. With u the least cost's place within REFINE_LEVELS of it and c'' the curvature there, the
    confidence is v / (1 + v), v = c'' / (c + NOISE_SQUARED) per px^2.

    Args:
        costs: Of each level.
        sharp_srgb: All in focus.
        levels_px: Signed circles of confusion, ascending by STEP_PX.
    """
    if len(levels_px) < 3:
        index = costs.argmin(dim=0)
        return Guess(levels_px[index][None], torch.zeros_like(costs[:1]))
    label = torch.from_numpy(_path_costs(costs, sharp_srgb).argmin(axis=2))
    return _refined(costs, label, levels_px)


def _refined(costs: Float[Tensor, "k h w"], label: Tensor, levels_px: Float[Tensor, " k"]) -> Guess:
    last = len(levels_px) - 1
    steps = torch.arange(-REFINE_LEVELS, REFINE_LEVELS + 1).view(-1, 1, 1)
    around = (label + steps).clamp(0, last)
    index = around.gather(0, costs.gather(0, around).argmin(dim=0, keepdim=True))[0]
    middle = index.clamp(1, last - 1)
    before, here, after = (costs.gather(0, (middle + k)[None])[0] for k in (-1, 0, 1))
    curvature = (before - 2.0 * here + after).clamp_min(1e-12)
    offset = (0.5 * (before - after) / curvature).clamp(-1.0, 1.0)
    offset = torch.where(index == middle, offset.clamp(-0.5, 0.5), offset)
    value = curvature / STEP_PX**2 / (costs.gather(0, index[None])[0] + NOISE_SQUARED)
    return Guess((levels_px[middle] + offset * STEP_PX)[None], (value / (1.0 + value))[None])


def _path_costs(costs: Float[Tensor, "k h w"], sharp_srgb: Float[Tensor, "1 3 h w"]) -> np.ndarray:
    """Sum of L_r over eight directions; h w k."""
    own = np.ascontiguousarray(costs.permute(1, 2, 0).numpy())
    colour = sharp_srgb[0].permute(1, 2, 0).numpy()
    total = np.zeros_like(own)
    for turned_own, turned_colour, turned_total, slant in _turned(own, colour, total):
        _add_path(turned_own, turned_colour, turned_total, slant)
    return total


def _turned(
    own: np.ndarray, colour: np.ndarray, total: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Views in which a path runs down the rows, and how many columns it moves per row."""
    for flip in (slice(None), slice(None, None, -1)):
        for slant in (-1, 0, 1):
            yield own[flip], colour[flip], total[flip], slant
        own_across, colour_across, total_across = (array.swapaxes(0, 1)[flip] for array in (own, colour, total))
        yield own_across, colour_across, total_across, 0


def _add_path(own: np.ndarray, colour: np.ndarray, total: np.ndarray, slant: int) -> None:
    before = own[0]
    total[0] += before
    columns = (np.arange(own.shape[1]) - slant).clip(0, own.shape[1] - 1)
    for row in range(1, len(own)):
        change = np.abs(colour[row] - colour[row - 1][columns]).max(axis=1)
        edge = EDGE_COST * np.maximum(np.exp(-change / EDGE_SRGB), LEAST_EDGE_SHARE)
        came = before[columns] if slant else before
        least = came.min(axis=1, keepdims=True)
        cheapest = np.minimum(came, least + edge[:, None])
        np.minimum(cheapest[:, 1:], came[:, :-1] + SLOPE_COST, out=cheapest[:, 1:])
        np.minimum(cheapest[:, :-1], came[:, 1:] + SLOPE_COST, out=cheapest[:, :-1])
        before = own[row] + cheapest - least
        total[row] += before


def links(sharp_srgb: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b h _"], Float[Tensor, "b _ w"]]:
    """How surely neighbours, to the right and below, lie on one surface: exp(-change of colour / EDGE_SRGB).

    Args:
        sharp_srgb: All in focus.
    """
    changes = (sharp_srgb.diff(dim=3).abs().amax(dim=1), sharp_srgb.diff(dim=2).abs().amax(dim=1))
    right, below = (torch.exp(-change / EDGE_SRGB).clamp_min(LEAST_LINK) for change in changes)
    return right, below


def filled(guess: Guess, sharp_srgb: Float[Tensor, "1 3 h w"]) -> Guess:
    """The guess, filled in where texture tells nothing, across no edge of the sharp image.

    Concretely, what is returned minimises, with the guess u and confidence w + LEAST_WEIGHT,
    sum_p w(p) (x(p) - u(p))^2 + FILL * sum over neighbours p, q of link(p, q) (x(p) - x(q))^2.

    Args:
        guess: From `labelled`.
        sharp_srgb: All in focus.
    """
    from scipy import sparse
    from scipy.sparse.linalg import cg

    coc_px, confidence = guess.coc_px[0], guess.confidence[0]
    height, width = coc_px.shape
    number = np.arange(height * width).reshape(height, width)
    right, below = (part[0].double().numpy().ravel() for part in links(sharp_srgb))
    first = np.concatenate([number[:, :-1].ravel(), number[:-1].ravel()])
    second = np.concatenate([number[:, 1:].ravel(), number[1:].ravel()])
    strength = FILL * np.concatenate([right, below])
    adjacent = sparse.coo_matrix((strength, (first, second)), shape=(number.size,) * 2).tocsr()
    adjacent = adjacent + adjacent.T
    weight = confidence.double().numpy().ravel() + LEAST_WEIGHT
    diagonal = weight + np.asarray(adjacent.sum(axis=1)).ravel()
    system = sparse.diags(diagonal) - adjacent
    value = coc_px.double().numpy().ravel()
    found, _ = cg(system, weight * value, x0=value, rtol=1e-6, maxiter=500, M=sparse.diags(1.0 / diagonal))
    return Guess(torch.from_numpy(found.reshape(height, width)).to(coc_px)[None], guess.confidence)
