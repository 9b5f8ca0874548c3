"""A photograph of two halves, near on the left and far on the right, both full of detail that blur takes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bokehdiff.images import save_disparity, save_image

SIDE_PX = 8  # of the checks
SIZE_HW = (160, 240)


def two_halves(folder: Path, *, size_hw: tuple[int, int] = SIZE_HW, exif: bytes = b"") -> tuple[Path, Path]:
    """Files of the photograph and of its disparity."""
    height, width = size_hw
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    checks = ((x // SIDE_PX + y // SIDE_PX) % 2).float()
    image = (0.2 + 0.6 * checks).expand(1, 3, height, width)
    disparity = (x < width // 2).float()[None]
    save_image(folder / "halves.png", image, exif=exif)
    save_disparity(folder / "halves_disparity.png", disparity)
    return folder / "halves.png", folder / "halves_disparity.png"


def detail(image_srgb: Tensor) -> tuple[float, float]:
    """Contrast of the left and of the right half, away from the edge between them."""
    width = image_srgb.shape[-1]
    left, right = image_srgb[..., : 3 * width // 8], image_srgb[..., 5 * width // 8 :]
    return float(left.std()), float(right.std())


def picture_of(file: Path) -> Tensor:
    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255.0
