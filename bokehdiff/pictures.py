"""Pictures for people: maps in colour, images side by side under captions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

CAPTION_PX = 24  # height of a caption's bar
GAP_PX = 4  # white between pictures
FONT_PX = 14


def colour_disparity(disparity: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 h w"]:
    """Disparity in [0, 1] as colours: far is dark blue, near is yellow.

    Args:
        disparity: 0 farthest, 1 nearest; values beyond are clipped.
    """
    return _colours(disparity.clamp(0.0, 1.0), "viridis")


def colour_coc(coc_px: Float[Tensor, "b h w"], *, limit_px: float | None = None) -> Float[Tensor, "b 3 h w"]:
    """Signed circles of confusion as colours: white in focus, red in front of the focus, blue behind it.

    Args:
        coc_px: Signed radius [px].
        limit_px: Radius of the full colour [px]; None for the largest of the batch.
    """
    limit = limit_px or max(float(coc_px.abs().max()), 1e-6)
    return _colours((coc_px / limit).clamp(-1.0, 1.0) * 0.5 + 0.5, "seismic")


def _colours(share: Float[Tensor, "b h w"], name: str) -> Float[Tensor, "b 3 h w"]:
    from matplotlib import colormaps

    rgba = colormaps[name](share.detach().cpu().numpy())
    return torch.from_numpy(np.ascontiguousarray(rgba[..., :3])).permute(0, 3, 1, 2).float()


def contact_sheet(
    columns: Mapping[str, Float[Tensor, "b 3 h w"]], *, n_across: int | None = None
) -> Float[Tensor, "1 3 sheet_h sheet_w"]:
    """Lay images out in a grid: a row per batch entry, a column per caption.

    Args:
        columns: Display images in [0, 1] by caption, all of one shape.
        n_across: Columns beside each other, further ones below; None for all beside each other.
    """
    if n_across is not None and n_across < len(columns):
        named = list(columns.items())
        sheets = [contact_sheet(dict(named[start : start + n_across])) for start in range(0, len(named), n_across)]
        width = sheets[0].shape[3]
        return torch.cat([F.pad(sheet, (0, width - sheet.shape[3]), value=1.0) for sheet in sheets], dim=2)
    shapes = {tuple(images.shape) for images in columns.values()}
    if len(shapes) != 1:
        raise InputError(f"a contact sheet needs images of one shape; got {sorted(shapes)}")
    rows = []
    for index in range(shapes.pop()[0]):
        pictures = [images[index].detach().float().cpu().clamp(0.0, 1.0) for images in columns.values()]
        rows.append(_beside(pictures))
    captions = _beside([_caption(name, int(images.shape[-1])) for name, images in columns.items()])
    gap = torch.ones(3, GAP_PX, captions.shape[-1])
    parts = [captions]
    for row in rows:
        parts += [row, gap]
    return torch.cat(parts[:-1], dim=1)[None]


def _beside(pictures: list[Float[Tensor, "3 h _"]]) -> Float[Tensor, "3 h sheet_w"]:
    gap = torch.ones(3, pictures[0].shape[1], GAP_PX)
    parts = [part for picture in pictures for part in (picture, gap)]
    return torch.cat(parts[:-1], dim=2)


def _caption(text: str, width_px: int) -> Float[Tensor, "3 caption_h w"]:
    """Black on white, cut off at the picture's width."""
    from PIL import Image, ImageDraw, ImageFont

    bar = Image.new("RGB", (width_px, CAPTION_PX), "white")
    ImageDraw.Draw(bar).text((3, 3), text, fill="black", font=ImageFont.load_default(FONT_PX))
    return torch.from_numpy(np.array(bar)).permute(2, 0, 1).float() / 255.0
