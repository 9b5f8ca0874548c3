"""Draw what the shipped tiny SDXL and its adapter make of test_data: python docs/figures/tiny.py"""

from __future__ import annotations

from pathlib import Path

from bokehdiff.data import find_scenes, load_scene
from bokehdiff.images import linear_to_srgb, save_image, srgb_to_linear
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.optics import Lens, focus_from_mask
from bokehdiff.pictures import contact_sheet
from bokehdiff.renderers import render_photo

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = REPOSITORY / "assets"
BACKGROUND = 0.1  # disparity of the shelves
PICTURES = ((12.0, None), (30.0, None), (24.0, BACKGROUND))  # strength [px], focus; None for the subject


def main() -> None:
    """Two strengths, and the focus moved; each as the network draws it, above what physics says."""
    (paths,) = find_scenes(str(REPOSITORY / "test_data" / "input" / "motorcycle*"))
    scene = load_scene(paths)
    subject = float(focus_from_mask(scene.disparity, scene.mask))
    pipe = BokehDiffPipeline.from_pretrained(ASSETS / "tiny-sdxl", adapter=ASSETS / "tiny-sdxl-bokeh")
    image_linear = srgb_to_linear(scene.image_srgb)
    for name in ("neural", "physical"):
        columns = {"photograph": scene.image_srgb}
        for strength_px, focus in PICTURES:
            lens = Lens(subject if focus is None else focus, strength_px)
            where = "motorcycle" if focus is None else "shelves"
            if name == "neural":
                (result,) = pipe.render_lenses(scene.image_srgb, scene.disparity, [lens])
                picture = result.images_srgb
            else:
                picture = linear_to_srgb(render_photo(image_linear, scene.disparity, lens))
            columns[f"{name}, focus on the {where}, K = {strength_px:g} px"] = picture
        save_image(Path(__file__).with_name(f"tiny_{name}.jpg"), contact_sheet(columns, n_across=2), quality=88)


if __name__ == "__main__":
    main()
