"""Where a photograph's disparity comes from: a file, a depth model, or a guess; and a picture of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.images import load_disparity, resize
from bokehdiff.optics import normalise_disparity
from bokehdiff.preparation import DisparityModel, GuessedDisparity, TransformersDisparity, fit_to

logger = logging.getLogger(__name__)

Origin = Literal["file", "model", "guess"]
NO_MODEL = "none"
N_COLOURS = 256


@dataclass(frozen=True, eq=False)
class Depth:
    """Disparity of a photograph, and how far it can be trusted.

    Args:
        disparity: Of the photograph's size, in [0, 1], 1 nearest.
        origin: Where it is from.
        source: The same in words: the file's name, or the model's.
    """

    disparity: Float[Tensor, "1 h w"]
    origin: Origin
    source: str


def load_model(path_or_id: str, *, device: torch.device) -> DisparityModel | None:
    """The depth model; None if it is not wanted, or nowhere to be found, which is logged.

    Args:
        path_or_id: Local folder or hub id; "none" for none.
        device: Where it runs.
    """
    if path_or_id == NO_MODEL:
        return None
    try:
        return TransformersDisparity.from_pretrained(path_or_id, device=device)
    except MissingWeightsError as error:
        logger.warning("no depth model: %s; until then the app guesses disparity, and says so", error)
        return None


def depth_from_file(path: Path, name: str, size_hw: tuple[int, int], *, near_is_dark: bool, max_pixels: int) -> Depth:
    """Disparity that somebody brings, brought to the photograph's size and to [0, 1], which is logged.

    Args:
        path: The map.
        name: What messages call it.
        size_hw: Height and width of the photograph [px].
        near_is_dark: It holds small values where things are near, as depth does.
        max_pixels: Largest number of pixels that is read.
    """
    stored = load_disparity(path, max_pixels=max_pixels)
    fitted = fit_to(-stored if near_is_dark else stored, size_hw, path=Path(name))
    if float(fitted.min()) == float(fitted.max()):
        raise InputError(f"{name} holds one value everywhere, which tells no near from far")
    return Depth(normalise_disparity(fitted), "file", name)


def depth_of(image_srgb: Float[Tensor, "1 3 h w"], model: DisparityModel | None) -> Depth:
    """Disparity by the model, or by a guess where there is none.

    Args:
        image_srgb: The photograph.
        model: Predicts disparity; None if there is none.
    """
    if model is not None:
        return Depth(normalise_disparity(model.estimate(image_srgb).disparity.cpu()), "model", model.name)
    guess = GuessedDisparity()
    return Depth(normalise_disparity(guess.estimate(image_srgb).disparity), "guess", guess.name)


def depth_picture(
    disparity: Float[Tensor, "1 h w"], focus_disparity: float, size_hw: tuple[int, int]
) -> Float[Tensor, "1 3 h2 w2"]:
    """Disparity to look at: near is bright in every way of seeing (the map cividis), the plane in focus is outlined.

    Args:
        disparity: In [0, 1].
        focus_disparity: What is in focus.
        size_hw: Size of the picture [px].
    """
    from matplotlib import colormaps

    small = resize(disparity[None], size_hw)[0, 0].clamp(0.0, 1.0)
    table = torch.from_numpy(colormaps["cividis"](range(N_COLOURS))[:, :3]).float()
    picture = table[(small * (N_COLOURS - 1)).round().long()].permute(2, 0, 1)[None]
    nearer = (small > focus_disparity).float()[None, None]
    spread = torch.nn.functional.max_pool2d(nearer, 3, stride=1, padding=1)
    outline = (spread + torch.nn.functional.max_pool2d(-nearer, 3, stride=1, padding=1)) > 0
    return torch.where(outline, torch.ones_like(picture), picture)
