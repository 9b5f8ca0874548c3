"""The share of a near surface in the pixels of its edge, from their colours: one disparity per pixel does not tell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.renderers.scatter import opacity

NEIGHBOURS_PX = 1.5  # reach of a pixel's eight neighbours, among which two surfaces make an edge
REACH_PX = 4  # of the disc that is searched for pure colours; strands of hair leave few nearby
WINDOW_SIGMA_PX = 1.3  # nearer colours count more
MIXED_WEIGHT = 0.02  # of a pixel that may be mixed itself, where pure ones are to be averaged
DISPLAY_WHITE = 1.0  # lights beyond it would outweigh every colour nearby
LEAST_SEEN = 0.01  # of a pixel, to tell a colour from
LOCAL_TRUST = 0.3  # in the mean of the far surface nearby, beside what a pixel shows of it: texture varies
NOISE = 0.03  # standard deviation of the colour of even surfaces [linear light]
SIDE_VARIANCE = 0.1  # how far a share may well be from the whole that disparity alone tells, squared
PIXELS_AT_ONCE = 2**16  # bounds memory to some hundred MiB


@dataclass(frozen=True)
class EdgeMatte:
    """Both surfaces of the pixels on depth edges.

    Args:
        band: Pixels that two surfaces may share; the rest of this means nothing elsewhere.
        share: What the near surface has of each [1].
        near_light: What the near surface sends, linear: its colour times its share.
        behind: Colour of the far surface as if the near one were not there, linear.
        trust: How far that colour can be built upon where hidden surfaces are made up [1].
        near_px: Signed circle of confusion of the near surface [px].
        far_px: Of the far one [px].
    """

    band: Bool[Tensor, "b h w"]
    share: Float[Tensor, "b h w"]
    near_light: Float[Tensor, "b 3 h w"]
    behind: Float[Tensor, "b 3 h w"]
    trust: Float[Tensor, "b h w"]
    near_px: Float[Tensor, "b h w"]
    far_px: Float[Tensor, "b h w"]


def edge_matte(image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"]) -> EdgeMatte:
    """Part the pixels along depth edges into what a near and a far surface send; differentiable.

    Concretely, I = a F + (1 - a) B in linear light, with B the mean colour of the far surface nearby, F that of the
    near one, where pixels count by their contrast to B, and a = <I - B, F - B> / |F - B|^2 within [0, 1]. The less F
    and B differ against the texture of B, the more a is that of the side which the disparity gives the pixel to. What
    this leaves of I goes to both by their shares: in sum they are the photograph.

    The colour behind is the mean of two that are known: what is left of I over 1 - a, which counts (1 - a)^2 as its
    error grows by 1 / (1 - a), and B, which counts 0.3 where all around the far surface is seen pure, else less.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
    """
    nearest_px, farthest_px = _meeting(coc_px)
    band = opacity(nearest_px, farthest_px) > 0
    light = image_linear.permute(0, 2, 3, 1).reshape(-1, 3)
    scene = _Scene(light, light.clamp_max(DISPLAY_WHITE), coc_px.flatten(), band.flatten(), *coc_px.shape[1:])
    pixels = band.flatten().nonzero()[:, 0]
    parts = [
        _part(scene, some, nearest_px.flatten()[some], farthest_px.flatten()[some])
        for some in pixels.split(PIXELS_AT_ONCE)
    ]

    def plane(values: list[Tensor], elsewhere: Tensor) -> Tensor:
        return elsewhere.index_copy(0, pixels, torch.cat(values)).view_as(coc_px)

    def colours(values: list[Tensor]) -> Tensor:
        return light.index_copy(0, pixels, torch.cat(values)).view(*coc_px.shape, 3).permute(0, 3, 1, 2)

    whole = torch.ones_like(scene.coc_px)
    return EdgeMatte(
        band=band,
        share=plane([part.share[:, 0] for part in parts], whole),
        near_light=colours([part.near_light for part in parts]),
        behind=colours([part.behind for part in parts]),
        trust=plane([part.trust[:, 0] for part in parts], whole),
        near_px=plane([part.near_px for part in parts], scene.coc_px),
        far_px=plane([part.far_px for part in parts], scene.coc_px),
    )


def _meeting(coc_px: Float[Tensor, "b h w"]) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """The near and the far surface of each pixel; to tell surfaces by, without gradients: on a plane all tie.

    They are the extremes of the pixel and its neighbours. But of three surfaces that meet, the middle one's pixels are
    far themselves: told from the farthest by colour, they would count as a share of the near one and move with it.
    """
    plane = coc_px.detach()
    nearest = F.max_pool2d(plane[:, None], 3, stride=1, padding=1)[:, 0]
    farthest = -F.max_pool2d(-plane[:, None], 3, stride=1, padding=1)[:, 0]
    middle = (opacity(nearest, plane) > 0) & (opacity(plane, farthest) > 0)
    return nearest, torch.where(middle, plane, farthest)


@dataclass(frozen=True)
class _Window:
    """What lies around m pixels, k places for each.

    Args:
        there: Pixels at those places; any where there are none.
        inside: Whether the place lies in the image.
        near_by: Weight by distance.
    """

    there: Int[Tensor, "k m"]
    inside: Bool[Tensor, "k m"]
    near_by: Float[Tensor, "k 1"]


@dataclass(frozen=True)
class _Scene:
    """All pixels of a batch in one row.

    Args:
        light: Linear.
        colour: Clipped at white.
        coc_px: Signed circle of confusion [px].
        band: On a depth edge.
        height: Of an image [px].
        width: [px].
    """

    light: Float[Tensor, "n 3"]
    colour: Float[Tensor, "n 3"]
    coc_px: Float[Tensor, " n"]
    band: Bool[Tensor, " n"]
    height: int
    width: int

    def around(self, pixels: Int[Tensor, " m"], reach_px: float) -> _Window:
        """The disc around each pixel."""
        offset = torch.arange(-int(reach_px), int(reach_px) + 1, device=pixels.device)
        down, right = torch.meshgrid(offset, offset, indexing="ij")
        square = (down.square() + right.square()).flatten()
        kept = square <= reach_px**2
        down, right = (axis.flatten()[kept][:, None] for axis in (down, right))
        row, column = (pixels // self.width) % self.height + down, pixels % self.width + right
        inside = (row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)
        near_by = torch.exp(-square[kept, None].to(self.light) / (2.0 * WINDOW_SIGMA_PX**2))
        return _Window(torch.where(inside, pixels + down * self.width + right, pixels), inside, near_by)

    def belonging(self, window: _Window, surface_px: Float[Tensor, " m"]) -> Float[Tensor, "k m"]:
        """1 where places lie on a surface, else 0."""
        with torch.no_grad():
            there_px = self.coc_px[window.there]
            apart = opacity(torch.maximum(surface_px, there_px), torch.minimum(surface_px, there_px))
            return (window.inside & (apart == 0)).to(self.light)


@dataclass(frozen=True)
class _Part:
    """Both surfaces of m pixels; see `EdgeMatte`."""

    share: Float[Tensor, "m 1"]
    near_light: Float[Tensor, "m 3"]
    behind: Float[Tensor, "m 3"]
    trust: Float[Tensor, "m 1"]
    near_px: Float[Tensor, " m"]
    far_px: Float[Tensor, " m"]


def _part(
    scene: _Scene, pixels: Int[Tensor, " m"], nearest_px: Float[Tensor, " m"], farthest_px: Float[Tensor, " m"]
) -> _Part:
    """Part some pixels."""
    near_px, far_px = (_surface_px(scene, pixels, extreme_px) for extreme_px in (nearest_px, farthest_px))
    own, own_px = scene.light[pixels], scene.coc_px[pixels]
    is_near = ((near_px - own_px) < (own_px - far_px))[:, None]
    window = scene.around(pixels, REACH_PX)
    far = _far_surface(scene, window, farthest_px)
    front = _near_colour(scene, window, nearest_px, far.colour)
    share = _share(scene.colour[pixels], front, far, is_near)
    # A light is brighter than any mixture with it tells; it lies where the disparity says.
    share = torch.where((own > DISPLAY_WHITE).any(dim=1, keepdim=True) & ~is_near, 0.0, share)
    residual = own - share * front - (1.0 - share) * far.colour
    near_light = (share * (front + residual)).clamp_min(0.0).minimum(own)
    # The mean of what a pixel shows of the far surface and of what lies around it, each by its certainty.
    seen = 1.0 - share
    certainty, around = seen.square(), LOCAL_TRUST * far.support
    shown = (own - near_light) / seen.clamp_min(LEAST_SEEN)
    behind = torch.lerp(far.colour, shown, torch.where(seen > LEAST_SEEN, certainty / (certainty + around), 0.0))
    return _Part(share, near_light, behind, certainty + around * (1.0 - certainty), near_px, far_px)


def _surface_px(scene: _Scene, pixels: Int[Tensor, " m"], extreme_px: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Mean circle of confusion of those of a pixel and its eight neighbours that lie on the surface of an extreme."""
    window = scene.around(pixels, NEIGHBOURS_PX)
    weight = scene.belonging(window, extreme_px)
    return (weight * scene.coc_px[window.there]).sum(dim=0) / weight.sum(dim=0)


@dataclass(frozen=True)
class _FarSurface:
    """What is known of the far surface around pixels.

    Args:
        colour: Its mean, linear.
        variance: Of its colour.
        support: Share of the window that shows it pure [1].
    """

    colour: Float[Tensor, "m 3"]
    variance: Float[Tensor, "m 1"]
    support: Float[Tensor, "m 1"]


def _far_surface(scene: _Scene, window: _Window, far_px: Float[Tensor, " m"]) -> _FarSurface:
    purity = torch.where(scene.band[window.there], MIXED_WEIGHT, 1.0)
    weight = scene.belonging(window, far_px) * purity * window.near_by
    total, there = weight.sum(dim=0)[:, None], scene.colour[window.there]
    mean = torch.einsum("km,kmc->mc", weight, there) / total
    square = torch.einsum("km,kmc->m", weight, there.square())[:, None] / total
    variance = (square - mean.square().sum(dim=1, keepdim=True)).clamp_min(0.0)
    return _FarSurface(mean, variance, total / window.near_by.sum())


def _near_colour(
    scene: _Scene, window: _Window, near_px: Float[Tensor, " m"], behind: Float[Tensor, "m 3"]
) -> Float[Tensor, "m 3"]:
    """Colour of the near surface around each pixel, purest pixels first."""
    there = scene.colour[window.there]
    contrast = (there - behind).square().sum(dim=2) + NOISE**2
    weight = scene.belonging(window, near_px) * contrast * window.near_by
    return torch.einsum("km,kmc->mc", weight, there) / weight.sum(dim=0)[:, None]


def _share(
    own: Float[Tensor, "m 3"], front: Float[Tensor, "m 3"], far: _FarSurface, is_near: Bool[Tensor, "m 1"]
) -> Float[Tensor, "m 1"]:
    """The mean of what colour and disparity tell, each by its certainty."""
    contrast = (front - far.colour).square().sum(dim=1, keepdim=True)
    seen = ((own - far.colour) * (front - far.colour)).sum(dim=1, keepdim=True) / contrast.clamp_min(NOISE**2)
    variance = far.variance + NOISE**2
    return torch.lerp(seen, is_near.to(seen), variance / (SIDE_VARIANCE * contrast + variance)).clamp(0.0, 1.0)
