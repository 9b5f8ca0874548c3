"""Light spread over pictures of the opening: what a dot becomes, and a part of an image made of such dots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.optics import Aperture
from bokehdiff.tiling import Window

COARSE_RADIUS_PX = 16.0  # discs from here on are drawn in cells of 2 px, from twice that in cells of 4, and so on
DIRECT_SIDE_PX = 5  # up to here a direct sum is as fast as Fourier's transform, and rounds less


@dataclass(frozen=True)
class Opening:
    """The opening as the pixels of a tile see it.

    Args:
        aperture: Shape and transmission.
        places: With cat's eyes, the places (x, y) of the tile's upper and lower, left and right corners as of
            `optics.image_field`; between them pictures of the opening are blended. None without.
        tile: Those pixels.
        drawn: Kernels by their radius and place: openings of one aperture may share them, as tiles share corners.
    """

    aperture: Aperture
    places: Float[Tensor, "2 2 2"] | None
    tile: Window
    drawn: dict[tuple[float, ...], Tensor] = field(default_factory=dict)

    def kernels(self, radius_px: float, *, like: Tensor) -> list[Float[Tensor, "k k"]]:
        """The picture of a dot, at each corner if they differ: upper left and right, lower left and right.

        Args:
            radius_px: Signed radius, in the unit of the grid.
            like: Gives dtype and device.
        """
        if self.places is None or _reach(radius_px) == 0:
            return [self._kernel(radius_px, None, like)]
        return [self._kernel(radius_px, place, like) for place in self.places.flatten(1).unbind(dim=1)]

    def _kernel(self, radius_px: float, place: Float[Tensor, " 2"] | None, like: Tensor) -> Float[Tensor, "k k"]:
        key = (radius_px, *(() if place is None else place.tolist()))
        if key not in self.drawn:
            there = None if place is None else place.to(like)
            self.drawn[key] = aperture_kernel(radius_px, self.aperture, like=like, place=there)
        return self.drawn[key]

    def shares(self, window: Window, *, like: Tensor) -> list[Float[Tensor, "h w"]]:
        """How much each corner's picture has of each pixel: bilinear.

        Args:
            window: Pixels in the coordinates of the tile.
            like: Gives dtype and device.
        """
        row = torch.arange(window.height, dtype=like.dtype, device=like.device) + window.top + 0.5 - self.tile.top
        column = torch.arange(window.width, dtype=like.dtype, device=like.device) + window.left + 0.5 - self.tile.left
        down, right = (row / self.tile.height)[:, None], (column / self.tile.width)[None, :]
        return [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]


def cell_px(radius_px: float) -> int:
    """Side of the cells that a disc is drawn in: 1, and a power of 2 where its edge is not finer than a sixteenth.

    Args:
        radius_px: Signed radius.
    """
    return 2 ** max(0, int(math.log2(max(abs(radius_px), 1.0) / COARSE_RADIUS_PX) + 1)) if radius_px else 1


def landing(source: Window, radius_px: float) -> Window:
    """Where the light of a window may land.

    Args:
        source: Whose upper left lies between cells of the radius.
        radius_px: Signed radius.
    """
    cell = cell_px(radius_px)
    # Coarse cells are interpolated: their light reaches half a cell farther.
    reach = _reach(radius_px / cell) * cell + (cell > 1) * cell
    height, width = (-(-length // cell) * cell + 2 * reach for length in (source.height, source.width))
    return Window(source.top - reach, source.left - reach, height, width)


def spread(
    content: Float[Tensor, "b 4 h w"], source: Window, wanted: Window, radius_px: float, opening: Opening
) -> Float[Tensor, "b 4 wh ww"]:
    """Spread the light of a window over discs and take what lands in another.

    Args:
        content: Light and weight of the window.
        source: The window, its upper left between cells of the radius.
        wanted: A part of `landing`.
        radius_px: Signed radius of the discs.
        opening: What the discs are pictures of.
    """
    cell = cell_px(radius_px)
    kernels = opening.kernels(radius_px / cell, like=content)
    if cell == 1:
        return _blended(_convolved(content, source, wanted, kernels), wanted, opening)
    kernels = [F.pad(kernel, (1, 1, 1, 1)) for kernel in kernels]
    cells = F.avg_pool2d(F.pad(content, (0, -source.width % cell, 0, -source.height % cell)), cell)
    source_cells = Window(source.top // cell, source.left // cell, *cells.shape[-2:])
    wanted_cells = _cells_around(wanted, landing(source, radius_px), cell)
    enlarged = [
        # The same numbers with "antialias", whose bits do not depend on the number of threads.
        F.interpolate(one, scale_factor=cell, mode="bilinear", antialias=True)
        for one in _convolved(cells, source_cells, wanted_cells, kernels)
    ]
    inner = Window(
        wanted.top - wanted_cells.top * cell, wanted.left - wanted_cells.left * cell, wanted.height, wanted.width
    )
    return _blended([inner.cut(one) for one in enlarged], wanted, opening)


def _cells_around(wanted: Window, landing: Window, cell: int) -> Window:
    """Cells that interpolation needs; beyond where light lands all are empty."""
    top, left = (max(a // cell - 1, b // cell) for a, b in ((wanted.top, landing.top), (wanted.left, landing.left)))
    bottom = min(-(-(wanted.top + wanted.height) // cell) + 1, -(-(landing.top + landing.height) // cell))
    right = min(-(-(wanted.left + wanted.width) // cell) + 1, -(-(landing.left + landing.width) // cell))
    return Window(top, left, bottom - top, right - left)


def _blended(corners: list[Tensor], window: Window, opening: Opening) -> Tensor:
    if len(corners) == 1:
        return corners[0]
    shares = opening.shares(window, like=corners[0])
    return sum((share * corner for share, corner in zip(shares, corners, strict=True)), torch.zeros_like(corners[0]))


def _reach(radius_px: float) -> int:
    return math.ceil(max(abs(radius_px) - 0.5, 0.0))


def aperture_kernel(
    radius_px: float, aperture: Aperture, *, like: Tensor, place: Float[Tensor, " 2"] | None = None
) -> Float[Tensor, "k k"]:
    """The picture of a dot: the opening on the pixel grid, of total weight 1.

    Concretely, kernel[i, j] is proportional to the opening's transmittance at -(j, i) / r, its outline falling over one
    pixel: for a disc clip(|r| + 1/2 - |(i, j)|, 0, 1), the share of a pixel at that distance that the disc covers. Up
    to half a pixel it is the identity.

    Args:
        radius_px: Signed: before the focus the opening is seen upside down.
        aperture: Shape and transmission of the opening.
        like: Gives dtype and device.
        place: Where the dot is seen, from the image's centre, 1 in its corners, for cat's eyes; None for the centre.
    """
    reach = _reach(radius_px)
    if reach == 0:
        return like.new_ones(1, 1)
    offset = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    points = torch.stack(torch.meshgrid(offset, offset, indexing="xy"), dim=-1) / -radius_px
    kernel = aperture.transmittance(points, softness=1.0 / abs(radius_px))
    if place is not None:
        passed = aperture.unvignetted(points.reshape(-1, 2), place[:, None, None], spacing=1.0 / abs(radius_px))
        kernel = kernel * passed.reshape(kernel.shape)
    # An opening whose grains are finer than the pixels may be missed by all of them.
    return kernel / kernel.sum() if float(kernel.sum()) > 0 else (points.norm(dim=-1) == 0).to(like)


def _convolved(
    content: Float[Tensor, "b 4 h w"], source: Window, wanted: Window, kernels: list[Float[Tensor, "k k"]]
) -> list[Float[Tensor, "b 4 wh ww"]]:
    """Convolve a window of content with each kernel, in the part of the plane that is wanted."""
    side = kernels[0].shape[0]
    reach = side // 2
    top, left = wanted.top - source.top + reach, wanted.left - source.left + reach
    part = (..., slice(top, top + wanted.height), slice(left, left + wanted.width))
    if side == 1:
        return [content[part]]
    if side <= DIRECT_SIDE_PX:
        return [_summed(content, kernel)[part] for kernel in kernels]
    size_hw = (
        _transform_size(source.height, wanted.top - source.top, wanted.height, reach),
        _transform_size(source.width, wanted.left - source.left, wanted.width, reach),
    )
    light = _transformed(content, size_hw)
    return [torch.fft.irfft2(light * _transformed(kernel, size_hw), s=size_hw)[part] for kernel in kernels]


def _summed(content: Float[Tensor, "b 4 h w"], kernel: Float[Tensor, "k k"]) -> Float[Tensor, "b 4 fh fw"]:
    """The whole convolution, one shifted copy after the other."""
    height, width = content.shape[-2:]
    side = kernel.shape[0]
    total = content.new_zeros(*content.shape[:2], height + side - 1, width + side - 1)
    for down, row in enumerate(kernel.tolist()):
        for right, weight in enumerate(row):
            if weight:
                total[..., down : down + height, right : right + width].add_(content, alpha=weight)
    return total


def _transformed(image: Float[Tensor, "*any h w"], size_hw: tuple[int, int]) -> Complex[Tensor, "*any fh fw"]:
    """Like `rfft2`, without transforming rows that are added."""
    return torch.fft.fft(torch.fft.rfft(image, n=size_hw[1]), n=size_hw[0], dim=-2)


def _transform_size(n_source: int, start: int, n_wanted: int, reach: int) -> int:
    """The shortest cycle in which nothing that lands where it is wanted has come around: a size of small factors."""
    return cv2.getOptimalDFTSize(max(n_source, n_source + reach - start, start + n_wanted + reach))
