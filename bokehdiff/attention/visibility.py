"""Where light goes between tokens: distance, the soft disc of a source, and what blocks its way to the lens.

Two conventions. `thin_lens` is physical: rays through a lens of finite opening, linear in disparity, aware of focus.
`released` restates the published code, whose weights were trained with its index slip and its spacing of tokens. The
derivations stand in docs/attention.md; positions are in pixels, x to the right and y down, tokens in row-major order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture

Convention = Literal["thin_lens", "released"]

UNIT_PX = 10.0  # distances and circles of confusion between tokens are told in units of 10 px
LENS_POINTS = 256  # shares of the lens are known to 1/256; a disc of 9 tokens' radius still has one point per token
LENS_CELLS = 128  # cells across the lens of the table that finds the nearest lens point
BLOCKED_MARGIN = 2.0 / 255.0  # two grey levels of an 8-bit map: rounding and interpolation block nothing
STEPS_PER_TOKEN = 16  # a ray moves at most a sixteenth of a token between two looks at the scene ...
MIN_STEPS, MAX_STEPS = 16, 256  # ... unless it crosses more than 16 tokens on its way
RAYS_PER_CHUNK = 2**18  # bounds memory to some 20 MB; does not change the result
RELEASED_STEPS = 7  # the published inference; its training takes 5
RELEASED_CELLS_PER_TOKEN = 3
RELEASED_FIRST, RELEASED_LAST = 0.1, 0.9  # where the published ray samples begin and end
RELEASED_SMALLEST = 1e-6  # keeps 1 - disparity above 0; farther off the grid than any lookup, as infinity was


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


def token_distance(
    grid_hw: tuple[int, int],
    pitch_px: tuple[float, float],
    *,
    convention: Convention = "thin_lens",
    sources: slice = slice(None),
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n s"]:
    """Distance of every receiving token from every source token, in units of 10 px.

    Concretely, distance[q, k] = |x_q - x_k| / 10 with tokens a pitch apart. `released` stretches the spacing of each
    axis by n / (n - 1), as the published code lays its n tokens from edge to edge of the image instead of centre to
    centre: 51.2 / 31 units for the 32 tokens of a 512-px edge.

    Args:
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
        convention: How tokens are spaced.
        sources: Which sources k; all by default.
        device: Where the distances are put.
    """
    if convention == "released":
        pitch_px = (_edge_to_edge(grid_hw[0], pitch_px[0]), _edge_to_edge(grid_hw[1], pitch_px[1]))
    centres = token_centres(grid_hw, pitch_px, device=device)
    return (centres[:, None] - centres[None, sources]).norm(dim=-1) / UNIT_PX


def _edge_to_edge(n_tokens: int, pitch_px: float) -> float:
    return pitch_px * n_tokens / max(n_tokens - 1, 1)


def log_soft_disc(coc: Float[Tensor, "b s"], distance: Float[Tensor, "n s"], hardness: float) -> Float[Tensor, "b n s"]:
    """Logarithm of the soft disc of each source: how much of k's light reaches q if nothing is in the way.

    Concretely, log C[b, q, k] = logsigmoid(hardness * (coc[b, k] - distance[q, k])): the mask C of BokehDiff's
    physics-inspired self-attention.

    Args:
        coc: Radius of the circle of confusion of each source, 0 or more, in units of 10 px.
        distance: As of `token_distance`, for the same sources.
        hardness: Steepness h of the disc's edge, above 0 [1 / 10 px].
    """
    return F.logsigmoid(hardness * (coc[:, None, :] - distance))


def to_tokens(pixels: Float[Tensor, "b h w"], grid_hw: tuple[int, int]) -> Float[Tensor, "b n"]:
    """The map's value at the centre of each token, interpolated between the nearest pixels.

    A value of the scene, not a mean over the token: a mean across an edge is a disparity that nothing has.

    Args:
        pixels: Any map at image size.
        grid_hw: Tokens down and across.
    """
    return _resized(pixels, grid_hw).flatten(1)


def _resized(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]


@runtime_checkable
class Occlusion(Protocol):
    """What blocks light between tokens, in a form that gives the visibility of some sources at a time."""

    def visibility(self, sources: slice = slice(None)) -> Float[Tensor, "b n s"]:
        """Share of the light of each of `sources` that gets through to every receiver, in [0, 1]."""
        ...

    def to(self, device: torch.device | str) -> Occlusion:
        """The same on another device."""
        ...


@dataclass(frozen=True, eq=False)
class LensOcclusion:
    """Which points of the lens each source sees: `thin_lens` in 256 bits per token.

    Args:
        sees: Whether source k's ray through lens point m meets nothing nearer, as of `lens_points_seen`.
        coc_px: Signed circle of confusion of each token [px]: where on the image a lens point sends the light.
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
    """

    sees: Bool[Tensor, "b n m"]
    coc_px: Float[Tensor, "b n"]
    grid_hw: tuple[int, int]
    pitch_px: tuple[float, float]

    def visibility(self, sources: slice = slice(None)) -> Float[Tensor, "b n s"]:
        """Share of those lens points that carry source k's light into token q, and are not blocked.

        Concretely, with U[q, k] = {m: x_k + coc_px[k] u_m lies in token q}, visibility[q, k] is the mean of
        sees[k, m] over U[q, k]. Where U is empty (q lies at or beyond the edge of the disc, or between points) the
        lens point nearest to (x_q - x_k) / coc_px[k] decides; a source blurred by less than half a token takes the
        whole lens for every q, so that nothing jumps when it passes through focus.

        Args:
            sources: Which sources k; all by default.
        """
        sees, coc_px = self.sees[:, sources], self.coc_px[:, sources]
        centres = token_centres(self.grid_hw, self.pitch_px, device=sees.device)
        in_focus = coc_px.abs() < min(self.pitch_px) / 2
        radius_px = coc_px.masked_fill(in_focus, 1.0)
        share, n_points = self._landed(sees, radius_px, centres[sources])
        nearest = _seen_by_nearest(sees, (centres[:, None] - centres[None, sources]) / radius_px[:, None, :, None])
        by_footprint = torch.where(n_points > 0, share / n_points.clamp_min(1.0), nearest)
        return torch.where(in_focus[:, None], sees.float().mean(dim=-1)[:, None], by_footprint)

    def _landed(self, sees: Tensor, radius_px: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """How many open lens points, and how many in all, send source s into receiver q: two times [b n s]."""
        points, _ = _lens(sees.device)
        pitch = torch.tensor([self.pitch_px[1], self.pitch_px[0]], device=sees.device)
        cell = ((centres[None, :, None] + radius_px[..., None, None] * points) / pitch).floor().long()
        rows, columns = self.grid_hw
        inside = (cell >= 0).all(dim=-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows)
        image, source, point = inside.nonzero(as_tuple=True)
        column, row = cell[image, source, point].unbind(dim=-1)
        landed = torch.zeros(2, sees.shape[0], rows * columns, sees.shape[1], device=sees.device)
        where = (image, row * columns + column, source)
        landed[0].index_put_(where, sees[image, source, point].float(), accumulate=True)
        landed[1].index_put_(where, torch.ones((), device=sees.device), accumulate=True)
        return landed[0], landed[1]

    def to(self, device: torch.device | str) -> LensOcclusion:
        """The same on another device."""
        return replace(self, sees=self.sees.to(device), coc_px=self.coc_px.to(device))


def _seen_by_nearest(sees: Bool[Tensor, "b s m"], lens_position: Float[Tensor, "b n s 2"]) -> Float[Tensor, "b n s"]:
    """Whether source s sees the lens point nearest to a position, which is first pulled back to the lens's edge."""
    _, nearest_point = _lens(sees.device)
    beyond = lens_position.norm(dim=-1, keepdim=True).clamp_min(1.0)
    cell = ((lens_position / beyond + 1.0) * (LENS_CELLS / 2)).long().clamp(0, LENS_CELLS - 1)
    point = nearest_point[cell[..., 1], cell[..., 0]]
    return sees.gather(2, point.transpose(1, 2)).transpose(1, 2).float()


@cache
def _lens_on_cpu() -> tuple[Tensor, Tensor]:
    points = Aperture().sample(LENS_POINTS)
    middles = (torch.arange(LENS_CELLS) + 0.5) * (2.0 / LENS_CELLS) - 1.0
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return points, torch.cdist(torch.stack([x, y], dim=-1), points[None]).argmin(dim=-1)


def _lens(device: torch.device | str) -> tuple[Float[Tensor, "m 2"], Int[Tensor, "cells cells"]]:
    """The lens points u, and the index of the one nearest to each cell [row, column] of the square around the lens."""
    points, nearest = _lens_on_cpu()
    return points.to(device), nearest.to(device)


@torch.no_grad()
def lens_points_seen(
    disparity: Float[Tensor, "b h w"],
    token_disparity: Float[Tensor, "b n"],
    strength_px: Float[Tensor, " b"],
    grid_hw: tuple[int, int],
) -> Bool[Tensor, "b n m"]:
    """Which lens points each token sees: the ray to them meets nothing nearer than itself.

    Concretely, sees[b, k, m] is false if at some d between d_k and the nearest disparity of the image
    disparity[b, x(d)] > d + 2/255, where x(d) = x_k + strength_px[b] (d_k - d) u_m: the ray from token k through lens
    point u_m, in all-in-focus image coordinates. At d_k it is at the token, at the disparity in focus where it lands.
    What lies under a surface counts as solid; beyond the border the image continues as it ends.

    Args:
        disparity: Of the scene at image size, 1 nearest.
        token_disparity: d_k of each token.
        strength_px: Radius of the circle of confusion at one unit of defocus [px].
        grid_hw: Tokens down and across.
    """
    height, width = disparity.shape[1:]
    pitch_px = (height / grid_hw[0], width / grid_hw[1])
    centres = token_centres(grid_hw, pitch_px, device=disparity.device)
    points, _ = _lens(disparity.device)
    n_images, n_tokens = token_disparity.shape
    nearest = disparity.amax(dim=(1, 2))
    travel_px = (strength_px * (nearest - token_disparity.amin(dim=1))).max()
    n_steps = min(max(math.ceil(STEPS_PER_TOKEN * float(travel_px) / min(pitch_px)), MIN_STEPS), MAX_STEPS)
    chunk = max(1, RAYS_PER_CHUNK // (n_images * LENS_POINTS))
    seen = []
    for start in range(0, n_tokens, chunk):
        d_source = token_disparity[:, start : start + chunk]
        sees = torch.ones(n_images, d_source.shape[1], LENS_POINTS, dtype=torch.bool, device=disparity.device)
        for step in range(n_steps):
            d_ray = d_source + (nearest[:, None] - d_source) * ((step + 0.5) / n_steps)
            moved = (strength_px[:, None] * (d_source - d_ray))[..., None, None] * points
            met = _sample(disparity, centres[start : start + chunk, None] + moved)
            sees &= met <= d_ray[..., None] + BLOCKED_MARGIN
        seen.append(sees)
    return torch.cat(seen, dim=1)


def _sample(image: Float[Tensor, "b h w"], position_px: Float[Tensor, "b s m 2"]) -> Float[Tensor, "b s m"]:
    """The image at positions (x, y) [px], between pixels interpolated, beyond the border continued."""
    size = torch.tensor([image.shape[2], image.shape[1]], device=image.device)
    grid = position_px * (2.0 / size) - 1.0
    return F.grid_sample(image[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


@dataclass(frozen=True, eq=False)
class ReleasedOcclusion:
    """Occlusion as the published code computes it, index slip and all; see `visibility`.

    Args:
        token_disparity: d of each token, in [0, 1].
        scene: Disparity at three cells per token.
        grid_hw: Tokens down and across.
        n_steps: Looks along a ray: 7 in the published inference, 5 in its training.
        jitter: Shift of each copy and receiver (x, y), in image coordinates [-1, 1]; the first copy is exact.
    """

    token_disparity: Float[Tensor, "b n"]
    scene: Float[Tensor, "b sh sw"]
    grid_hw: tuple[int, int]
    n_steps: int
    jitter: Float[Tensor, "copies n 2"]

    def visibility(self, sources: slice = slice(None)) -> Float[Tensor, "b n s"]:
        """Share of the jittered copies in which nothing blocks the way from source k to receiver q.

        Concretely, with p from 0.1 to 0.9 and d_p[i] = p d_i + 1 - p: blocked if scene(x_q + rho (x_k - x_q)) > d_p[k]
        at some p, where rho = (1 - d_p[q]) d_k / (d_p[q] (1 - d_k)). That d_p belongs to the receiver in rho and to the
        source in the comparison is the slip that the published weights were trained with.

        Args:
            sources: Which sources k; all by default.
        """
        d_q, d_k = self.token_disparity[:, :, None], self.token_disparity[:, None, sources]
        device = d_q.device
        unit_pitch = (2.0 / self.grid_hw[0], 2.0 / self.grid_hw[1])
        centres = token_centres(self.grid_hw, unit_pitch, device=device) - 1.0
        toward_source = centres[None, sources] - centres[:, None]
        share = torch.zeros(d_q.shape[0], d_q.shape[1], d_k.shape[2], device=device)
        for shift in self.jitter:
            clear = torch.ones_like(share, dtype=torch.bool)
            for p in torch.linspace(RELEASED_FIRST, RELEASED_LAST, self.n_steps, device=device):
                dp_q, dp_k = p * d_q + (1.0 - p), p * d_k + (1.0 - p)
                rho = (1.0 - dp_q) * d_k / (dp_q * (1.0 - d_k).clamp_min(RELEASED_SMALLEST))
                position = (centres + shift)[:, None] + rho[..., None] * toward_source
                met = F.grid_sample(
                    self.scene[:, None], position, mode="bilinear", padding_mode="zeros", align_corners=False
                )[:, 0]
                clear &= met <= dp_k
            share += clear
        return share / len(self.jitter)

    def to(self, device: torch.device | str) -> ReleasedOcclusion:
        """The same on another device."""
        return replace(
            self,
            token_disparity=self.token_disparity.to(device),
            scene=self.scene.to(device),
            jitter=self.jitter.to(device),
        )


def released_occlusion(
    disparity: Float[Tensor, "b h w"],
    grid_hw: tuple[int, int],
    *,
    n_steps: int = RELEASED_STEPS,
    n_jittered: int = 0,
    jitter_seed: int = 0,
) -> ReleasedOcclusion:
    """Prepare the published occlusion of a disparity map.

    Args:
        disparity: In [0, 1], 1 nearest.
        grid_hw: Tokens down and across.
        n_steps: Looks along a ray.
        n_jittered: Copies averaged with the exact one, each receiver shifted by up to half a token; the published code
            takes 3 or 4, unseeded. 0 makes the result exact.
        jitter_seed: What the shifts are drawn from.
    """
    if float(disparity.min()) < 0 or float(disparity.max()) > 1:
        raise InputError(
            "the released convention needs disparity in [0, 1]; "
            f"got {float(disparity.min()):g} ... {float(disparity.max()):g}: normalise it first"
        )
    rows, columns = grid_hw
    uniform = torch.rand(n_jittered, rows * columns, 2, generator=torch.Generator().manual_seed(jitter_seed))
    shifts = (uniform - 0.5) * torch.tensor([2.0 / columns, 2.0 / rows])
    return ReleasedOcclusion(
        token_disparity=to_tokens(disparity, grid_hw),
        scene=_resized(disparity, (RELEASED_CELLS_PER_TOKEN * rows, RELEASED_CELLS_PER_TOKEN * columns)),
        grid_hw=grid_hw,
        n_steps=n_steps,
        jitter=torch.cat([torch.zeros(1, rows * columns, 2), shifts]).to(disparity.device),
    )
