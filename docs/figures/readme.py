"""Draw the README's picture from test_data, by physics and by the shipped network: python docs/figures/readme.py"""

from __future__ import annotations

from pathlib import Path

from bokehdiff.data import find_scenes, load_scene
from bokehdiff.images import linear_to_srgb, save_image, srgb_to_linear
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.optics import Lens, focus_from_mask
from bokehdiff.pictures import colour_disparity, contact_sheet
from bokehdiff.renderers import render_photo

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "assets"
STRENGTH_PX = 24.0
BACKGROUND = 0.1  # disparity of the shelves


def main() -> None:
    """Render the motorcycle with the focus on it and behind it: physics above, one step of diffusion below."""
    (paths,) = find_scenes(str(REPOSITORY / "test_data" / "input" / "motorcycle*"))
    scene = load_scene(paths)
    subject = Lens(float(focus_from_mask(scene.disparity, scene.mask)), STRENGTH_PX)
    shelves = Lens(BACKGROUND, STRENGTH_PX)
    pipe = BokehDiffPipeline.from_pretrained(ASSETS / "tiny-sdxl", adapter=ASSETS / "tiny-sdxl-bokeh")
    image_linear = srgb_to_linear(scene.image_srgb)
    physical = [linear_to_srgb(render_photo(image_linear, scene.disparity, lens)) for lens in (subject, shelves)]
    neural = [made.images_srgb for made in pipe.render_lenses(scene.image_srgb, scene.disparity, [subject, shelves])]
    sheet = {
        "photograph": scene.image_srgb,
        "physics, focus on the motorcycle": physical[0],
        "physics, focus on the shelves": physical[1],
        "disparity (yellow is near)": colour_disparity(scene.disparity),
        "tiny SDXL, focus on the motorcycle": neural[0],
        "tiny SDXL, focus on the shelves": neural[1],
    }
    save_image(Path(__file__).with_suffix(".jpg"), contact_sheet(sheet, n_across=3), quality=88)


if __name__ == "__main__":
    main()
