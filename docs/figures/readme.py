"""Draw the README's picture from test_data: python docs/figures/readme.py"""

from __future__ import annotations

from pathlib import Path

from bokehdiff.data import find_scenes, load_scene
from bokehdiff.images import linear_to_srgb, save_image, srgb_to_linear
from bokehdiff.optics import Lens, focus_from_mask
from bokehdiff.pictures import colour_disparity, contact_sheet
from bokehdiff.renderers import render_photo

REPOSITORY = Path(__file__).resolve().parents[2]
STRENGTH_PX = 24.0
BACKGROUND = 0.1  # disparity of the shelves


def main() -> None:
    """Render the motorcycle with the focus on it and behind it."""
    (paths,) = find_scenes(str(REPOSITORY / "test_data" / "input" / "motorcycle*"))
    scene = load_scene(paths)
    image_linear = srgb_to_linear(scene.image_srgb)
    subject = float(focus_from_mask(scene.disparity, scene.mask))
    columns = {"photograph": scene.image_srgb, "disparity (yellow is near)": colour_disparity(scene.disparity)}
    for caption, focus in (("focus on the motorcycle", subject), ("focus on the shelves", BACKGROUND)):
        columns[caption] = linear_to_srgb(render_photo(image_linear, scene.disparity, Lens(focus, STRENGTH_PX)))
    save_image(Path(__file__).with_suffix(".jpg"), contact_sheet(columns), quality=90)


if __name__ == "__main__":
    main()
