"""What the renderer works with, as pictures that people look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.cli.render.scene import View
from bokehdiff.images import Transfer, linear_to_srgb, make_folder, resize, save_image
from bokehdiff.optics import Lens
from bokehdiff.pictures import colour_coc, colour_disparity, contact_sheet
from bokehdiff.renderers import Sheet

OVERVIEW_SIDE_PX = 480  # of each picture on the sheet that shows all
OVERVIEW_COLUMNS = 4


def write_intermediates(
    folder: Path,
    view: View,
    disparity: Float[Tensor, "1 h w"],
    lens: Lens,
    sheets: Sequence[Sheet],
    result_srgb: Float[Tensor, "1 3 h w"],
    *,
    transfer: Transfer,
) -> Iterator[Path]:
    """Write disparity, circles of confusion, the matte and each surface, and a sheet that shows all with captions.

    Circles of confusion are white in focus, red in front of it and blue behind, of full colour at the largest of the
    picture. A surface is its colour, transparent where it is not there: number 1 is the nearest visible one, the last
    are those that were made up behind it.

    Args:
        folder: Where they go.
        view: The photograph.
        disparity: What the lens is given.
        lens: The lens.
        sheets: The surfaces that the renderer spread.
        result_srgb: The result.
        transfer: The curve between display values and light.

    Returns:
        Each file once it is written.
    """
    make_folder(folder)
    coc_px = lens.coc_px(disparity)
    limit_px = float(coc_px.abs().max())
    pictures = {
        "photograph": view.photo.image_srgb,
        "disparity (yellow is near)": colour_disparity(_stretched(disparity)),
        f"blur: red before, blue behind, {limit_px:.1f} px": colour_coc(coc_px),
    }
    if view.matte is not None:
        pictures["matte"] = view.matte[:, None].expand(-1, 3, -1, -1)
    names = ["", "disparity", "coc", "matte"]
    for name, picture in zip(names[1:], list(pictures.values())[1:], strict=False):
        yield _saved(folder / f"{name}.png", picture)
    for number, sheet in enumerate(sheets, start=1):
        surface = _surface(sheet, transfer)
        yield _saved(folder / f"surface_{number}.png", surface)
        pictures[f"surface {number} of {len(sheets)}"] = surface[:, :3] * surface[:, 3:] + (1.0 - surface[:, 3:])
    pictures["result"] = result_srgb
    yield _saved(folder / "overview.png", _overview(pictures))


def _saved(path: Path, picture: Tensor) -> Path:
    save_image(path, picture)
    return path


def _stretched(disparity: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Metric disparity as [0, 1], for its colours; what is in [0, 1] stays."""
    least, most = float(disparity.min()), float(disparity.max())
    return disparity if least >= 0 and most <= 1 else (disparity - least) / (most - least)


def _surface(sheet: Sheet, transfer: Transfer) -> Float[Tensor, "1 4 h w"]:
    """Display colour with straight alpha."""
    weight = sheet.weight.detach()[:, None].clamp(0.0, 1.0)
    colour = sheet.light.detach() / weight.clamp_min(torch.finfo(weight.dtype).eps)
    return torch.cat([linear_to_srgb(torch.where(weight > 0, colour, 0.0), transfer=transfer).clamp(0, 1), weight], 1)


def _overview(pictures: dict[str, Tensor]) -> Float[Tensor, "1 3 sheet_h sheet_w"]:
    height, width = next(iter(pictures.values())).shape[2:]
    scale = min(1.0, OVERVIEW_SIDE_PX / max(height, width))
    size_hw = (max(1, round(scale * height)), max(1, round(scale * width)))
    small = {name: resize(picture, size_hw) for name, picture in pictures.items()}
    blank = {" " * n: torch.ones(1, 3, *size_hw) for n in range(-len(small) % OVERVIEW_COLUMNS)}
    names = [*small, *blank]
    rows = [names[first : first + OVERVIEW_COLUMNS] for first in range(0, len(names), OVERVIEW_COLUMNS)]
    return torch.cat([contact_sheet({name: (small | blank)[name] for name in row}) for row in rows], dim=2)
