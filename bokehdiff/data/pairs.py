"""Photographed pairs on disk, in the layouts of the field: EBB!, AIM, RealBokeh, BLB, and any two folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from bokehdiff.data.scenes import EBB_DEPTH_DIRNAME, EBB_ROUNDING_PX, MAP_SUFFIXES, PNG_FIRST, ROUNDING_PX, fitted
from bokehdiff.errors import InputError
from bokehdiff.images import IMAGE_SUFFIXES, load_disparity, load_photo
from bokehdiff.images.files import natural_order
from bokehdiff.optics import Lens, normalise_disparity

Layout = Literal["ebb", "aim", "realbokeh", "blb", "folders"]
Split = Literal["train", "val", "test", "all"]

VAL294 = range(4400, 4694)  # EBB!'s training ids that later work keeps for validation, "Val294"
TWINS = {"ebb": ("original", "bokeh"), "aim": ("input", "label")}
ANY_TWINS = (("a", "b"), ("in", "gt"), ("input", "target"), ("source", "target"), *TWINS.values())
SPLIT_DIRNAMES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",), "all": ("train",)}
LARGEST_DEPTH = 6e4  # what BLB stores for the sky is 65504, the end of half precision


@dataclass(frozen=True)
class KnownLens:
    """The lens of a rendered target, for metric disparity 1/z.

    Args:
        focus_distance: In the unit of the depth map; infinite for the sky.
        strength: Radius at one unit of 1/z [px per 1/unit].
    """

    focus_distance: float
    strength: float


@dataclass(frozen=True)
class PairPaths:
    """Where a pair lies, and what is known of it.

    Args:
        name: Of the pair, for people.
        image: All in focus, or nearly.
        target: Through the lens.
        disparity: Its disparity, near bright; None if there is none.
        depth: Its depth instead, in any unit; None if there is none.
        lens: Of the target, in the unit of `depth`; None if it is not known.
        f_number: Of the target; None if it is not known.
    """

    name: str
    image: Path
    target: Path
    disparity: Path | None = None
    depth: Path | None = None
    lens: KnownLens | None = None
    f_number: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two photographs of one view, with what is known.

    Args:
        image_srgb: All in focus, display values in [0, 1].
        target_srgb: Through the lens.
        disparity: In [0, 1], 1 nearest; None if there is no map.
        lens: Of the target, for this disparity; None if it is not known.
        f_number: Of the target; None if it is not known.
    """

    image_srgb: Float[Tensor, "3 h w"]
    target_srgb: Float[Tensor, "3 h w"]
    disparity: Float[Tensor, "h w"] | None
    lens: Lens | None
    f_number: float | None


def find_pairs(root: str | Path, *, layout: Layout, split: Split = "train") -> tuple[PairPaths, ...]:
    """List the pairs of a dataset, in natural order of their names.

    - "ebb": train/original and train/bokeh with optional train/original_depth; "val" is Val294, the training ids 4400
      to 4693, and "train" what is left; "all" is both, "test" the folder of that name.
    - "aim": train/input and train/label, val/ likewise.
    - "realbokeh": train, validation, test, each with metadata/*.json that name source_image, target_images and their
      f-numbers, target_avs.
    - "blb": folders with info.json (focus_distances, blur_parameters), image, depth and bokeh_II_JJ, II counting
      strengths and JJ focus distances, as EXR or anything else. It has no splits.
    - "folders": a/ and b/ (or in/gt, input/target, source/target and the names above), with or without a folder for
      the split around them. Files of one name belong together; depth/ or disparity/ beside them holds disparity.

    The folders may lie in `root` itself.

    Args:
        root: Folder of the dataset.
        layout: How files are laid out.
        split: Which part.
    """
    root = Path(root)
    if layout not in get_args(Layout) or split not in get_args(Split):
        raise InputError(
            f"layout must be one of {', '.join(get_args(Layout))}, and the split one of {', '.join(get_args(Split))}; "
            f"got {layout!r} and {split!r}"
        )
    if not root.is_dir():
        raise InputError(f"no such folder: {root}")
    pairs = _FINDERS[layout](root, layout, split)
    if not pairs:
        raise InputError(f"{root} holds no pair of the split {split!r} in the layout {layout!r}")
    return tuple(pairs)


def _find_twins(root: Path, layout: str, split: Split) -> list[PairPaths]:
    """Two folders whose files of one name belong together."""
    # EBB!'s validation photographs have no targets: Val294 is part of what is published for training.
    dirnames = SPLIT_DIRNAMES["train" if layout == "ebb" and split == "val" else split]
    places = [*(root / name for name in dirnames), *([root] if split != "test" else [])]
    wanted = [TWINS[layout]] if layout in TWINS else list(ANY_TWINS)
    found = [(place / a, place / b) for place in places for a, b in wanted if (place / a).is_dir()]
    found = [(a, b) for a, b in found if b.is_dir()]
    if not found:
        names = " or ".join(f"{a}/ and {b}/" for a, b in wanted)
        raise InputError(
            f"{root} is not in the layout {layout!r}: expected {names} in {places[0]} or the folder itself"
        )
    images, targets = (_by_stem(folder) for folder in found[0])
    kept = [stem for stem in images if layout != "ebb" or _in_ebb_split(stem, split)]
    missing = [stem for stem in kept if stem not in targets]
    if missing:
        raise InputError(
            f"no target in {found[0][1]} for {len(missing)} of {len(kept)} photographs: {', '.join(missing[:5])}"
        )
    return [_twin(stem, images[stem], targets[stem], found[0][0].parent) for stem in kept]


def _by_stem(folder: Path) -> dict[str, Path]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    return {path.stem: path for path in sorted(images, key=natural_order) if not path.name.startswith(".")}


def _in_ebb_split(stem: str, split: Split) -> bool:
    in_val294 = stem.isdecimal() and int(stem) in VAL294
    return split in ("all", "test") or in_val294 == (split == "val")


def _twin(stem: str, image: Path, target: Path, place: Path) -> PairPaths:
    maps = [place / EBB_DEPTH_DIRNAME / f"{stem}{suffix}" for suffix in PNG_FIRST]
    maps += [
        place / folder / f"{stem}{end}{suffix}"
        for folder in ("depth", "disparity")
        for end in ("_pred", "")
        for suffix in MAP_SUFFIXES
    ]
    return PairPaths(stem, image, target, disparity=next((path for path in maps if path.is_file()), None))


def _find_realbokeh(root: Path, layout: str, split: Split) -> list[PairPaths]:
    places = [*(root / name for name in SPLIT_DIRNAMES[split]), root]
    place = next((place for place in places if (place / "metadata").is_dir()), None)
    if place is None:
        raise InputError(f"{root} is not in the layout {layout!r}: expected {places[0] / 'metadata'}/*.json")
    pairs = []
    for file in sorted((place / "metadata").glob("*.json"), key=natural_order):
        scene = _json(file, source_image=str, target_images=list, target_avs=list)
        if len(scene["target_images"]) != len(scene["target_avs"]):
            raise InputError(
                f"{file}: {len(scene['target_images'])} target_images need as many target_avs; "
                f"got {len(scene['target_avs'])}"
            )
        for target, f_number in zip(scene["target_images"], scene["target_avs"], strict=True):
            image, blurred = (_existing(place, name, file) for name in (scene["source_image"], target))
            pairs.append(PairPaths(Path(target).stem, image, blurred, f_number=float(f_number)))
    return pairs


def _existing(place: Path, name: str, named_in: Path) -> Path:
    path = place / name
    if not path.is_file():
        raise InputError(f"{named_in} names {name}, which is not in {place}")
    return path


def _find_blb(root: Path, layout: str, split: Split) -> list[PairPaths]:
    pairs = []
    files = sorted(root.rglob("info.json"), key=natural_order)
    if not files:
        raise InputError(f"{root} is not in the layout {layout!r}: expected folders with info.json")
    for file in files:
        info = _json(file, focus_distances=list, blur_parameters=list)
        parts = _by_stem(file.parent)
        for needed in ("image", "depth"):
            if needed not in parts:
                raise InputError(f"{file.parent} has info.json, but no {needed} beside it")
        for stem, target in parts.items():
            lens = _blb_lens(stem, info, file)
            if lens is not None:
                name = f"{file.parent.name}/{stem}"
                pairs.append(PairPaths(name, parts["image"], target, depth=parts["depth"], lens=lens))
    return pairs


def _blb_lens(stem: str, info: dict[str, Any], file: Path) -> KnownLens | None:
    """The lens of bokeh_II_JJ: strength II, focus distance JJ; None for other files."""
    kind, *places = stem.split("_")
    if kind != "bokeh" or len(places) != 2 or not all(place.isdecimal() for place in places):
        return None
    try:
        strength, distance = info["blur_parameters"][int(places[0])], info["focus_distances"][int(places[1])]
    except IndexError:
        raise InputError(f"{file} lists too few blur_parameters or focus_distances for {stem}") from None
    return KnownLens(math.inf if distance > LARGEST_DEPTH else float(distance), float(strength))


def _json(file: Path, **fields: type) -> dict[str, Any]:
    """A JSON object that has these fields."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from None
    wrong = [name for name, kind in fields.items() if not isinstance(dict(content).get(name), kind)]
    if wrong:
        raise InputError(f"{file} needs {', '.join(f'{name} ({fields[name].__name__})' for name in wrong)}")
    return content


_FINDERS: dict[str, Callable[[Path, str, Split], list[PairPaths]]] = {
    "ebb": _find_twins,
    "aim": _find_twins,
    "folders": _find_twins,
    "realbokeh": _find_realbokeh,
    "blb": _find_blb,
}


def load_pair(paths: PairPaths, *, width_multiple: int = 1) -> Pair:
    """Read a pair; light (EXR) becomes display values, clipped at white.

    Args:
        paths: Where it lies.
        width_multiple: Cut photographs at the right to a multiple of this [px]; with 64, EBB!'s maps of depth, which
            are half as wide, fit without being stretched.
    """
    image, target = load_photo(paths.image), load_photo(paths.target)
    if image.size_hw != target.size_hw:
        (height, width), (target_height, target_width) = image.size_hw, target.size_hw
        raise InputError(
            f"{paths.target} has {target_width} x {target_height} pixels, {paths.image} has {width} x {height}: a pair "
            "needs the same size"
        )
    height, width = image.size_hw
    width -= width % width_multiple
    if width < 1:
        raise InputError(f"{paths.image} is {image.size_hw[1]} px wide: narrower than the multiple {width_multiple}")
    disparity, lens = _geometry(paths, (height, width), image.size_hw)
    return Pair(
        image_srgb=image.image_srgb[0, ..., :width].clamp(0.0, 1.0),
        target_srgb=target.image_srgb[0, ..., :width].clamp(0.0, 1.0),
        disparity=disparity,
        lens=lens,
        f_number=paths.f_number,
    )


def _geometry(
    paths: PairPaths, size_hw: tuple[int, int], whole_hw: tuple[int, int]
) -> tuple[Float[Tensor, "h w"] | None, Lens | None]:
    """Disparity in [0, 1] at the size that the photographs are cut to, and the lens for it."""
    path = paths.disparity or paths.depth
    if path is None:
        return None, None
    stored = load_disparity(path)
    in_ebb = path.parent.name == EBB_DEPTH_DIRNAME
    rounding_px = EBB_ROUNDING_PX if in_ebb else ROUNDING_PX
    # EBB!'s maps were made of photographs that were cut; others show the whole, and are cut with it.
    map_hw = size_hw if in_ebb else whole_hw

    def at_size(image_map: Float[Tensor, "1 mh mw"]) -> Float[Tensor, "h w"]:
        whole = fitted(image_map, map_hw, path=path, photograph=paths.image, rounding_px=rounding_px)
        return whole[0, : size_hw[0], : size_hw[1]]

    if path == paths.disparity:
        return at_size(normalise_disparity(stored)), None
    if not float(stored.min()) > 0:
        raise InputError(f"{path}: depth must be above 0; got {float(stored.min()):g}")
    metric = at_size(1.0 / stored)
    farthest, nearest = (float(edge) for edge in metric.aminmax())
    nearest = nearest if nearest > farthest else 2 * farthest  # a wall that faces the camera
    disparity = (metric - farthest) / (nearest - farthest)
    if paths.lens is None:
        return disparity, None
    lens = Lens(1.0 / paths.lens.focus_distance, paths.lens.strength)
    return disparity, lens.normalised(farthest, nearest)
