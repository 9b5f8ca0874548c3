"""Draw docs/figures/photo_renderers.png: hair before a wall of lights, its truth and what each method makes of it.

    python docs/figures/photo_renderers.py

The scene is drawn at twice the size and traced through 256 lens points; methods see one disparity per pixel.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.optics import Lens
from bokehdiff.renderers import METHODS, LayerStack, render_layers, render_photo
from bokehdiff.renderers.edge_matte import edge_matte
from bokehdiff.renderers.layered import steepen_edges

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZE_PX, ENLARGED, OVERSAMPLED = 240, 2, 4
NEAR, FAR, STRENGTH_PX = 0.8, 0.2, 24.0
SHOTS = (("subject in focus", NEAR), ("wall in focus", FAR))


def head() -> np.ndarray:
    """Coverage of a round head with strands of hair around it."""
    rng = np.random.default_rng(3)
    scale = ENLARGED * OVERSAMPLED
    canvas = np.zeros((SIZE_PX * scale,) * 2, np.uint8)
    cv2.ellipse(canvas, (120 * scale, 150 * scale), (58 * scale, 70 * scale), 0, 0, 360, 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, 150):
        place, heading, path = np.array([120 + 57 * np.cos(angle), 150 + 69 * np.sin(angle)]), angle, []
        for _ in range(int(rng.integers(15, 40))):
            path.append(place * scale)
            heading += rng.normal(0, 0.12)
            place = place + 1.4 * np.array([np.cos(heading), np.sin(heading)])
        cv2.polylines(canvas, [np.array(path).astype(np.int32)], False, 255, int(rng.uniform(0.4, 1.4) * scale))
    return cv2.resize(canvas, (SIZE_PX * ENLARGED,) * 2, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def wall() -> np.ndarray:
    """Coloured tiles in linear light, with small lights."""
    rng = np.random.default_rng(5)
    tiles = rng.uniform(0.03, 0.5, (12, 12, 3)).astype(np.float32)
    image = cv2.resize(tiles, (SIZE_PX * ENLARGED,) * 2, interpolation=cv2.INTER_NEAREST)
    for x, y in rng.integers(4, SIZE_PX * ENLARGED - 4, (30, 2)):
        image[y - 2 : y + 3, x - 2 : x + 3] = rng.uniform(3, 12) * rng.uniform(0.6, 1.0, 3)
    return image


def scene() -> LayerStack:
    """The head before the wall."""
    cover, behind = head()[..., None], wall()
    rows = np.linspace(0, 40, SIZE_PX * ENLARGED, dtype=np.float32)[:, None, None]
    colour = 0.25 + 0.2 * np.sin(rows) * np.array([1.0, 0.5, -0.5], np.float32)
    layers = [np.concatenate([colour * cover, cover], 2), np.concatenate([behind, np.ones_like(cover)], 2)]
    rgba = torch.from_numpy(np.stack(layers).astype(np.float32)).permute(0, 3, 1, 2)[None]
    return LayerStack(rgba, torch.tensor([[[NEAR, 0.0, 0.0], [FAR, 0.0, 0.0]]]))


def shown(image_linear: Tensor) -> np.ndarray:
    """The picture as screens show it."""
    return image_linear[0].clamp(0, 1).permute(1, 2, 0).numpy() ** (1 / 2.2)


def draw(path: Path) -> None:
    """Draw the figure."""
    stack = scene()
    image = F.avg_pool2d(stack.composite()[:, :3], ENLARGED)
    disparity = torch.where(F.avg_pool2d(stack.rgba_linear[:, 0, 3:], ENLARGED)[:, 0] > 0.5, NEAR, FAR)
    figure, axes = plt.subplots(2, 5, figsize=(15, 6.3), layout="constrained")
    matte = edge_matte(image, steepen_edges(STRENGTH_PX * (disparity - FAR)))
    share = torch.where(matte.band, matte.share, (disparity > FAR).float())
    for axis, picture, title in zip(
        axes[:, 0], (shown(image), share[0].numpy()), ("all in focus", "share read from colours"), strict=True
    ):
        axis.imshow(picture, cmap="gray")
        axis.set_title(title)
    for row, (name, focus) in zip(axes, SHOTS, strict=True):
        lens = Lens(focus, STRENGTH_PX)
        truth = F.avg_pool2d(render_layers(stack, lens.resized(ENLARGED))[:, :3], ENLARGED)
        row[1].imshow(shown(truth))
        row[1].set_title(f"truth: {name}")
        for axis, method in zip(row[2:], METHODS, strict=True):
            got = render_photo(image, disparity, lens, method=method)
            error = np.square(shown(got) - shown(truth)).mean()
            axis.imshow(shown(got))
            axis.set_title(f"{method}: {-10 * np.log10(error):.1f} dB")
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
