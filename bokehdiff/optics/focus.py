"""Where the focus lies: disparity put to scale, and the disparity of what a mask, a box or a point shows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bokehdiff.errors import InputError

MASK_THRESHOLD = 0.5  # a pixel belongs to the subject where the mask exceeds this
CENTRE_FRACTION = 0.2  # side of the central box that stands in for an empty mask (BokehDiff's data preparation)
SPECKLE_PX = 3  # side of the morphological opening that keeps speckles out of the range of disparities


def normalise_disparity(disparity: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Map each image's disparity to [0, 1] by its minimum and maximum, taken after speckles are opened away.

    Concretely, out = clip((d - min(open(d))) / (max(open(d)) - min(open(d))), 0, 1), where open is a 3 x 3 erosion
    followed by a 3 x 3 dilation (BokehDiff's data preparation). A constant image becomes 0 everywhere.

    Args:
        disparity: Any finite values, larger is nearer.
    """
    if not bool(torch.isfinite(disparity).all()):
        raise InputError("disparity must be finite; got NaN or infinity")
    eroded = -_max_pool(-disparity)
    opened = _max_pool(eroded)
    farthest = opened.amin(dim=(1, 2), keepdim=True)
    spread = opened.amax(dim=(1, 2), keepdim=True) - farthest
    scale = torch.where(spread > 0, 1.0 / spread.clamp_min(torch.finfo(disparity.dtype).tiny), torch.zeros_like(spread))
    return ((disparity - farthest) * scale).clamp(0.0, 1.0)


def _max_pool(image: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    return torch.nn.functional.max_pool2d(image[:, None], SPECKLE_PX, stride=1, padding=SPECKLE_PX // 2)[:, 0]


def focus_from_mask(disparity: Float[Tensor, "b h w"], mask: Float[Tensor, "b mh mw"]) -> Float[Tensor, " b"]:
    """Focus on a subject: the median disparity where its mask exceeds 0.5; of the image's centre where it never does.

    Args:
        disparity: Any units.
        mask: Share of each pixel that is subject, in [0, 1].
    """
    if mask.shape != disparity.shape:
        raise InputError(
            f"the mask must have the size of the disparity; got {list(mask.shape)} for {list(disparity.shape)}"
        )
    inside = mask > MASK_THRESHOLD
    empty = ~inside.flatten(1).any(dim=1)
    inside = torch.where(empty[:, None, None], _central_box(disparity), inside)
    return torch.stack([values[chosen].median() for values, chosen in zip(disparity, inside, strict=True)])


def focus_from_centre(disparity: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Focus on the centre: the median disparity of the central 20 % x 20 % of the image.

    Args:
        disparity: Any units.
    """
    return focus_from_mask(disparity, torch.zeros_like(disparity))


def _central_box(disparity: Float[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    height, width = disparity.shape[1:]
    reach = CENTRE_FRACTION / 2
    return _box_mask(
        disparity, (width * (0.5 - reach), height * (0.5 - reach), width * (0.5 + reach), height * (0.5 + reach))
    )


def focus_from_box(
    disparity: Float[Tensor, "b h w"], box_xyxy: tuple[float, float, float, float]
) -> Float[Tensor, " b"]:
    """Focus on a box: the median disparity of the pixels it touches.

    Args:
        disparity: Any units.
        box_xyxy: Left, top, right, bottom [px]; the part inside the image counts.
    """
    height, width = disparity.shape[1:]
    left, top, right, bottom = box_xyxy
    if not (left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0):
        raise InputError(
            f"the box must be left < right, top < bottom and overlap the {width} x {height} image; got {box_xyxy}"
        )
    return focus_from_mask(disparity, _box_mask(disparity, box_xyxy).to(disparity.dtype))


def _box_mask(disparity: Float[Tensor, "b h w"], box_xyxy: tuple[float, float, float, float]) -> Bool[Tensor, "b h w"]:
    """Pixels that the box touches: the pixel at column i covers [i, i + 1)."""
    height, width = disparity.shape[1:]
    left, top, right, bottom = box_xyxy
    columns = torch.arange(width, device=disparity.device)
    rows = torch.arange(height, device=disparity.device)
    in_columns = (columns + 1 > left) & (columns < right)
    in_rows = (rows + 1 > top) & (rows < bottom)
    return (in_rows[:, None] & in_columns[None, :]).expand_as(disparity)


def focus_from_pixel(disparity: Float[Tensor, "b h w"], x: float, y: float) -> Float[Tensor, " b"]:
    """Focus on a point: the median disparity of the 3 x 3 pixels around it, so that one speckle decides nothing.

    Args:
        disparity: Any units.
        x: To the right, in [0, w) [px].
        y: Down, in [0, h) [px].
    """
    height, width = disparity.shape[1:]
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(f"the focus point must lie in the {width} x {height} image; got x = {x:g}, y = {y:g}")
    column, row = int(x), int(y)
    return focus_from_box(disparity, (column - 1, row - 1, column + 2, row + 2))
