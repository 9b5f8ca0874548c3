"""Draw docs/figures/defocus.jpg: depth found from two defocused images of a view, and what it explains.

    python docs/figures/defocus.py

The view is drawn and blurred by the layered tracer; depth is found through the renderer of photographs, with focus and
strength unknown. Prints the numbers of docs/defocus.md.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from torch import Tensor

from bokehdiff.data import synthetic_background
from bokehdiff.images import linear_to_srgb, save_image, srgb_to_linear
from bokehdiff.optics import Lens
from bokehdiff.pictures import colour_disparity, contact_sheet
from bokehdiff.preparation import depth_from_defocus
from bokehdiff.renderers import LayerStack, render_layers, render_photo

logger = logging.getLogger(__name__)

SIZE_PX = 240
LENSES = (Lens(1.0, 16.0), Lens(0.0, 16.0))
ERROR_SHOWN = 0.2  # of the range of disparity: white


def scene() -> LayerStack:
    """A ground that tilts from 0 to 0.45, a ball-shaped card at 0.7 and a box at 1."""
    colours = [srgb_to_linear(synthetic_background(3, 4 * n, size_px=SIZE_PX, photographs=False)) for n in range(3)]
    y, x = torch.meshgrid(*(torch.arange(SIZE_PX) / SIZE_PX,) * 2, indexing="ij")
    disc = (8.0 + 0.5 - SIZE_PX * ((x - 0.33).hypot(y - 0.36) - 0.2)).clamp(0.0, 1.0)
    box = ((x > 0.5) & (x < 0.86) & (y > 0.55) & (y < 0.88)).float()
    coverage = (box, disc, torch.ones_like(x))
    layers = [
        torch.cat([c * a, a.expand(1, 1, -1, -1)], dim=1) for c, a in zip(reversed(colours), coverage, strict=True)
    ]
    planes = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.45 / SIZE_PX]])
    return LayerStack(torch.stack(layers, dim=1), planes[None])


def shown(image_linear: Tensor) -> Tensor:
    """Display values."""
    return linear_to_srgb(image_linear[:, :3]).clamp(0.0, 1.0)


def draw(path: Path) -> None:
    """Two rows: what is given and what is found."""
    stack = scene()
    sharp = render_layers(stack, Lens(0.0, 0.0), n_samples=512)[:, :3]
    blurred = shown(torch.cat([render_layers(stack, lens, n_samples=512) for lens in LENSES]))
    nearest = (stack.rgba_linear[0, :, 3] > 0.5).float().argmax(dim=0)
    disparity = stack.disparity()[0].gather(0, nearest[None])
    start = time.perf_counter()
    found = depth_from_defocus(shown(sharp), blurred, first_focus="nearest")
    logger.info(f"{time.perf_counter() - start:.0f} s, focus {found.focus_disparity}, strength {found.strength_px}")
    logger.info(
        f"PSNR before {found.residual_before_db}, swept {found.residual_swept_db}, after {found.residual_after_db}"
    )
    error = (found.disparity - disparity).abs()
    logger.info(f"error of disparity: median {float(error.median()):.4f}, mean {float(error.mean()):.4f}")
    pictures = [shown(render_photo(sharp, found.disparity, lens, method="occlusion_aware")) for lens in found.lenses]
    grey = (error / ERROR_SHOWN).clamp(max=1.0)[:, None].expand(-1, 3, -1, -1)
    given = contact_sheet(
        {
            "sharp": shown(sharp),
            "focused near": blurred[:1],
            "focused far": blurred[1:],
            "true disparity": colour_disparity(disparity),
        }
    )
    result = contact_sheet(
        {
            "error, white 0.2": grey,
            "rendered near": pictures[0],
            "rendered far": pictures[1],
            "found": colour_disparity(found.disparity),
        }
    )
    save_image(path, torch.cat([given, result], dim=2), quality=85)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    draw(Path(__file__).with_name("defocus.jpg"))
