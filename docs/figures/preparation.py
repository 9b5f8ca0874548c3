"""Draw docs/figures/preparation.jpg: disparity as wrong as networks make it, and fitted to the photograph's edges.

    python docs/figures/preparation.py

The truth is that of test_data; it is grown by a pixel, misplaced by one and blurred by two.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bokehdiff.data import Told, find_scenes, load_scene
from bokehdiff.data.told import told_disparity
from bokehdiff.images import save_image
from bokehdiff.pictures import colour_disparity, contact_sheet
from bokehdiff.preparation import fit_disparity

INPUT = Path(__file__).resolve().parents[2] / "test_data" / "input"
SHOWN_PX = 220  # of each scene, from its middle
WRONG = Told(growth_px=1, misplaced_px=1.0, blur_px=2.0, dice=1)


def rows(name: str) -> dict[str, torch.Tensor]:
    """The pictures of one scene by caption."""
    (paths,) = find_scenes(INPUT / f"{name}.jpg")
    scene = load_scene(paths)
    wrong = told_disparity(scene.disparity[0], WRONG)[None]
    pictures = {
        "photograph": scene.image_srgb,
        "as networks give it": colour_disparity(wrong),
        "--refine-disparity": colour_disparity(fit_disparity(wrong, scene.image_srgb)),
        "the truth": colour_disparity(scene.disparity),
    }
    top, left = ((side - SHOWN_PX) // 2 for side in scene.disparity.shape[1:])
    return {
        caption: picture[..., top : top + SHOWN_PX, left : left + SHOWN_PX] for caption, picture in pictures.items()
    }


def main() -> None:
    """Draw two scenes below each other."""
    scenes = [rows(name) for name in ("motorcycle", "leaves")]
    columns = {caption: torch.cat([scene[caption] for scene in scenes]) for caption in scenes[0]}
    save_image(Path(__file__).with_suffix(".jpg"), contact_sheet(columns), quality=88)


if __name__ == "__main__":
    main()
