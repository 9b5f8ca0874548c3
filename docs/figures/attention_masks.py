"""Draw docs/figures/attention_masks.png: where the light of single tokens goes on a photograph, in both conventions.

    python docs/figures/attention_masks.py

The photograph and its measured disparity are scikit-image's `stereo_motorcycle` (Middlebury 2014, CC0).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage import data
from torch import Tensor

from bokehdiff.attention import INFERENCE_HARDNESS, TokenOptics
from bokehdiff.attention.visibility import log_soft_disc
from bokehdiff.optics import circle_of_confusion, focus_from_pixel, normalise_disparity

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TOKEN_PX = 16
STRENGTH_PX = 110.0
# Where the lens focuses and which token sends light, (x, y) [px].
SHOTS = (
    ("focus: motorcycle, source: bench", (400, 250), (88, 216)),
    ("focus: motorcycle, source: wall", (400, 250), (360, 104)),
    ("focus: wall, source: tank", (620, 60), (392, 152)),
)


def photograph() -> tuple[np.ndarray, Tensor]:
    """The left photograph, cut to whole tokens, and its disparity; holes take the nearest measured value."""
    left, _, disparity = data.stereo_motorcycle()
    unknown = ~np.isfinite(disparity)
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    filled = torch.from_numpy(disparity[tuple(nearest)].astype(np.float32))[None]
    height, width = (size // TOKEN_PX * TOKEN_PX for size in disparity.shape)
    return left[:height, :width], normalise_disparity(filled[:, :height, :width])


def light_of(optics: TokenOptics, source: int) -> tuple[Tensor, Tensor]:
    """Soft disc C of a source over all receivers, and the part of it that is visible: two [h w] of tokens."""
    pairs = optics.of_sources(slice(source, source + 1))
    disc = log_soft_disc(optics.coc[:, source : source + 1], pairs.distance, INFERENCE_HARDNESS).exp()
    return disc.reshape(optics.grid_hw), (disc * pairs.visibility).reshape(optics.grid_hw)


def draw(path: Path) -> None:
    """One row per shot: its circles of confusion, the source's disc, and what of it arrives by either convention."""
    image, disparity = photograph()
    height, width = image.shape[:2]
    grid_hw = (height // TOKEN_PX, width // TOKEN_PX)
    figure, axes = plt.subplots(len(SHOTS), 4, figsize=(12, 6.4), layout="constrained")
    for row, (title, focus_xy, (x, y)) in zip(axes, SHOTS, strict=True):
        focus = focus_from_pixel(disparity, *focus_xy)
        coc_px = circle_of_confusion(disparity, focus, STRENGTH_PX)
        thin, released = (
            TokenOptics.from_maps(disparity, coc_px, grid_hw, focus_disparity=focus, convention=convention)
            for convention in ("thin_lens", "released")
        )
        source = y // TOKEN_PX * grid_hw[1] + x // TOKEN_PX
        disc, light = light_of(thin, source)
        _, light_released = light_of(released, source)
        row[0].imshow(coc_px[0], cmap="coolwarm", vmin=-STRENGTH_PX, vmax=STRENGTH_PX)
        row[0].set_title(title, fontsize=9)
        for axis, mask, name in zip(
            row[1:], (disc, light, light_released), ("soft disc C", "thin_lens", "released"), strict=True
        ):
            axis.imshow(image)
            shown = np.ma.masked_less(mask.numpy(), 0.02)
            axis.imshow(shown, extent=(0, width, height, 0), cmap="viridis", vmin=0, vmax=1, alpha=0.8)
            axis.set_title(name, fontsize=9)
        for axis in row:
            axis.plot(x, y, "r+", markersize=9, markeredgewidth=1.6)
            axis.set_axis_off()
    figure.savefig(path, dpi=90)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size, colours as good


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
