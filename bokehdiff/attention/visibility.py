"""Where light goes between tokens: distance, the soft disc of a source, and what blocks its way to the lens.

Two conventions. `thin_lens` is physical: rays through a lens of finite opening, linear in disparity, aware of focus.
`released` restates the published code, whose weights were trained with its index slip and its spacing of tokens. The
derivations stand in docs/attention.md; positions are in pixels, x to the right and y down, tokens in row-major order.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Convention = Literal["thin_lens", "released"]

UNIT_PX = 10.0  # distances and circles of confusion between tokens are told in units of 10 px


def token_centres(
    grid_hw: tuple[int, int], pitch_px: tuple[float, float], *, device: torch.device | str = "cpu"
) -> Float[Tensor, "n 2"]:
    """Centres (x, y) of the tokens [px], row by row.

    Args:
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
        device: Where the positions are put.
    """
    rows = (torch.arange(grid_hw[0], device=device) + 0.5) * pitch_px[0]
    columns = (torch.arange(grid_hw[1], device=device) + 0.5) * pitch_px[1]
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def token_positions(
    grid_hw: tuple[int, int],
    pitch_px: tuple[float, float],
    *,
    convention: Convention = "thin_lens",
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n 2"]:
    """Positions (x, y) between which attention measures distances, in units of 10 px.

    The centres of the tokens; `released` stretches the spacing of each axis by n / (n - 1), as the published code lays
    its n tokens from edge to edge of the image instead of centre to centre: 51.2 / 31 units for 32 tokens in 512 px.

    Args:
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
        convention: How tokens are spaced.
        device: Where the positions are put.
    """
    if convention == "released":
        pitch_px = (_edge_to_edge(grid_hw[0], pitch_px[0]), _edge_to_edge(grid_hw[1], pitch_px[1]))
    return token_centres(grid_hw, pitch_px, device=device) / UNIT_PX


def _edge_to_edge(n_tokens: int, pitch_px: float) -> float:
    return pitch_px * n_tokens / max(n_tokens - 1, 1)


def token_distance(
    grid_hw: tuple[int, int],
    pitch_px: tuple[float, float],
    *,
    convention: Convention = "thin_lens",
    sources: slice = slice(None),
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n s"]:
    """Distance of every receiving token from every source token, in units of 10 px.

    Concretely, distance[q, k] = |x_q - x_k| with x of `token_positions`.

    Args:
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
        convention: How tokens are spaced.
        sources: Which sources k; all by default.
        device: Where the distances are put.
    """
    position = token_positions(grid_hw, pitch_px, convention=convention, device=device)
    return distance_between(position[:, None], position[None, sources])


def distance_between(receiver: Float[Tensor, "*#of 2"], source: Float[Tensor, "*#of 2"]) -> Float[Tensor, "*of"]:
    """Distance of positions, in their unit; bit by bit the same in every back end.

    Args:
        receiver: Positions (x, y).
        source: Positions that are broadcast against them.
    """
    across, down = receiver[..., 0] - source[..., 0], receiver[..., 1] - source[..., 1]
    return (across.square_() + down.square_()).sqrt_()


def log_soft_disc(
    coc: Float[Tensor, "*of_sources"], distance: Float[Tensor, "*of_pairs"], hardness: float
) -> Float[Tensor, "*of_both"]:
    """Logarithm of the soft disc of each source: how much of k's light reaches q if nothing is in the way.

    Concretely, log C[b, q, k] = logsigmoid(hardness * (coc[b, k] - distance[q, k])): the mask C of BokehDiff's
    physics-inspired self-attention.

    Args:
        coc: Radius of the circle of confusion of each source, 0 or more, in units of 10 px.
        distance: Of receivers from sources, as of `token_distance`; the two are broadcast against each other.
        hardness: Steepness h of the disc's edge, above 0 [1 / 10 px].
    """
    return F.logsigmoid(hardness * (coc - distance))


def to_tokens(pixels: Float[Tensor, "b h w"], grid_hw: tuple[int, int]) -> Float[Tensor, "b n"]:
    """The map's value at the centre of each token, interpolated between the nearest pixels.

    A value of the scene, not a mean over the token: a mean across an edge is a disparity that nothing has.

    Args:
        pixels: Any map at image size.
        grid_hw: Tokens down and across.
    """
    return resized(pixels, grid_hw).flatten(1)


def resized(pixels: Float[Tensor, "b h w"], size_hw: tuple[int, int]) -> Float[Tensor, "b rh rw"]:
    """The map at another size, interpolated between the nearest pixels.

    Args:
        pixels: Any map.
        size_hw: Height and width of the result.
    """
    return F.interpolate(pixels[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]


@runtime_checkable
class Occlusion(Protocol):
    """What blocks light between tokens, told pair by pair."""

    def between(
        self, image: Int[Tensor, " e"], source: Int[Tensor, " e"], receiver: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        """Share of the light from a source to a receiver that nothing blocks, in [0, 1].

        Args:
            image: Of each pair of tokens.
            source: Its source.
            receiver: Its receiver.
        """
        ...

    def to(self, device: torch.device | str) -> Occlusion:
        """The same on another device."""
        ...
