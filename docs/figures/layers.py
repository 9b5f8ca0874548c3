"""Draw docs/figures/layers.png: openings as dots show them, the points of the lens, planes that cross.

    python docs/figures/layers.py

Everything but the points is traced by `render_layers`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import LayerStack, render_layers

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HEIGHT, WIDTH, SPACING, RADIUS_PX = 150, 200, 50, 18.0
N_SAMPLES = 600


def heart() -> Tensor:
    """A map of transmission."""
    x, y = torch.meshgrid(torch.linspace(-1.3, 1.3, 65), torch.linspace(-1.3, 1.3, 65), indexing="xy")
    return ((x.square() + y.square() - 0.7) ** 3 + x.square() * y**3 < 0).float()


OPENINGS = {
    "disc": Lens(0.5, 1.0),
    "blades=5": Lens(0.5, 1.0, Aperture(blades=5)),
    "blades=6, rounding=0.6": Lens(0.5, 1.0, Aperture(blades=6, rounding=0.6, rotation_deg=15.0)),
    "transmission=heart": Lens(0.5, 1.0, Aperture(transmission=heart())),
    "edge=0.9 (soap bubbles)": Lens(0.5, 1.0, Aperture(edge=0.9)),
    "edge=-0.9 (smooth)": Lens(0.5, 1.0, Aperture(edge=-0.9)),
    "cat_eye=0.9": Lens(0.5, 1.0, Aperture(cat_eye=0.9)),
    "cat_eye=0.9, falloff=True": Lens(0.5, 1.0, Aperture(cat_eye=0.9, falloff=True)),
    "focus_shift_rgb=(-0.03, 0, 0.03)": Lens(0.5, 1.0, focus_shift_rgb=(-0.03, 0.0, 0.03)),
    "magnification_rgb=(0.98, 1, 1.02)": Lens(0.5, 1.0, magnification_rgb=(0.98, 1.0, 1.02)),
}


def dots() -> LayerStack:
    """Lights on black: the upper row behind the focus, the lower two before it."""
    lights = torch.zeros(2, 3, HEIGHT, WIDTH)
    for y in range(SPACING // 2, HEIGHT, SPACING):
        for x in range(SPACING // 2, WIDTH, SPACING):
            lights[int(y > SPACING), :, y - 1 : y + 1, x - 1 : x + 1] = 90.0
    behind = torch.cat([lights[0], torch.ones(1, HEIGHT, WIDTH)])
    before = torch.cat([lights[1], (lights[1, :1] > 0).float()])
    planes = torch.tensor([[[0.8, 0.0, 0.0], [0.2, 0.0, 0.0]]])
    return LayerStack(torch.stack([before, behind])[None], planes)


def crossing() -> LayerStack:
    """A red and a blue sheet with stripes, each the nearer one on its side."""
    stripes = 0.25 + 0.75 * ((torch.arange(WIDTH) // 10 % 2) * (torch.arange(HEIGHT) // 10 % 2)[:, None]).float()
    red, blue = (stripes * torch.tensor(colour).view(3, 1, 1) for colour in ((1.0, 0.2, 0.1), (0.1, 0.3, 1.0)))
    whole = torch.ones(1, HEIGHT, WIDTH)
    planes = torch.tensor([[[0.1, 0.8 / WIDTH, 0.0], [0.9, -0.8 / WIDTH, 0.0]]])
    return LayerStack(torch.stack([torch.cat([red, whole]), torch.cat([blue, whole])])[None], planes)


def show(axis: Axes, rgba_linear: Tensor, title: str) -> None:
    """A picture as screens show it."""
    axis.imshow(rgba_linear[0, :3].clamp(0, 1).permute(1, 2, 0).numpy() ** (1 / 2.2))
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def draw(path: Path) -> None:
    """Draw the figure."""
    figure, axes = plt.subplots(3, 5, figsize=(15, 7.4), layout="constrained")
    scene = dots()
    for axis, (name, lens) in zip(axes[:2].flat, OPENINGS.items(), strict=True):
        wide = replace(lens, strength_px=RADIUS_PX / 0.3)
        show(axis, render_layers(scene, wide, n_samples=N_SAMPLES), name)
    for axis, (title, aperture) in zip(
        axes[2, :2], (("256 points of a disc", Aperture()), ("256 points of 5 blades", Aperture(blades=5))), strict=True
    ):
        x, y = aperture.sample(256).T
        axis.scatter(x, y, s=5, c=np.arange(256), cmap="viridis")
        axis.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(1.1, -1.1))
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    planes = crossing()
    shots = (
        ("crossing planes, closed lens", 0.0, 0.5),
        ("focus where they cross", 40.0, 0.5),
        ("focus near", 40.0, 0.9),
    )
    for axis, (title, strength_px, focus) in zip(axes[2, 2:], shots, strict=True):
        show(axis, render_layers(planes, Lens(focus, strength_px)), title)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
