"""What a method is asked for when it is measured: a photograph, its disparity, a lens, and what the lens saw."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import Lens


@dataclass(frozen=True)
class Case:
    """One picture to be made.

    Args:
        dataset: Where it is from.
        name: Of the picture.
        image_linear: All in focus, linear light; HDR above 1 allowed.
        disparity: In the units of the lens.
        lens: What is asked for.
        reference_linear: What the lens saw.
    """

    dataset: str
    name: str
    image_linear: Float[Tensor, "1 3 h w"]
    disparity: Float[Tensor, "1 h w"]
    lens: Lens
    reference_linear: Float[Tensor, "1 3 h w"]

    @property
    def blur_px(self) -> float:
        """Largest circle of confusion asked for [px]."""
        return float(self.lens.coc_px(self.disparity).abs().max())


def lens_ground_truth(folder: Path) -> Iterator[Case]:
    """Path-traced scenes: NAME.npz with aif, disparity and bokeh_VIEW in linear light, NAME.json with each view's lens.

    Args:
        folder: Where they lie.
    """
    scenes = sorted(folder.glob("*.npz"))
    if not scenes:
        raise InputError(f"{folder} holds no scenes NAME.npz with NAME.json")
    for scene in scenes:
        description = scene.with_suffix(".json")
        if not description.is_file():
            raise InputError(f"{scene} needs {description.name} beside it, which tells its lenses")
        views = json.loads(description.read_text(encoding="utf-8"))["views"]
        with np.load(scene) as arrays:
            image_linear, disparity = _image(arrays["aif"]), torch.from_numpy(arrays["disparity"]).float()[None]
            for view, lens in views.items():
                yield Case(
                    dataset="lens ground truth",
                    name=f"{scene.stem} {view}",
                    image_linear=image_linear,
                    disparity=disparity,
                    lens=Lens(float(lens["focus"]), float(lens["K_px_per_disparity"])),
                    reference_linear=_image(arrays[f"bokeh_{view}"]),
                )


def _image(array: np.ndarray) -> Float[Tensor, "1 3 h w"]:
    return torch.from_numpy(array).float().permute(2, 0, 1)[None].contiguous()
