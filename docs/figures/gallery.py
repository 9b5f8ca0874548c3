"""Lay photographs of scikit-image out as a folder to render, their depth guessed: python docs/figures/gallery.py"""

from __future__ import annotations

from pathlib import Path

import skimage
import torch

from bokehdiff.images import load_photo, make_folder, save_disparity, save_image
from bokehdiff.optics import normalise_disparity
from bokehdiff.preparation import GuessedDisparity

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "outputs" / "gallery"
NAMES = ("coffee", "chelsea")


def main() -> None:
    """Write outputs/gallery/input/NAME.png and outputs/gallery/depth/NAME_pred.npy."""
    make_folder(FOLDER / "input")
    make_folder(FOLDER / "depth")
    for name in NAMES:
        image_srgb = load_photo(Path(skimage.__file__).parent / "data" / f"{name}.png").image_srgb
        with torch.no_grad():
            disparity = normalise_disparity(GuessedDisparity().estimate(image_srgb).disparity)
        save_image(FOLDER / "input" / f"{name}.png", image_srgb)
        save_disparity(FOLDER / "depth" / f"{name}_pred.npy", disparity)
    print(f"wrote {', '.join(NAMES)} to {FOLDER.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
