"""Lens blur of a photograph by spreading each pixel's light over its disc, slice by slice of depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from bokehdiff.optics import Aperture, image_field
from bokehdiff.renderers.spread import Opening, cell_px, landing, spread
from bokehdiff.tiling import Window

FIRST_RADII_PX = (0.0, 0.6, 1.2, 2.0)  # close in focus, where a fraction of a pixel shows
LEAST_STEP_PX = 1.0  # between slices farther out, until ...
STEP_PER_RADIUS = 0.08  # ... this share of the radius is more
FLAT_STEP_PX = 0.1  # on both sides of the radius where all have one, so that there are gradients
TILE_PX = 512  # slices that are empty in a tile cost nothing there; a multiple of every cell
CAT_EYE_SHIFT = 0.2  # how far the rim may move across a tile, in radii, where that is more than a pixel
LEAST_TILE_PX = 16
BLOCK_PX = 16  # what a slice holds is known by blocks
LEAST_WEIGHT = 1e-7  # what rounding leaves of nothing; a single pixel spread over a disc of 500 px weighs more
GAP_SLICES = (2.5, 4.0)  # surfaces as many slices apart begin to hide each other, and do so wholly
SOLID_SLICES = (4.0, 6.0)  # the same where a steep slope must not hide its own farther end
NOTHING_SOLID = -1e9  # a signed circle of confusion behind everything; finite, so that gradients are
SAME_SURFACE_SLICES = 3  # as many in a row do not hide each other: a slope would hide its own farther end
NEARLY_CLOSED = 0.05  # less than this left free fades out smoothly: its gradient has no jump where nothing is left
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Sheet:
    """Pixels that send light: the visible surface of a photograph, or what lies hidden behind its edges.

    Args:
        light: Colour times weight, linear.
        weight: Share of the pixel that is there, in [0, 1].
        coc_px: Signed radius of its disc; the nearer surface has the larger value [px].
        is_made_up: Whether nothing of it is in the photograph, so that its colours are a guess.
    """

    light: Float[Tensor, "b 3 h w"]
    weight: Float[Tensor, "b h w"]
    coc_px: Float[Tensor, "b h w"]
    is_made_up: bool = False


def splat(
    sheets: Sequence[Sheet],
    solid_coc_px: Float[Tensor, "b h w"],
    *,
    aperture: Aperture | None = None,
    progress: bool = False,
    step: Step | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Spread every pixel of the sheets over its disc; nearer light hides farther light; normalise what lands.

    Concretely, out(p) = sum over slices k of V_k(p) (light_k * disc_k)(p), over the same sum of weight_k instead of
    light_k, where disc_k has the radius of slice k and sums to 1, each pixel belongs to the two slices next to its
    circle of confusion by shares that keep its disc's second moment, and V_k(p) = free(sum over slices j at least three
    nearer than k of (weight_j * disc_j)(p)) is what nearer slices leave. Neighbouring slices are one surface: they
    share a pixel and do not hide each other. Beyond the border the edge pixels go on. With cat's eyes disc_k is that of
    the pixel p.

    The splat with a soft disc and normalised weights is BokehMe's (Peng et al., CVPR 2022); slices and visibility
    replace its one sum, which lets light from behind into a subject in focus.

    Args:
        sheets: At least one, of one size.
        solid_coc_px: Where only one surface can be seen, its signed circle of confusion, which closes the pixel to what
            is far behind, although noise in its depth may leave gaps between slices; `NOTHING_SOLID` elsewhere [px].
        aperture: Shape and transmission of the opening; None for a disc.
        progress: Show a bar over the tiles.
        step: Called with the number of tiles that are done and of all; what it raises ends the work. None for nothing.
    """
    aperture = aperture or Aperture()
    nodes = slice_radii(*_range_px(sheets))
    widest_px = max(abs(nodes[0]), abs(nodes[-1]))
    # Coarse grids need whole cells around what a disc can reach, and one to interpolate with.
    coarsest = cell_px(widest_px)
    margin = -(-(math.ceil(widest_px) + 2 * coarsest) // coarsest) * coarsest if widest_px else 0
    size_hw = (solid_coc_px.shape[1], solid_coc_px.shape[2])
    picture = torch.zeros_like(sheets[0].light)
    drawn: dict[tuple[float, ...], Tensor] = {}
    tiles = _tiles(size_hw, widest_px, aperture)
    for n_done, tile in enumerate(tqdm(tiles, desc="tiles", disable=not progress)):
        if step is not None:
            step(n_done, len(tiles))
        reaching = [_reaching(sheet, tile, margin) for sheet in sheets]
        tile_there = Window(margin, margin, tile.height, tile.width)
        places = _corners(tile, size_hw) if aperture.cat_eye else None
        opening = Opening(aperture, places, tile_there, drawn)
        tile.cut(picture)[:] = _splat_tile(reaching, tile.cut(solid_coc_px), nodes, opening)
    return picture


def _tiles(size_hw: tuple[int, int], widest_px: float, aperture: Aperture) -> list[Window]:
    side = TILE_PX
    if aperture.cat_eye:
        # The rim moves by cat_eye radii over half the diagonal.
        shift = max(CAT_EYE_SHIFT, 1.0 / max(widest_px, 1.0)) / aperture.cat_eye
        wanted_px = shift * math.hypot(*size_hw) / 2
        side = min(max(round(wanted_px / BLOCK_PX) * BLOCK_PX, LEAST_TILE_PX), TILE_PX)
    height, width = size_hw
    return [
        Window(top, left, min(side, height - top), min(side, width - left))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def _corners(tile: Window, size_hw: tuple[int, int]) -> Float[Tensor, "2 2 2"]:
    """Places (x, y) of the tile's upper and lower, left and right corners, as vignetting counts them."""
    x, y = torch.tensor([tile.left, tile.left + tile.width]), torch.tensor([tile.top, tile.top + tile.height])
    return image_field(torch.stack(torch.meshgrid(x, y, indexing="xy")).double(), size_hw)


def _reaching(sheet: Sheet, tile: Window, margin: int) -> Sheet:
    """What can reach the tile; beyond the border the edge pixels go on."""

    def cut(image: Tensor) -> Tensor:
        for dim, first, length in ((-2, tile.top, tile.height), (-1, tile.left, tile.width)):
            index = torch.arange(first - margin, first + length + margin, device=image.device)
            image = image.index_select(dim, index.clamp(0, image.shape[dim] - 1))
        return image

    return Sheet(light=cut(sheet.light), weight=cut(sheet.weight), coc_px=cut(sheet.coc_px))


def _splat_tile(
    sheets: Sequence[Sheet], solid_coc_px: Float[Tensor, "b h w"], nodes: list[float], opening: Opening
) -> Float[Tensor, "b 3 h w"]:
    """The tile that the sheets surround."""
    nodes = _enclosing(nodes, *_range_px(sheets))
    sources = [_Source.of(sheet, nodes) for sheet in sheets if bool((sheet.weight > 0).any())]
    tile = opening.tile
    light, weight = torch.zeros_like(tile.cut(sheets[0].light)), torch.zeros_like(solid_coc_px)
    covered = torch.zeros_like(solid_coc_px)
    nearest_solid = solid_coc_px.detach().max()
    landed: list[_Landed | None] = []
    for k in reversed(range(len(nodes))):
        before = landed[-SAME_SURFACE_SLICES] if len(landed) >= SAME_SURFACE_SLICES else None
        if before:
            before.window.cut(covered).add_(before.weight)
        content = _slice(sources, k, align_px=max(BLOCK_PX, cell_px(nodes[k])))
        wanted = content and _common(landing(content.window, nodes[k]), tile)
        if not (content and wanted and wanted.height * wanted.width):
            landed.append(None)
            continue
        here = Window(wanted.top - tile.top, wanted.left - tile.left, wanted.height, wanted.width)
        spread_light = spread(content.light, content.window, wanted, nodes[k], opening)
        left = 1.0 - here.cut(covered)
        if bool(_slices_apart(nearest_solid, nodes[k], SOLID_SLICES) > 0):
            left = torch.minimum(left, 1.0 - _slices_apart(here.cut(solid_coc_px), nodes[k], SOLID_SLICES))
        free = _free(left)
        here.cut(light).addcmul_(free[:, None], spread_light[:, :3])
        here.cut(weight).addcmul_(free, spread_light[:, 3])
        landed.append(_Landed(here, spread_light[:, 3]))
    return light.clamp_min(0.0) / weight[:, None].clamp_min(LEAST_WEIGHT)


@dataclass(frozen=True)
class _Landed:
    """Weight of a slice, where some landed."""

    window: Window
    weight: Float[Tensor, "b h w"]


def _free(left: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """What nearer surfaces leave free: nothing if they cover more than all.

    Concretely, t where 1 - cover = t is at least e, t^2 (2 e - t) / e^2 below, 0 from t = 0 down.
    """
    left = left.clamp_min(0.0)
    faded = left.square() * (2.0 * NEARLY_CLOSED - left) / NEARLY_CLOSED**2
    return torch.where(left < NEARLY_CLOSED, faded, left)


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
    """Smallest and largest circle of confusion of what is there; (0, 0) if nothing is."""
    least, most = math.inf, -math.inf
    for sheet in sheets:
        coc_px, there = sheet.coc_px.detach(), sheet.weight.detach() > 0
        least = min(least, float(torch.where(there, coc_px, math.inf).min()))
        most = max(most, float(torch.where(there, coc_px, -math.inf).max()))
    return (least, most) if least <= most else (0.0, 0.0)


def _enclosing(nodes: list[float], least_px: float, most_px: float) -> list[float]:
    """The slices that a part of the range needs."""
    first = max((i for i, radius in enumerate(nodes) if radius <= least_px), default=0)
    last = min((i for i, radius in enumerate(nodes) if radius >= most_px), default=len(nodes) - 1)
    return nodes[first : last + 1]


def slice_radii(least_px: float, most_px: float) -> list[float]:
    """Signed radii of the slices, ascending, that enclose the range of circles of confusion; 0 is one if inside.

    Concretely, the magnitudes are 0, 0.6, 1.2, 2 and then grow by the larger of 1 px and 8 %; between two of them discs
    are blended. A range of one value is enclosed by that radius more and less 0.1 px; one in focus is one slice.

    Args:
        least_px: Smallest signed circle of confusion.
        most_px: Largest.
    """
    if most_px == least_px:
        return [least_px] if abs(least_px) <= FLAT_STEP_PX else [least_px - FLAT_STEP_PX, least_px + FLAT_STEP_PX]
    ladder = list(FIRST_RADII_PX)
    while ladder[-1] < max(abs(least_px), abs(most_px)):
        ladder.append(ladder[-1] + max(LEAST_STEP_PX, STEP_PER_RADIUS * ladder[-1]))
    signed = sorted({-radius for radius in ladder} | set(ladder))
    first = max(i for i, radius in enumerate(signed) if radius <= least_px)
    last = min(i for i, radius in enumerate(signed) if radius >= most_px)
    return signed[first : last + 1]


def _signed_square(radius_px: Tensor) -> Tensor:
    return radius_px * radius_px.abs()


@dataclass(frozen=True)
class _Source:
    """A sheet as slices see it.

    Args:
        light: And its weight.
        square: Of the circle of confusion, with its sign: what shares are linear in, as the area of discs is.
        nodes: Those squares of the slices.
        occupied: Whether anything lies between slice s and the next in a block of pixels.
    """

    light: Float[Tensor, "b 4 h w"]
    square: Float[Tensor, "b h w"]
    nodes: Float[Tensor, " n"]
    occupied: Bool[Tensor, "s rows columns"]

    @staticmethod
    def of(sheet: Sheet, nodes: list[float]) -> _Source:
        radii = torch.tensor(nodes, dtype=sheet.coc_px.dtype, device=sheet.coc_px.device)
        gap = torch.bucketize(sheet.coc_px.detach(), radii, right=True) - 1
        n_gaps = max(len(nodes) - 1, 1)
        gap = torch.where(sheet.weight.detach() > 0, gap.clamp(0, n_gaps - 1), n_gaps)
        height, width = gap.shape[1:]
        rows = (torch.arange(height, device=gap.device) // BLOCK_PX)[:, None].expand(height, width)
        columns = (torch.arange(width, device=gap.device) // BLOCK_PX)[None, :].expand(height, width)
        n_rows, n_columns = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
        occupied = torch.zeros((n_gaps + 1, n_rows, n_columns), dtype=torch.bool, device=gap.device)
        occupied[gap, rows, columns] = True
        return _Source(
            light=torch.cat([sheet.light, sheet.weight[:, None]], dim=1),
            square=_signed_square(sheet.coc_px),
            nodes=_signed_square(radii),
            occupied=occupied[:n_gaps],
        )

    def blocks(self, k: int) -> Bool[Tensor, "rows columns"]:
        """Blocks that hold something of slice k."""
        return self.occupied[max(k - 1, 0) : k + 1].any(dim=0)

    def part(self, k: int, window: Window) -> Float[Tensor, "b 4 h w"]:
        """What slice k has of the light in a window."""
        square, share = window.cut(self.square), None
        if k > 0:
            share = (square - self.nodes[k - 1]) / (self.nodes[k] - self.nodes[k - 1])
        if k + 1 < len(self.nodes):
            falling = (self.nodes[k + 1] - square) / (self.nodes[k + 1] - self.nodes[k])
            share = falling if share is None else torch.minimum(share, falling)
        light = window.cut(self.light)
        return light if share is None else light * share.clamp(0.0, 1.0)[:, None]


@dataclass(frozen=True)
class _Content:
    """Light and weight of a slice, and where all of it is."""

    window: Window
    light: Float[Tensor, "b 4 h w"]


def _slice(sources: Sequence[_Source], k: int, *, align_px: int) -> _Content | None:
    """What all sources have of slice k; None if nothing."""
    holding = [source for source in sources if bool(source.blocks(k).any())]
    if not holding:
        return None
    blocks = torch.stack([source.blocks(k) for source in holding]).any(dim=0)
    height, width = holding[0].square.shape[1:]
    (top, bottom), (left, right) = (_extent(blocks.any(dim=dim), n, align_px) for dim, n in ((1, height), (0, width)))
    window = Window(top, left, bottom - top, right - left)
    light = holding[0].part(k, window)
    for source in holding[1:]:
        light = light + source.part(k, window)
    return _Content(window, light)


def _extent(filled: Bool[Tensor, " n"], n_px: int, align_px: int) -> tuple[int, int]:
    """First and last pixel of the filled blocks, at whole multiples."""
    places = filled.nonzero()[:, 0]
    first, last = int(places[0]) * BLOCK_PX, (int(places[-1]) + 1) * BLOCK_PX
    return first // align_px * align_px, min(-(-last // align_px) * align_px, n_px)


def _common(one: Window, other: Window) -> Window:
    """The part of the plane that two windows share; of no area if there is none."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = min(one.top + one.height, other.top + other.height)
    right = min(one.left + one.width, other.left + other.width)
    return Window(top, left, max(bottom - top, 0), max(right - left, 0))
