"""Photographs to try the app on that are on this machine already, and may be used."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bokehdiff.images import load_photo, resize, save_image

THUMBNAIL_PX = 240  # shorter side
TEST_DATA = Path(__file__).parents[2] / "test_data"  # of a clone; an installed package has none


@dataclass(frozen=True)
class Sample:
    """A photograph, and its disparity where somebody measured it.

    Args:
        title: What the page calls it.
        photograph: File.
        disparity: File; None for what any photograph of a user gets.
        credit: Where it is from, and on what terms.
    """

    title: str
    photograph: Path
    disparity: Path | None
    credit: str


# As scikit-image's documentation of skimage.data says of each.
SCIKIT_IMAGE = (
    ("Coffee", "coffee.png", "Rachel Michetti, CC0; by way of scikit-image"),
    ("Astronaut", "astronaut.png", "NASA, public domain; by way of scikit-image"),
    ("Chelsea", "chelsea.png", "Stefan van der Walt, CC0; by way of scikit-image"),
    ("Rocket", "rocket.jpg", "SpaceX, public domain; by way of scikit-image"),
)
OURS = (
    ("Motorcycle", "motorcycle", "Middlebury 2014 stereo benchmark (Scharstein et al.), measured disparity"),
    ("Hair", "hair", "drawn by this project, Apache-2.0, exact disparity"),
    ("Leaves", "leaves", "drawn by this project, Apache-2.0, exact disparity"),
)


def find_samples() -> list[Sample]:
    """Those that are there: of the clone's test_data, and of the installed scikit-image."""
    return [sample for sample in (*_ours(), *_scikit_images()) if sample.photograph.is_file()]


def _ours() -> Iterator[Sample]:
    for title, stem, credit in OURS:
        depth = TEST_DATA / "depth" / f"{stem}_pred.npy"
        yield Sample(title, TEST_DATA / "input" / f"{stem}.jpg", depth if depth.is_file() else None, credit)


def _scikit_images() -> Iterator[Sample]:
    found = importlib.util.find_spec("skimage")
    for place in (found.submodule_search_locations or []) if found else []:
        for title, file, credit in SCIKIT_IMAGE:
            yield Sample(title, Path(place) / "data" / file, None, credit)


def thumbnail(photograph: Path, folder: Path) -> Path:
    """A small copy of a sample for the page.

    Args:
        photograph: The sample.
        folder: Where the copy goes.
    """
    image_srgb = load_photo(photograph).image_srgb
    height, width = image_srgb.shape[2:]
    scale = min(1.0, THUMBNAIL_PX / min(height, width))
    path = folder / f"sample-{photograph.stem}.jpg"
    save_image(path, resize(image_srgb, (round(height * scale), round(width * scale))))
    return path
