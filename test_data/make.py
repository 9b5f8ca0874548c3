"""Make the scenes of this folder again: `python test_data/make.py`. Origin and licence of each stand in README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bokehdiff.data import (
    Composition,
    Ground,
    Recipe,
    Shot,
    Subject,
    compose,
    scenery_light,
    subject_light,
    synthetic_background,
    synthetic_foreground,
)
from bokehdiff.images import linear_to_srgb, resize, save_disparity, save_image, srgb_to_linear
from bokehdiff.optics import Lens, normalise_disparity

HERE = Path(__file__).resolve().parent
MOTORCYCLE_WIDTH_PX = 480
PROCEDURAL_PX = 256
FLOOR_ROWS = slice(440, 500)  # of the motorcycle's picture: floor only, but for the front wheel's lowest rows
SUBJECT_DISPARITY_PX = 36.0  # the motorcycle is nearer than this, the garage behind it is not
FLOOR_CLEARANCE_PX = 2.5  # and this much nearer than the floor at the same place


def filled(disparity_px: np.ndarray) -> np.ndarray:
    """Unmeasured pixels (not finite) take the farther of the nearest measured ones to their left and right.

    They are mostly what the other camera could not see: background beside an edge.
    """
    measured = np.isfinite(disparity_px)
    columns = np.arange(disparity_px.shape[1])
    left = np.maximum.accumulate(np.where(measured, columns, -1), axis=1)
    right = np.minimum.accumulate(np.where(measured, columns, len(columns))[:, ::-1], axis=1)[:, ::-1]
    rows = np.arange(len(disparity_px))[:, None]
    padded = np.pad(np.where(measured, disparity_px, np.inf), ((0, 0), (1, 1)), constant_values=np.inf)
    return np.minimum(padded[rows, left + 1], padded[rows, right + 1])


def subject_above_floor(disparity_px: np.ndarray) -> np.ndarray:
    """What is near, but nearer than the floor: the floor is a plane, fitted where the picture shows nothing else."""
    y, x = np.mgrid[: disparity_px.shape[0], : disparity_px.shape[1]]
    design = np.stack([np.ones(x.shape), x, y], axis=-1)
    floor = design[FLOOR_ROWS].reshape(-1, 3)
    plane, *_ = np.linalg.lstsq(floor, disparity_px[FLOOR_ROWS].ravel(), rcond=None)
    return (disparity_px > SUBJECT_DISPARITY_PX) & (disparity_px > design @ plane + FLOOR_CLEARANCE_PX)


def write_scene(name: str, image_srgb: Tensor, disparity: Tensor, mask: Tensor) -> None:
    """Write input/NAME.jpg, depth/NAME_pred.npy and mask/NAME.png."""
    for folder in ("input", "depth", "mask"):
        (HERE / folder).mkdir(exist_ok=True)
    save_image(HERE / "input" / f"{name}.jpg", image_srgb.clamp(0, 1), quality=93)
    save_disparity(HERE / "depth" / f"{name}_pred.npy", disparity)
    save_image(HERE / "mask" / f"{name}.png", mask[:, None].expand(-1, 3, -1, -1))


def motorcycle() -> None:
    """A photograph with measured disparity."""
    from skimage.data import stereo_motorcycle

    photograph, _, disparity_px = stereo_motorcycle()
    complete = filled(disparity_px.astype(np.float64))
    height, width = complete.shape
    size_hw = (round(height * MOTORCYCLE_WIDTH_PX / width), MOTORCYCLE_WIDTH_PX)
    linear = srgb_to_linear(torch.from_numpy(photograph).permute(2, 0, 1)[None].float() / 255)
    mask = torch.from_numpy(subject_above_floor(complete).astype(np.float32))[None, None]
    # Disparity is picked, not averaged: between the motorcycle and the wall there is nothing.
    disparity = torch.nn.functional.interpolate(
        torch.from_numpy(complete.astype(np.float32))[None, None], size=size_hw, mode="nearest-exact"
    )[0]
    write_scene(
        "motorcycle", linear_to_srgb(resize(linear, size_hw)), normalise_disparity(disparity), resize(mask, size_hw)[0]
    )


def procedural(name: str, *, foreground: int, background: int, scale: float) -> None:
    """A subject before a tilted background, composed as training samples are; disparity and mask are exact."""
    size = PROCEDURAL_PX
    low, high, level = 0.05, 0.25, 0.8
    down = Ground(0, (0.0, 0.0), np.pi / 2, (-size / 2, size / 2), (high, low))
    recipe = Recipe((Subject(0, scale, (0.0, 0.0), level),), down, Lens(level, 0.0), Shot(flip=True))
    composition = Composition(resolution_px=size, image_to_crop=1.0)
    subject = subject_light(synthetic_foreground(0, foreground, size_px=2 * size)[0].flip(1), composition)
    scenery = synthetic_background(0, background, size_px=2 * size, photographs=False)[0].flip(1)
    sample = compose(recipe, [subject], scenery_light(scenery, composition), composition=composition)
    y = torch.arange(size).flip(0)[:, None] + 0.5
    behind = high + (low - high) * y / size
    mask = ((sample.disparity - behind) / (level - behind)).clamp(0, 1)
    write_scene(name, sample.image_srgb[None], sample.disparity[None], mask[None])


if __name__ == "__main__":
    motorcycle()
    procedural("hair", foreground=11, background=0, scale=0.9)
    procedural("leaves", foreground=15, background=5, scale=0.8)
