"""What a wide lens sees past the edges of a photograph: steep edges, hidden surfaces, soft subjects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.renderers.edge_matte import DISPLAY_WHITE, EdgeMatte
from bokehdiff.renderers.inpainting import Inpainter
from bokehdiff.renderers.scatter import NOTHING_SOLID, Sheet, opacity

RAMP_REACH = 0.006  # estimated disparity crosses an edge within about this share of the longer side ...
LEAST_RAMP_REACH_PX = 2  # ... or this, if it is more
RAMP_GAP_PX = 4.0  # blur must change by more than this across an edge before it is made steep
RAMP_SHARE = 0.1  # pixels whose neighbours differ by less than this share of the edge are not on its ramp
SLOPE_RATIO = 1.4  # twice as far out an edge changes little more, a slope twice as much
EDGE_WIDTH_PX = 2.0  # colours mix so far across an edge of a photograph: take none from there
SMOOTH_PX = 2.0  # of the colour behind a matte, whose texture is made up
MIXED_WEIGHT = 0.01  # of colours that are mixed, where pure ones are far
MOST_HIDDEN = 2.0  # of white, or of the mean of a brighter picture: lights would glow behind the edges beside them
N_HIDDEN = 2  # surfaces behind the visible one: three in all
SURE_SUBJECT = 0.95  # mattes above belong to the subject, below 1 minus this to the rest


def steepen_edges(coc_px: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Give pixels on the ramp of a depth edge to the near or the far side, whichever is closer.

    Disparity from a network or resized from a smaller map crosses an edge over several pixels, and a surface that is
    not there would be drawn between the two that are. Constants, slopes and steep edges stay as they are; no gradients.

    Args:
        coc_px: Signed circle of confusion [px].
    """
    images = [torch.from_numpy(_steepened(image.detach().float().cpu().numpy())) for image in coc_px]
    return torch.stack(images).to(coc_px)


def _steepened(coc_px: np.ndarray) -> np.ndarray:
    reach_px = max(LEAST_RAMP_REACH_PX, round(RAMP_REACH * max(coc_px.shape)))
    nearest, farthest = _extremes(coc_px, reach_px)
    height = nearest - farthest
    far_out = np.subtract(*_extremes(coc_px, 2 * reach_px))
    change = np.subtract(*_extremes(coc_px, 1))
    on_ramp = (height > RAMP_GAP_PX) & (change > RAMP_SHARE * height) & (far_out < SLOPE_RATIO * height)
    side = np.where(nearest - coc_px < coc_px - farthest, nearest, farthest)
    return np.where(on_ramp, side, coc_px)


def _extremes(image: np.ndarray, reach_px: int) -> tuple[np.ndarray, np.ndarray]:
    window = np.ones((2 * reach_px + 1,) * 2, np.uint8)
    return cv2.dilate(image, window), cv2.erode(image, window)


def depth_edges(coc_px: Float[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Pixels on the far side of a depth edge: those with a neighbour that is clearly nearer.

    Args:
        coc_px: Signed circle of confusion [px].
    """
    nearest_neighbour = F.max_pool2d(coc_px[:, None], 3, stride=1, padding=1)[:, 0]
    return opacity(nearest_neighbour, coc_px) > 0


def solid_coc(coc_px: Float[Tensor, "b h w"], edges: Bool[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """The circle of confusion where a pixel sees one surface only, no edge within its disc; else `NOTHING_SOLID`.

    Args:
        coc_px: Signed [px].
        edges: Depth edges, and whatever else is not solid.
    """
    distance = nearest_marked(edges)[1].to(coc_px)
    return torch.where(distance > coc_px.abs() + EDGE_WIDTH_PX, coc_px, NOTHING_SOLID)


def nearest_marked(marked: Bool[Tensor, "b h w"]) -> tuple[Int[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """For each pixel, the flat index of the nearest marked one and the distance to it [px]; itself and inf if none is.

    Args:
        marked: Pixels to look for.
    """
    found = [_nearest_marked(image.cpu().numpy()) for image in marked]
    index, distance = (torch.from_numpy(np.stack(part)).to(marked.device) for part in zip(*found, strict=True))
    return index, distance


def _nearest_marked(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not marked.any():
        return np.arange(marked.size).reshape(marked.shape), np.full(marked.shape, np.inf, np.float32)
    distance, label = cv2.distanceTransformWithLabels(
        (~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index_of_label = np.zeros(int(label.max()) + 1, np.int64)
    index_of_label[label[marked]] = np.flatnonzero(marked)
    return index_of_label[label], distance


@dataclass(frozen=True)
class Hidden:
    """What a surface hides.

    Args:
        sheet: The part of it that rays of the lens may see past the edges.
        image_linear: The picture with the hiding surfaces taken off.
        coc_px: Its signed circle of confusion [px].
    """

    sheet: Sheet
    image_linear: Float[Tensor, "b 3 h w"]
    coc_px: Float[Tensor, "b h w"]


def hidden_sheets(
    image_linear: Float[Tensor, "b 3 h w"],
    coc_px: Float[Tensor, "b h w"],
    edges: Bool[Tensor, "b h w"],
    *,
    inpaint: Inpainter,
    trust: Float[Tensor, "b h w"],
) -> list[Hidden]:
    """Guesses of the surfaces behind the near side of depth edges, and of those behind them in turn.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
        edges: Pixels on the far side of depth edges.
        inpaint: Makes up the colours.
        trust: How far the colour of each pixel can be built upon, in [0, 1]: less where near surfaces are mixed in.
    """
    found: list[Hidden] = []
    reach_px = coc_px
    for _ in range(N_HIDDEN):
        hidden = _behind(image_linear, coc_px, edges, reach_px=reach_px, inpaint=inpaint, trust=trust)
        if hidden is None:
            break
        found.append(hidden)
        image_linear, coc_px = hidden.image_linear, hidden.coc_px
        edges, trust = depth_edges(coc_px), torch.ones_like(trust)
    return found


def mixed_near(edges: Bool[Tensor, "b h w"], like: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """How far colours can be built upon that nothing has parted: hardly, close to an edge.

    Args:
        edges: Pixels on the far side of depth edges.
        like: Gives dtype and device.
    """
    return torch.where(nearest_marked(edges)[1].to(like) < EDGE_WIDTH_PX, MIXED_WEIGHT, 1.0).to(like)


def _behind(
    image_linear: Float[Tensor, "b 3 h w"],
    coc_px: Float[Tensor, "b h w"],
    edges: Bool[Tensor, "b h w"],
    *,
    reach_px: Float[Tensor, "b h w"],
    inpaint: Inpainter,
    trust: Float[Tensor, "b h w"],
) -> Hidden | None:
    """What goes on behind the near side of edges; None if nothing does and all colours can be built upon.

    Concretely, a pixel q at most |reach(q) - coc(e)| from the nearest far-side edge pixel e hides a surface at coc(e),
    with a colour made up from all pixels that do not themselves hide what their own edge pixel shows.
    """
    edge, distance = nearest_marked(edges)
    behind_px = _taken(coc_px, edge)
    covers = opacity(coc_px, behind_px)
    weight = covers * (distance <= reach_px - behind_px + EDGE_WIDTH_PX)
    if not bool(((weight > 0) | (trust < 1.0)).any()):
        return None
    # A light is small: what goes on behind an edge rarely is one.
    white = image_linear.detach().mean(dim=(1, 2, 3), keepdim=True).clamp_min(DISPLAY_WHITE)
    dull = image_linear.minimum(MOST_HIDDEN * white)
    colour = inpaint(dull, trust * (covers == 0), weight.detach())
    sheet = Sheet(light=colour * weight[:, None], weight=weight, coc_px=behind_px, is_made_up=True)
    return Hidden(sheet, colour, torch.where(covers > 0, behind_px, coc_px))


def _taken(image: Tensor, index: Int[Tensor, "b h w"]) -> Tensor:
    """image[..., index], with a flat index per pixel, for [b h w] and [b c h w]."""
    if image.ndim == index.ndim:
        return image.flatten(1).gather(1, index.flatten(1)).view_as(index)
    return image.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, image.shape[1], -1)).view_as(image)


def _smoothed(colour: Float[Tensor, "b 3 h w"], weight: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 h w"]:
    """The colour averaged over its neighbourhood where there is weight."""
    reach = math.ceil(3 * SMOOTH_PX)
    offset = torch.arange(-reach, reach + 1, dtype=colour.dtype, device=colour.device)
    kernel = torch.exp(-0.5 * (offset / SMOOTH_PX).square())
    spread = torch.cat([colour * weight[:, None], weight[:, None]], dim=1).flatten(0, 1)[:, None]
    for kernel_2d, padding in ((kernel.view(1, 1, -1, 1), (reach, 0)), (kernel.view(1, 1, 1, -1), (0, reach))):
        spread = F.conv2d(spread, kernel_2d, padding=padding)
    spread = spread[:, 0].unflatten(0, (len(colour), 4))
    return spread[:, :3] / spread[:, 3:].clamp_min(torch.finfo(colour.dtype).tiny)


def _mirrored(
    coc_px: Float[Tensor, "b h w"], edge: Int[Tensor, "b h w"], distance: Float[Tensor, "b h w"]
) -> Int[Tensor, "b h w"]:
    """The flat index of each pixel's mirror image in its edge pixel; failing that, of one past the edge, or the edge.

    A mirror image fails on a surface nearer than the edge's; farther ones are as hidden as its own.
    """
    height, width = coc_px.shape[1:]
    own = torch.arange(height * width, device=edge.device).view(height, width)
    chosen, edge_px = edge, _taken(coc_px, edge)
    for reach in (torch.full_like(distance, EDGE_WIDTH_PX), distance + EDGE_WIDTH_PX):
        # Where nothing is marked the edge is the pixel itself, at distance inf; on the edge both are the same.
        factor = torch.where(distance > 0, reach / distance, 0.0).nan_to_num(nan=0.0)
        row = (edge // width + (edge // width - own // width) * factor).round().long().clamp(0, height - 1)
        column = (edge % width + (edge % width - own % width) * factor).round().long().clamp(0, width - 1)
        there = row * width + column
        chosen = torch.where(opacity(_taken(coc_px, there), edge_px) > 0, chosen, there)
    return chosen


def split_by_matte(
    image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], matte: Float[Tensor, "b h w"]
) -> list[Sheet]:
    """Part a photograph I into a soft subject and all the rest, the rest going on behind the subject.

    Concretely, with B the colour of the nearest mirror image that is no subject, and m the matte, the subject sends
    P = clip(I - (1 - m) B, 0, I) with weight m, and the rest sends I - P with weight 1 - m, plus m B with weight m
    where the subject is clearly nearer: the photograph in sum, whatever B is.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px], with steep edges.
        matte: The subject's share of each pixel.
    """
    share = matte.to(image_linear)
    subject_px = _taken(coc_px, nearest_marked(share > SURE_SUBJECT)[0])
    surely_rest = share < 1.0 - SURE_SUBJECT
    edge, distance = nearest_marked(surely_rest)
    rest_px = _taken(coc_px, edge)
    mirrored = _taken(image_linear, _mirrored(torch.where(surely_rest, coc_px, torch.inf), edge, distance))
    behind = _smoothed(mirrored, torch.ones_like(share))
    subject_light = (image_linear - (1.0 - share)[:, None] * behind).clamp_min(0.0).minimum(image_linear)
    subject_light = torch.where(share[:, None] > 0, subject_light, 0.0)
    hidden = share * opacity(subject_px, rest_px)
    rest_light = image_linear - subject_light + hidden[:, None] * behind
    return [Sheet(subject_light, share, subject_px), Sheet(rest_light, 1.0 - share + hidden, rest_px)]


def split_by_edges(
    image_linear: Float[Tensor, "b 3 h w"], matte: EdgeMatte, behind: Float[Tensor, "b 3 h w"]
) -> list[Sheet]:
    """The visible surfaces of a photograph, with both of those that meet in a pixel on a depth edge.

    Args:
        image_linear: The photograph.
        matte: Of its edges.
        behind: Colour of the far surface there.
    """
    share = matte.share
    hidden = torch.where(matte.band, share * opacity(matte.near_px, matte.far_px), 0.0)
    rest_light = image_linear - matte.near_light + hidden[:, None] * behind
    rest = torch.where(matte.band, 1.0 - share + hidden, 0.0)
    return [
        Sheet(matte.near_light, share, matte.near_px),
        Sheet(torch.where(matte.band[:, None], rest_light, 0.0), rest, matte.far_px),
    ]


def soft_edges(matte: Float[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """Pixels that a subject shares with the rest.

    Args:
        matte: The subject's share of each pixel.
    """
    return (matte > 1.0 - SURE_SUBJECT) & (matte < SURE_SUBJECT)
