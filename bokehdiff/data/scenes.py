"""Photographs with disparity and subject mask on disk: input/NAME.jpg, depth/NAME_pred.npy, mask/NAME.png."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import IMAGE_SUFFIXES, find_images, load_disparity, load_mask, load_photo, resize
from bokehdiff.optics import MASK_THRESHOLD, normalise_disparity

logger = logging.getLogger(__name__)

MAP_SUFFIXES = (".npy", ".npz", ".exr", ".tif", ".tiff", ".png", ".webp", ".bmp", ".jpg", ".jpeg")  # most exact first
PNG_FIRST = (".png", *(suffix for suffix in MAP_SUFFIXES if suffix != ".png"))
INPUT_DIRNAMES = {"folder": ("input",), "pngdepth": ("input",), "EBB": ("original", "input")}
EBB_DEPTH_DIRNAME = "original_depth"
ROUNDING_PX = 2  # a map's side may be off by this much from the photograph's proportions: sizes are whole pixels
EBB_ROUNDING_PX = 32  # EBB!'s maps are as wide as the next smaller multiple of 32


@dataclass(frozen=True)
class ScenePaths:
    """Where the parts of a scene lie.

    Args:
        name: The photograph's name without suffix.
        image: The photograph.
        disparity: Its disparity map.
        mask: Its subject mask; None if there is none.
        rounding_px: How far the map's sides may be off from the photograph's proportions [px].
    """

    name: str
    image: Path
    disparity: Path
    mask: Path | None = None
    rounding_px: int = ROUNDING_PX


@dataclass(frozen=True)
class Scene:
    """A photograph with the disparity of each of its pixels.

    Args:
        name: The photograph's name without suffix.
        image_srgb: Display values in [0, 1].
        disparity: 0 farthest, 1 nearest; of the photograph's size.
        mask: Share of each pixel that is subject, in [0, 1]; None where no subject is marked.
        path: The photograph.
        exif: Its EXIF block, as stored.
    """

    name: str
    image_srgb: Float[Tensor, "1 3 h w"]
    disparity: Float[Tensor, "1 h w"]
    mask: Float[Tensor, "1 h w"] | None
    path: Path
    exif: bytes


def find_scenes(
    where: str | Path,
    *,
    depth_dirname: str = "depth",
    mask_dirname: str = "mask",
    organization: str = "folder",
) -> list[ScenePaths]:
    """Find photographs and what belongs to them, in natural order of their names.

    Disparity is looked for beside the photographs' folder: DEPTH/NAME_pred.npy first, then DEPTH/NAME in any format.
    Of input/A/NAME.jpg it is also found in DEPTH/A beside input/, where `bokehdiff prepare` puts it.
    "pngdepth" takes DEPTH/NAME.png before anything else. "EBB" is the layout of the EBB! dataset: original/NAME.jpg
    with original_depth/NAME.png (or DEPTH/), whose maps may be cut to a multiple of 32. A mask is MASK/NAME in any
    format, if there.

    Args:
        where: A glob, a folder of photographs, one photograph, or a folder that holds input/ (EBB: original/).
        depth_dirname: Folder of the disparity maps, beside the photographs' folder.
        mask_dirname: Folder of the masks, beside the photographs' folder.
        organization: How files are laid out: "folder", "pngdepth" or "EBB".
    """
    images = find_photographs(where, organization=organization)
    scenes, missing = [], []
    for image in images:
        roots = list(_roots(image.resolve(), INPUT_DIRNAMES[organization]))
        candidates = [
            path
            for root, within in roots
            for path in _disparity_candidates(root, within / image.stem, depth_dirname, organization)
        ]
        disparity = next((path for path in candidates if path.is_file()), None)
        if disparity is None:
            missing.append(f"{image} (looked for {candidates[0]})")
            continue
        masks = (
            root / mask_dirname / within / f"{image.stem}{suffix}" for root, within in roots for suffix in PNG_FIRST
        )
        mask = next((path for path in masks if path.is_file()), None)
        rounding_px = EBB_ROUNDING_PX if organization == "EBB" else ROUNDING_PX
        scenes.append(ScenePaths(image.stem, image, disparity, mask, rounding_px))
    if missing:
        raise InputError(
            f"no disparity for {len(missing)} of {len(images)} photographs: {_some(missing)}; "
            "`bokehdiff prepare` makes it"
        )
    return scenes


def find_photographs(where: str | Path, *, organization: str = "folder") -> list[Path]:
    """Find photographs alone, in natural order of their names, which differ.

    Args:
        where: As in `find_scenes`.
        organization: As in `find_scenes`.
    """
    if organization not in INPUT_DIRNAMES:
        raise InputError(f"organization must be one of {', '.join(INPUT_DIRNAMES)}; got {organization!r}")
    images = find_images(_photograph_folder(where, organization))
    _refuse_same_names(images)
    return images


def _photograph_folder(where: str | Path, organization: str) -> str | Path:
    """A folder without photographs of its own stands for the input/ in it."""
    folder = Path(where)
    if not folder.is_dir() or any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
        return where
    inner = (folder / name for name in INPUT_DIRNAMES[organization])
    return next((path for path in inner if path.is_dir()), folder)


def _roots(image: Path, input_dirnames: tuple[str, ...]) -> Iterable[tuple[Path, Path]]:
    """Folders that may hold the folders of maps, and where below those this photograph's lie."""
    yield image.parent.parent, Path()
    for folder in image.parent.parents:
        if folder.name in input_dirnames:
            yield folder.parent, image.parent.relative_to(folder)


def _disparity_candidates(root: Path, name: Path, depth_dirname: str, organization: str) -> Iterable[Path]:
    def at(dirname: str, ending: str) -> Path:
        return root / dirname / name.with_name(f"{name.name}{ending}")

    if organization == "EBB":
        yield from (at(EBB_DEPTH_DIRNAME, suffix) for suffix in PNG_FIRST)
    if organization == "pngdepth":
        yield at(depth_dirname, ".png")
    yield at(depth_dirname, "_pred.npy")
    yield from (at(depth_dirname, suffix) for suffix in MAP_SUFFIXES)
    yield from (at(depth_dirname, f"_pred{suffix}") for suffix in MAP_SUFFIXES)


def _refuse_same_names(images: list[Path]) -> None:
    counts = Counter(image.stem for image in images)
    same = [str(image) for image in images if counts[image.stem] > 1]
    if same:
        raise InputError(f"photographs must differ in name, not only in suffix or folder: {_some(same)}")


def _some(items: list[str]) -> str:
    """The first few of a long list."""
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def load_scene(paths: ScenePaths, *, invert_disparity: bool = False, normalise: bool = True) -> Scene:
    """Read a scene; its maps are brought to the photograph's size, with a logged line, if they have its proportions.

    Args:
        paths: Where its parts lie.
        invert_disparity: The map is 0 at the nearest point, as the released preparation wrote it.
        normalise: Stretch the disparity to [0, 1] (see `optics.normalise_disparity`), which is what strengths refer to
            in the published protocol; False takes it as it is, and refuses values outside [0, 1].
    """
    photo = load_photo(paths.image)
    disparity = load_disparity(paths.disparity, invert=invert_disparity)
    if normalise:
        disparity = normalise_disparity(disparity)
    elif float(disparity.min()) < 0 or float(disparity.max()) > 1:
        raise InputError(
            f"{paths.disparity}: disparity must be in [0, 1] where it is not normalised; "
            f"got {float(disparity.min()):g} to {float(disparity.max()):g}"
        )
    return Scene(
        name=paths.name,
        image_srgb=photo.image_srgb,
        disparity=fitted(
            disparity, photo.size_hw, path=paths.disparity, photograph=paths.image, rounding_px=paths.rounding_px
        ),
        mask=_subject(paths, photo.size_hw),
        path=paths.image,
        exif=photo.exif,
    )


def _subject(paths: ScenePaths, size_hw: tuple[int, int]) -> Float[Tensor, "1 h w"] | None:
    """The mask at the photograph's size; None where it marks nothing."""
    if paths.mask is None:
        return None
    mask = fitted(
        load_mask(paths.mask), size_hw, path=paths.mask, photograph=paths.image, rounding_px=paths.rounding_px
    )
    if not bool((mask > MASK_THRESHOLD).any()):
        logger.info("%s marks no subject (nothing above %g): treated as no mask", paths.mask, MASK_THRESHOLD)
        return None
    return mask


def fitted(
    image_map: Float[Tensor, "1 mh mw"], size_hw: tuple[int, int], *, path: Path, photograph: Path, rounding_px: int
) -> Float[Tensor, "1 h w"]:
    """A map at the photograph's size: as it is, or resized with a logged line; refused in other proportions.

    Args:
        image_map: Disparity or mask.
        size_hw: Of the photograph [px].
        path: Of the map, for the message.
        photograph: Its path, for the message.
        rounding_px: How far the map's sides may be off from the photograph's proportions [px].
    """
    height, width = image_map.shape[1:]
    if (height, width) == size_hw:
        return image_map
    scale = max(height / size_hw[0], width / size_hw[1])
    off = max(abs(height - scale * size_hw[0]), abs(width - scale * size_hw[1]))
    if off > rounding_px * max(scale, 1.0):
        raise InputError(
            f"{path} has {width} x {height} pixels, {photograph} has {size_hw[1]} x {size_hw[0]}: "
            "expected the same size, or the same proportions"
        )
    logger.info(
        "%s: resized from %d x %d to %d x %d, the size of %s", path, width, height, size_hw[1], size_hw[0], photograph
    )
    return resize(image_map[None], size_hw)[0]
