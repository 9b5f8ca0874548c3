"""Lens blur of a photograph by spreading each pixel's light over its disc, slice by slice of depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from bokehdiff.optics import Aperture
from bokehdiff.tiling import Window

FIRST_RADII_PX = (0.0, 0.6, 1.2, 2.0)  # close in focus, where a fraction of a pixel shows
LEAST_STEP_PX = 1.0  # between slices farther out, until ...
STEP_PER_RADIUS = 0.08  # ... this share of the radius is more
TILE_PX = 512  # slices that are empty in a tile cost nothing there; a multiple of every cell
COARSE_RADIUS_PX = 16.0  # discs from here on are drawn in cells of 2 px, from twice that in cells of 4, and so on
DIRECT_SIDE_PX = 5  # up to here a direct convolution is as fast as Fourier's
LEAST_WEIGHT = 1e-7  # what rounding leaves of nothing; a single pixel spread over a disc of 500 px weighs more
GAP_SLICES = (2.5, 4.0)  # surfaces as many slices apart begin to hide each other, and do so wholly
SOLID_SLICES = (4.0, 6.0)  # the same where a steep slope must not hide its own farther end
NOTHING_SOLID = -1e9  # a signed circle of confusion behind everything; finite, so that gradients are
SAME_SURFACE_SLICES = 3  # as many in a row do not hide each other: a slope would hide its own farther end


@dataclass(frozen=True)
class Sheet:
    """Pixels that send light: the visible surface of a photograph, or what lies hidden behind its edges.

    Args:
        light: Colour times weight, linear.
        weight: Share of the pixel that is there, in [0, 1].
        coc_px: Signed radius of its disc; the nearer surface has the larger value [px].
    """

    light: Float[Tensor, "b 3 h w"]
    weight: Float[Tensor, "b h w"]
    coc_px: Float[Tensor, "b h w"]


def splat(
    sheets: Sequence[Sheet],
    solid_coc_px: Float[Tensor, "b h w"],
    *,
    aperture: Aperture | None = None,
    progress: bool = False,
) -> Float[Tensor, "b 3 h w"]:
    """Spread every pixel of the sheets over its disc; nearer light hides farther light; normalise what lands.

    Concretely, out(p) = sum over slices k of V_k(p) (light_k * disc_k)(p), over the same sum of weight_k instead of
    light_k, where disc_k has the radius of slice k and sums to 1, each pixel belongs to the two slices next to its
    circle of confusion by linear shares, and V_k(p) = 1 - min(1, sum over slices j at least three nearer than k of
    (weight_j * disc_j)(p)) is what nearer slices leave free. Neighbouring slices are one surface: they share a pixel
    and do not hide each other. Beyond the border the edge pixels go on.

    The splat with a soft disc and normalised weights is BokehMe's (Peng et al., CVPR 2022); slices and visibility
    replace its one sum, which lets light from behind into a subject in focus.

    Args:
        sheets: At least one, of one size.
        solid_coc_px: Where only one surface can be seen, its signed circle of confusion, which closes the pixel to what
            is far behind, although noise in its depth may leave gaps between slices; `NOTHING_SOLID` elsewhere [px].
        aperture: Shape and transmission of the opening; None for a disc.
        progress: Show a bar over the tiles.
    """
    nodes = slice_radii(*_range_px(sheets))
    widest_px = max(abs(nodes[0]), abs(nodes[-1]))
    # Coarse grids need whole cells around what a disc can reach, and one to interpolate with.
    margin = math.ceil(widest_px) + 1 + 3 * _cell_px(widest_px) if len(nodes) > 1 or nodes[0] else 0
    padded = [_padded(sheet, margin) for sheet in sheets]
    height, width = solid_coc_px.shape[1:]
    tiles = [
        Window(top, left, min(TILE_PX, height - top), min(TILE_PX, width - left))
        for top in range(0, height, TILE_PX)
        for left in range(0, width, TILE_PX)
    ]
    picture = torch.zeros_like(sheets[0].light)
    for tile in tqdm(tiles, desc="tiles", disable=not progress):
        rows, columns = slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width)
        reaching = [_cropped(sheet, tile, margin) for sheet in padded]
        picture[..., rows, columns] = _splat_tile(
            reaching, solid_coc_px[:, rows, columns], nodes, aperture or Aperture(), margin
        )
    return picture


def _cropped(sheet: Sheet, tile: Window, margin: int) -> Sheet:
    rows = slice(tile.top, tile.top + tile.height + 2 * margin)
    columns = slice(tile.left, tile.left + tile.width + 2 * margin)
    return Sheet(sheet.light[..., rows, columns], sheet.weight[:, rows, columns], sheet.coc_px[:, rows, columns])


def _splat_tile(
    padded: Sequence[Sheet],
    solid_coc_px: Float[Tensor, "b h w"],
    nodes: list[float],
    aperture: Aperture,
    margin: int,
) -> Float[Tensor, "b 3 h w"]:
    """The tile that the padded sheets surround."""
    nodes = _enclosing(nodes, *_range_px(padded))
    like = padded[0].light
    sums = like.new_zeros(len(like), 4, *solid_coc_px.shape[1:])
    landed: list[Tensor] = []
    covered = torch.zeros_like(sums[:, 3])
    for k in reversed(range(len(nodes))):
        if len(landed) >= SAME_SURFACE_SLICES:
            covered = covered + landed[-SAME_SURFACE_SLICES]
        spread = _spread_coarsely(_slice(padded, nodes, k), nodes[k], aperture, margin)
        landed.append(spread[:, 3])
        closed = torch.maximum(covered.clamp(max=1.0), _slices_apart(solid_coc_px, nodes[k], SOLID_SLICES))
        sums = sums + (1.0 - closed)[:, None] * spread
    return sums[:, :3].clamp_min(0.0) / sums[:, 3:].clamp_min(LEAST_WEIGHT)


def opacity(near_px: Tensor, far_px: Tensor) -> Tensor:
    """How surely a surface hides one behind it, in [0, 1]: slices of one surface do not hide each other.

    Args:
        near_px: Signed circle of confusion of the nearer surface [px].
        far_px: Of the other one.
    """
    return _slices_apart(near_px, far_px, GAP_SLICES)


def _slices_apart(near_px: Tensor, far_px: Tensor | float, ramp: tuple[float, float]) -> Tensor:
    far_px = torch.as_tensor(far_px, dtype=near_px.dtype, device=near_px.device)
    widest_px = torch.maximum(near_px.abs(), far_px.abs())
    slices = (near_px - far_px) / (STEP_PER_RADIUS * widest_px).clamp_min(LEAST_STEP_PX)
    return ((slices - ramp[0]) / (ramp[1] - ramp[0])).clamp(0.0, 1.0)


def _range_px(sheets: Sequence[Sheet]) -> tuple[float, float]:
    """Smallest and largest circle of confusion of what is there."""
    there = [sheet.coc_px.detach()[sheet.weight.detach() > 0] for sheet in sheets]
    extremes = [coc_px.aminmax() for coc_px in there if len(coc_px)]
    return min((float(low) for low, _ in extremes), default=0.0), max(
        (float(high) for _, high in extremes), default=0.0
    )


def _enclosing(nodes: list[float], least_px: float, most_px: float) -> list[float]:
    """The slices that a part of the range needs."""
    first = max((i for i, radius in enumerate(nodes) if radius <= least_px), default=0)
    last = min((i for i, radius in enumerate(nodes) if radius >= most_px), default=len(nodes) - 1)
    return nodes[first : last + 1]


def slice_radii(least_px: float, most_px: float) -> list[float]:
    """Signed radii of the slices, ascending, that enclose the range of circles of confusion; 0 is one if inside.

    Concretely, the magnitudes are 0, 0.6, 1.2, 2 and then grow by the larger of 1 px and 8 %; between two of them a
    disc is blended linearly. A range of one value is one slice of exactly that radius.

    Args:
        least_px: Smallest signed circle of confusion.
        most_px: Largest.
    """
    if most_px == least_px:
        return [least_px]
    ladder = list(FIRST_RADII_PX)
    while ladder[-1] < max(abs(least_px), abs(most_px)):
        ladder.append(ladder[-1] + max(LEAST_STEP_PX, STEP_PER_RADIUS * ladder[-1]))
    signed = sorted({-radius for radius in ladder} | set(ladder))
    first = max(i for i, radius in enumerate(signed) if radius <= least_px)
    last = min(i for i, radius in enumerate(signed) if radius >= most_px)
    return signed[first : last + 1]


def _padded(sheet: Sheet, margin: int) -> Sheet:
    def extend(image: Tensor) -> Tensor:
        for dim in (-2, -1):
            index = torch.arange(-margin, image.shape[dim] + margin, device=image.device)
            image = image.index_select(dim, index.clamp(0, image.shape[dim] - 1))
        return image

    return Sheet(light=extend(sheet.light), weight=extend(sheet.weight), coc_px=extend(sheet.coc_px))


def _slice(sheets: Sequence[Sheet], nodes: list[float], k: int) -> Float[Tensor, "b 4 h w"]:
    """Light and weight of the pixels that belong to slice k, each times its linear share."""
    total = torch.zeros_like(torch.cat([sheets[0].light, sheets[0].weight[:, None]], dim=1))
    for sheet in sheets:
        share = torch.ones_like(sheet.coc_px)
        if k > 0:
            share = torch.minimum(share, (sheet.coc_px - nodes[k - 1]) / (nodes[k] - nodes[k - 1]))
        if k + 1 < len(nodes):
            share = torch.minimum(share, (nodes[k + 1] - sheet.coc_px) / (nodes[k + 1] - nodes[k]))
        if bool((share > 0).any()):
            total = total + torch.cat([sheet.light, sheet.weight[:, None]], dim=1) * share.clamp_min(0.0)[:, None]
    return total


def _cell_px(radius_px: float) -> int:
    """Side of the cells that a disc is drawn in: 1, and a power of 2 where its edge is not finer than a sixteenth."""
    return 2 ** max(0, int(math.log2(max(abs(radius_px), 1.0) / COARSE_RADIUS_PX) + 1)) if radius_px else 1


def _spread_coarsely(
    content: Float[Tensor, "b 4 ph pw"], radius_px: float, aperture: Aperture, margin: int
) -> Float[Tensor, "b 4 h w"]:
    """`_spread`, for wide discs on a grid of coarser cells, whose light is interpolated back."""
    cell = _cell_px(radius_px)
    kernel = aperture_kernel(radius_px / cell, aperture, like=content)
    if cell == 1:
        return _spread(content, kernel, margin)
    height, width = content.shape[-2:]
    cells = F.avg_pool2d(F.pad(content, (0, -width % cell, 0, -height % cell)), cell)
    margin_cells = margin // cell - 1
    spread = F.interpolate(_spread(cells, kernel, margin_cells), scale_factor=cell, mode="bilinear")
    first = margin - margin_cells * cell
    return spread[..., first : first + height - 2 * margin, first : first + width - 2 * margin]


def _spread(content: Float[Tensor, "b 4 ph pw"], kernel: Float[Tensor, "k k"], margin: int) -> Float[Tensor, "b 4 h w"]:
    """Convolve with the opening and take the margin off; only the box that holds something is worked on."""
    reach = kernel.shape[0] // 2
    height, width = (n - 2 * margin for n in content.shape[-2:])
    filled = content[:, 3].detach().amax(dim=0) > 0
    rows, columns = filled.any(dim=1).nonzero()[:, 0], filled.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        return content[..., :height, :width] * 0.0
    # The box of the output, in coordinates of the image, and what can reach it, in those of the padded one.
    top, bottom = max(0, int(rows[0]) - margin - reach), min(height, int(rows[-1]) - margin + reach + 1)
    left, right = max(0, int(columns[0]) - margin - reach), min(width, int(columns[-1]) - margin + reach + 1)
    if top >= bottom or left >= right:
        return content[..., :height, :width] * 0.0
    reaching = content[
        ..., top + margin - reach : bottom + margin + reach, left + margin - reach : right + margin + reach
    ]
    spread = _convolve(reaching, kernel)
    return F.pad(spread, (left, width - right, top, height - bottom))


def aperture_kernel(radius_px: float, aperture: Aperture, *, like: Tensor) -> Float[Tensor, "k k"]:
    """The picture of a dot: the opening on the pixel grid, of total weight 1.

    Concretely, kernel[i, j] is proportional to the opening's transmittance at -(j, i) / r, its outline falling over one
    pixel: for a disc clip(|r| + 1/2 - |(i, j)|, 0, 1), the share of a pixel at that distance that the disc covers. Up
    to half a pixel it is the identity.

    Args:
        radius_px: Signed: before the focus the opening is seen upside down.
        aperture: Shape and transmission of the opening.
        like: Gives dtype and device.
    """
    reach = math.ceil(max(abs(radius_px) - 0.5, 0.0))
    if reach == 0:
        return like.new_ones(1, 1)
    offset = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    points = torch.stack(torch.meshgrid(offset, offset, indexing="xy"), dim=-1) / -radius_px
    kernel = aperture.transmittance(points, softness=1.0 / abs(radius_px))
    # An opening whose grains are finer than the pixels may be missed by all of them.
    return kernel / kernel.sum() if float(kernel.sum()) > 0 else (points.norm(dim=-1) == 0).to(like)


def _convolve(image: Float[Tensor, "b 4 h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "b 4 oh ow"]:
    """Convolution where the kernel fits wholly into the image."""
    side = kernel.shape[0]
    if side == 1:
        return image
    if side <= DIRECT_SIDE_PX:
        flipped = kernel.flip(0, 1)[None, None]  # torch's convolution is a correlation
        return F.conv2d(image.flatten(0, 1)[:, None], flipped)[:, 0].unflatten(0, image.shape[:2])
    size_hw = [cv2.getOptimalDFTSize(n) for n in image.shape[-2:]]
    product = torch.fft.rfft2(image, s=size_hw) * torch.fft.rfft2(kernel, s=size_hw)
    height, width = image.shape[-2:]
    return torch.fft.irfft2(product, s=size_hw)[..., side - 1 : height, side - 1 : width]
