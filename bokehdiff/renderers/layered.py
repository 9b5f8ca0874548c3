"""What a wide lens sees past the edges of a photograph: steep edges, hidden surfaces, soft subjects."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.renderers.scatter import STEP_PER_RADIUS, WIDEST_STEP_PX, Sheet

RAMP_REACH_PX = 4  # estimated disparity crosses an edge within about so many pixels on either side
RAMP_GAP_PX = 4.0  # blur must change by more than this across an edge before it is made steep
RAMP_SHARE = 0.1  # pixels whose neighbours differ by less than this share of the edge are not on its ramp
GAP_SLICES = (2.5, 4.0)  # surfaces as many slices apart begin to hide each other, and do so wholly
EDGE_WIDTH_PX = 2.0  # colours mix so far across an edge of a photograph: take none from there
SURE_SUBJECT = 0.95  # mattes above belong to the subject, below 1 minus this to what is behind


def steepen_edges(coc_px: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Give pixels on the ramp of a depth edge to the near or the far side, whichever is closer.

    Disparity from a network or resized from a smaller map crosses an edge over several pixels, and a surface that is not there
    would be drawn between the two that are. Constants, slopes and steep edges stay as they are; no gradients.

    Args:
        coc_px: Signed circle of confusion [px].
    """
    return torch.stack([torch.from_numpy(_steepened(image.detach().float().cpu().numpy())) for image in coc_px]).to(
        coc_px
    )


def _steepened(coc_px: np.ndarray) -> np.ndarray:
    window = np.ones((2 * RAMP_REACH_PX + 1,) * 2, np.uint8)
    nearest, farthest = cv2.dilate(coc_px, window), cv2.erode(coc_px, window)
    neighbours = np.ones((3, 3), np.uint8)
    change = cv2.dilate(coc_px, neighbours) - cv2.erode(coc_px, neighbours)
    on_ramp = (nearest - farthest > RAMP_GAP_PX) & (change > RAMP_SHARE * (nearest - farthest))
    side = np.where(nearest - coc_px < coc_px - farthest, nearest, farthest)
    return np.where(on_ramp, side, coc_px)


def hidden_sheet(image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"]) -> Sheet:
    """A guess of the surfaces behind the near side of depth edges, as far in as any ray of the lens can see.

    Concretely, a pixel q at most |coc(q) - coc(e)| from the nearest far-side edge pixel e hides a surface at coc(e), with
    the colour of the mirror image of q in e where that lies on the far side, else of e.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px], with steep edges.
    """
    guesses = [_behind_edges(image.detach().float().cpu().numpy()) for image in coc_px]
    colour_of, depth_of, weight = (
        torch.from_numpy(np.stack(part)).to(coc_px.device) for part in zip(*guesses, strict=True)
    )
    weight = weight.to(image_linear)
    colour = image_linear.flatten(2).gather(2, colour_of.flatten(1)[:, None].expand(-1, 3, -1))
    return Sheet(
        light=colour.view_as(image_linear) * weight[:, None],
        weight=weight,
        coc_px=coc_px.flatten(1).gather(1, depth_of.flatten(1)).view_as(coc_px),
    )


def _opacity(near_px: np.ndarray, far_px: np.ndarray) -> np.ndarray:
    """How surely a surface at `near_px` hides one at `far_px`: the renderer needs some slices between them."""
    slice_px = np.maximum(WIDEST_STEP_PX, STEP_PER_RADIUS * np.maximum(np.abs(near_px), np.abs(far_px)))
    begin, end = GAP_SLICES
    return np.clip(((near_px - far_px) / slice_px - begin) / (end - begin), 0.0, 1.0)


def _behind_edges(coc_px: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel: which pixel's colour and which pixel's depth the surface behind it has, and its weight."""
    nearest_neighbour = cv2.dilate(coc_px, np.ones((3, 3), np.uint8))
    at_edge = _opacity(nearest_neighbour, coc_px) > 0
    own = np.arange(coc_px.size).reshape(coc_px.shape)
    if not at_edge.any():
        return own, own, np.zeros_like(coc_px)
    edge, distance = nearest_marked(at_edge)
    behind_px = coc_px.ravel()[edge]
    weight = _opacity(coc_px, behind_px) * (distance <= coc_px - behind_px + EDGE_WIDTH_PX)
    return _mirrored(coc_px, edge, distance), edge, weight.astype(np.float32)


def nearest_marked(marked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flat index of the marked pixel nearest to each pixel, and the distance to it [px].

    Args:
        marked: Booleans [h w], true somewhere.
    """
    distance, label = cv2.distanceTransformWithLabels(
        (~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index_of_label = np.zeros(int(label.max()) + 1, np.int64)
    index_of_label[label[marked]] = np.flatnonzero(marked)
    return index_of_label[label], distance


def _mirrored(coc_px: np.ndarray, edge: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The flat index of each pixel's mirror image in its edge pixel; of one past the edge, or the edge, failing that."""
    height, width = coc_px.shape
    row, column = np.indices(coc_px.shape)
    edge_row, edge_column = np.divmod(edge, width)
    across = np.maximum(distance, 1e-6)
    chosen = edge
    for reach in (np.full_like(distance, EDGE_WIDTH_PX), distance + EDGE_WIDTH_PX):
        there_row = np.rint(edge_row + (edge_row - row) * (reach / across)).astype(np.int64).clip(0, height - 1)
        there_column = np.rint(edge_column + (edge_column - column) * (reach / across)).astype(np.int64)
        there = there_row * width + there_column.clip(0, width - 1)
        # Not onto another near surface; surfaces farther than the edge's are as hidden as its own.
        chosen = np.where(_opacity(coc_px.ravel()[there], coc_px.ravel()[edge]) > 0, chosen, there)
    return chosen


def split_by_matte(
    image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], matte: Float[Tensor, "b h w"]
) -> list[Sheet]:
    """Part a photograph into a soft subject and all the rest, the rest going on behind the subject.

    Concretely, with the colour B of the nearest mirror image that is no subject, the subject sends
    P = clip(I - (1 - m) B, 0, I) with weight m, and the rest sends I - P with weight 1 - m, plus m B with weight m where
    the subject is clearly nearer; in sum the photograph, whatever B is.

    Args:
        image_linear: The photograph I.
        coc_px: Signed circle of confusion [px], with steep edges.
        matte: The subject's share m of each pixel.
    """
    parts = [
        _sides_of_matte(coc.detach().float().cpu().numpy(), share.detach().float().cpu().numpy())
        for coc, share in zip(coc_px, matte, strict=True)
    ]
    subject_from, rest_from, colour_from, opacity = (
        torch.from_numpy(np.stack(part)).to(coc_px.device) for part in zip(*parts, strict=True)
    )
    rest_colour = image_linear.flatten(2).gather(2, colour_from.flatten(1)[:, None].expand(-1, 3, -1))
    rest_colour = rest_colour.view_as(image_linear)
    share = matte.to(image_linear)
    hidden = share * opacity.to(image_linear)
    subject_light = (image_linear - (1.0 - share)[:, None] * rest_colour).clamp_min(0.0).minimum(image_linear)
    subject_light = torch.where(share[:, None] > 0, subject_light, 0.0)
    subject = Sheet(subject_light, share, coc_px.flatten(1).gather(1, subject_from.flatten(1)).view_as(coc_px))
    rest = Sheet(
        light=image_linear - subject_light + hidden[:, None] * rest_colour,
        weight=1.0 - share + hidden,
        coc_px=coc_px.flatten(1).gather(1, rest_from.flatten(1)).view_as(coc_px),
    )
    return [subject, rest]


def _sides_of_matte(coc_px: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel: where the subject's depth, the rest's depth and the rest's colour come from, and how surely the
    subject hides the rest."""
    own = np.arange(coc_px.size).reshape(coc_px.shape)
    surely_subject, surely_rest = matte > SURE_SUBJECT, matte < 1.0 - SURE_SUBJECT
    if not surely_subject.any() or not surely_rest.any():
        return own, own, own, np.zeros_like(coc_px)
    subject_from = np.where(surely_subject, own, nearest_marked(surely_subject)[0])
    edge, distance = nearest_marked(surely_rest)
    rest_from = np.where(surely_rest, own, edge)
    colour_from = np.where(surely_rest, own, _mirrored(np.where(surely_rest, coc_px, np.inf), edge, distance))
    opacity = _opacity(coc_px.ravel()[subject_from], coc_px.ravel()[rest_from])
    return subject_from, rest_from, colour_from, opacity
