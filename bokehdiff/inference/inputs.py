"""Photographs and maps as people have them, as the tensors that are worked on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bokehdiff.errors import InputError

Photographs: TypeAlias = Tensor | Image.Image | Sequence[Image.Image]
Maps: TypeAlias = Tensor | np.ndarray


def as_images(photographs: Photographs) -> Float[Tensor, "b 3 h w"]:
    """Display images in [0, 1].

    Args:
        photographs: A tensor [b 3 h w] or [3 h w]; or Pillow images of one size, in any mode that has colours.
    """
    if isinstance(photographs, Tensor):
        images = photographs if photographs.ndim == 4 else photographs[None]
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise InputError(
                f"photographs must be float [b, 3, h, w] in [0, 1]; got {images.dtype} {list(photographs.shape)}"
            )
        return images.float()
    pictures = [photographs] if isinstance(photographs, Image.Image) else list(photographs)
    if len({picture.size for picture in pictures}) != 1:
        raise InputError(f"a batch needs photographs of one size; got {[picture.size for picture in pictures]}")
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0


def as_planes(maps: Maps, images_srgb: Float[Tensor, "b 3 h w"], *, what: str) -> Float[Tensor, "b h w"]:
    """A map per image, in [0, 1] and of the images' size.

    Args:
        maps: A tensor or an array [b h w] or [h w].
        images_srgb: What the maps belong to.
        what: What messages call them.
    """
    planes = torch.as_tensor(maps).float()
    planes = planes if planes.ndim == 3 else planes[None]
    if planes.shape[1:] != images_srgb.shape[2:]:
        raise InputError(
            f"{what} must have the size of the image, {list(images_srgb.shape[2:])}; got {list(planes.shape[1:])}"
        )
    if len(planes) != len(images_srgb):
        raise InputError(f"{what} must be one for each image; got {len(planes)} for {len(images_srgb)}")
    if not bool(((planes >= 0.0) & (planes <= 1.0)).all()):
        raise InputError(f"{what} must be in [0, 1]; got {planes.min():g} to {planes.max():g}")
    return planes
