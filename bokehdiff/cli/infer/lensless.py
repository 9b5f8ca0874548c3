"""Networks that know no lens: one picture of each photograph, as wide as those that they were trained with."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

import bokehdiff
from bokehdiff.cli.infer.options import InferOptions
from bokehdiff.cli.photographs import render_each
from bokehdiff.data import ScenePaths, find_photographs, find_scenes, load_scene
from bokehdiff.errors import at_fault
from bokehdiff.images import load_photo, make_folder, save_image
from bokehdiff.inference import BaselineRenderer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photograph:
    """A photograph that needs no disparity.

    Args:
        name: Without suffix.
        path: Of the file.
    """

    name: str
    path: Path


def render_lensless(renderer: BaselineRenderer, options: InferOptions) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others.

    Args:
        renderer: Does not need a lens.
        options: The command line.

    Returns:
        0 if all were rendered, else 1.
    """
    files = options.files
    with at_fault("--test-data-dir"):
        photographs: Sequence[ScenePaths | Photograph]
        if renderer.spec.needs_disparity:
            photographs = find_scenes(
                options.test_data_dir,
                depth_dirname=files.depth_dirname,
                mask_dirname=files.mask_dirname,
                organization=files.organization,
            )
        else:
            found = find_photographs(options.test_data_dir, organization=files.organization)
            photographs = [Photograph(path.stem, path) for path in found]
    return render_each(photographs, lambda photograph: _render(renderer, photograph, options))


def _render(renderer: BaselineRenderer, photograph: ScenePaths | Photograph, options: InferOptions) -> Iterator[Path]:
    """The picture of one photograph; the file appears whole or not at all."""
    files = options.files
    with at_fault("--output-dir"):
        folder = make_folder(Path(options.output_dir) / options.data_id)
    path = folder / f"{photograph.name}_{options.picture.renderer}.{files.format}"
    if files.skip_existing and path.exists():
        logger.info("%s: its picture is there and left alone", photograph.name)
        return
    with at_fault("--test-data-dir"):
        if isinstance(photograph, ScenePaths):
            scene = load_scene(photograph, invert_disparity=files.invert_disparity)
            image_srgb, disparity, exif = scene.image_srgb, scene.disparity, scene.exif
        else:
            photo = load_photo(photograph.path)
            image_srgb, disparity, exif = photo.image_srgb, None, photo.exif
    picture = renderer(image_srgb, disparity=disparity)
    save_image(path, picture, bit_depth=files.bit_depth, exif=exif, text=_note(renderer, options))
    yield path


def _note(renderer: BaselineRenderer, options: InferOptions) -> str:
    """How the picture was made, as YAML; places on this machine by their last name."""
    made = {
        "made_by": f"bokehdiff {bokehdiff.__version__} infer",
        "renderer": options.picture.renderer,
        "weights": Path(options.model.baseline_weights or "").name,
        **dataclasses.asdict(renderer.spec),
    }
    return yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
