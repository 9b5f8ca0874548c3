"""A folder of photographs made ready: input/NAME.jpg gets depth/NAME_pred.npy and mask/NAME.png."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.images import (
    IMAGE_SUFFIXES,
    find_images,
    load_disparity,
    load_mask,
    load_photo,
    make_folder,
    save_disparity,
    write_atomically,
)
from bokehdiff.preparation.disparity import DisparityModel
from bokehdiff.preparation.maps import MAP_SUFFIXES, MapConvention, normalised, take_in
from bokehdiff.preparation.matting import SubjectMatting

logger = logging.getLogger(__name__)

PREDICTION = "_pred"  # the seed's name for the map that everything later reads: NAME_pred.npy
OUR_MARK = ("Software", "bokehdiff prepare")  # written into masks of our making: no other mask is ever overwritten

MASK_SUFFIXES = (".png", *sorted(IMAGE_SUFFIXES - {".png"}))

Status = Literal["kept", "taken in", "predicted", "failed", "none"]


@dataclass(frozen=True)
class Outcome:
    """What became of one photograph.

    Args:
        name: File name of the photograph.
        disparity: "kept" as it was, "taken in" from another map, "predicted", or "failed".
        mask: "kept", "predicted", "none" if not asked for, or "failed".
        problem: What failed and what to do about it, in one line; None if nothing did.
    """

    name: str
    disparity: Status
    mask: Status
    problem: str | None = None


@dataclass(frozen=True)
class PreparationReport:
    """What became of a folder.

    Args:
        root: The folder.
        outcomes: One per photograph, in natural order.
        disparity_by: What predicted disparity; None if nothing was there to.
        masks_by: What made masks; None if nothing was there to.
    """

    root: Path
    outcomes: tuple[Outcome, ...]
    disparity_by: str | None
    masks_by: str | None

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The photographs that are not ready."""
        return tuple(outcome for outcome in self.outcomes if outcome.problem is not None)

    def lines(self) -> tuple[str, ...]:
        """The report to print: the counts, then each failure in one line."""
        n_ready = len(self.outcomes) - len(self.failures)
        return (
            f"{n_ready} of {len(self.outcomes)} photographs in {self.root} are ready",
            _counted("disparity", [outcome.disparity for outcome in self.outcomes], self.disparity_by),
            _counted("masks", [outcome.mask for outcome in self.outcomes], self.masks_by),
            *(f"failed: {outcome.name}: {outcome.problem}" for outcome in self.failures),
        )


def _counted(what: str, statuses: list[Status], predicted_by: str | None) -> str:
    counts = Counter(statuses)
    parts = [f"{n} {status}" + (f" by {predicted_by}" if status == "predicted" else "") for status, n in counts.items()]
    return f"  {what}: {', '.join(parts)}"


@dataclass(frozen=True)
class _Folders:
    """Where a photograph and what belongs to it lie, and what is there already."""

    images: Path
    depth: Path
    mask: Path
    maps: Mapping[str, tuple[Path, ...]]
    masks: Mapping[str, tuple[Path, ...]]

    @classmethod
    def under(cls, root: Path, *, image_dirname: str, depth_dirname: str, mask_dirname: str) -> _Folders:
        if not root.is_dir():
            raise InputError(f"{root} is not a folder; expected one with photographs in {root / image_dirname}")
        images, depth, mask = root / image_dirname, root / depth_dirname, root / mask_dirname
        if not images.is_dir():
            raise InputError(f"{images} is not a folder; expected the photographs there")
        return cls(images, depth, mask, _by_name(depth, MAP_SUFFIXES), _by_name(mask, MASK_SUFFIXES))

    def prediction(self, image: Path, suffix: str = ".npy") -> Path:
        """Where the disparity of a photograph goes."""
        return self.depth / f"{image.stem}{PREDICTION}{suffix}"

    def map_to_take_in(self, image: Path) -> Path | None:
        """A map of the user's: NAME.*, or NAME_pred.* unless NAME_pred.npy is there, which it then is a picture of."""
        own = self.maps.get(image.stem, ())
        if not self.prediction(image).exists():
            own += self.maps.get(image.stem + PREDICTION, ())
        if len(own) > 1:
            logger.info("%s has %d maps; %s is used", image.name, len(own), own[0].name)
        return own[0] if own else None


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """The files of a folder by their stem, those with earlier suffixes first; nothing if it does not exist."""
    found: dict[str, tuple[Path, ...]] = {}
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes] if folder.is_dir() else []
    for path in sorted(files, key=lambda path: (suffixes.index(path.suffix.lower()), path.name)):
        found[path.stem] = (*found.get(path.stem, ()), path)
    return found


@dataclass(frozen=True)
class _Work:
    """What is to be done to each photograph."""

    folders: _Folders
    disparity_model: DisparityModel | None
    matting: SubjectMatting | None
    convention: MapConvention
    overwrite: bool

    def prepare(self, image: Path) -> Outcome:
        """Everything for one photograph; whatever goes wrong is told in the outcome."""
        disparity_status: Status = "failed"
        mask_status: Status = "failed"
        try:
            image_srgb = load_photo(image).image_srgb
            disparity, disparity_status = self.disparity(image, image_srgb)
            mask_status = self.mask(image, image_srgb, disparity)
        except BokehDiffError as error:
            return Outcome(image.name, disparity_status, mask_status, error.message)
        except Exception as error:  # a full disk, no memory left, a model's own: the other photographs go on
            logger.debug("%s", image, exc_info=True)
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            return Outcome(image.name, disparity_status, mask_status, problem)
        return Outcome(image.name, disparity_status, mask_status)

    def disparity(self, image: Path, image_srgb: Float[Tensor, "1 3 h w"]) -> tuple[Float[Tensor, "1 h w"], Status]:
        size_hw = (image_srgb.shape[2], image_srgb.shape[3])
        prediction = self.folders.prediction(image)
        if prediction.exists() and not self.overwrite:
            return _load_finished(prediction, size_hw), "kept"
        own = self.folders.map_to_take_in(image)
        if own is not None:
            disparity = take_in(own, size_hw, convention=self.convention)
            self._save(image, disparity, source=own)
            return disparity, "taken in"
        if self.disparity_model is None:
            raise InputError(
                f"no map in {self.folders.depth} and no disparity model: put {image.stem}.png or {image.stem}.npy "
                "there, or pass a model"
            )
        disparity = self.disparity_model.predict(image_srgb)
        disparity = normalised(disparity, what=f"{self.disparity_model.name} for {image.name}")
        self._save(image, disparity, source=None)
        return disparity, "predicted"

    def _save(self, image: Path, disparity: Float[Tensor, "1 h w"], *, source: Path | None) -> None:
        """NAME_pred.npy for the programs and NAME_pred.png to look at, unless that is what was taken in."""
        make_folder(self.folders.depth)
        save_disparity(self.folders.prediction(image), disparity)
        picture = self.folders.prediction(image, ".png")
        if picture.exists() and not self.overwrite and picture != source:
            logger.info("%s is left as it is, though not made from %s", picture, source or "this prediction")
        elif picture != source:
            save_disparity(picture, disparity)

    def mask(self, image: Path, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 h w"]) -> Status:
        existing = self.folders.masks.get(image.stem, ())
        if existing and not (self.overwrite and self.matting is not None and _is_ours(existing[0])):
            _check_mask(existing[0], (image_srgb.shape[2], image_srgb.shape[3]))
            return "kept"
        if self.matting is None:
            return "none"
        mask = self.matting.predict(image_srgb, disparity)
        make_folder(self.folders.mask)
        _save_mask(self.folders.mask / f"{image.stem}.png", mask, made_by=self.matting.name)
        return "predicted"


def _load_finished(path: Path, size_hw: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    """A disparity that is there already, if it is what the rest of the project expects."""
    disparity = load_disparity(path)
    remedy = f"rename it to {path.name.replace(PREDICTION, '')} to have it taken in, or overwrite it"
    if tuple(disparity.shape[-2:]) != size_hw:
        got = f"{disparity.shape[2]} x {disparity.shape[1]} px"
        raise InputError(f"{path} is {got}; expected {size_hw[1]} x {size_hw[0]} like the photograph: {remedy}")
    low, high = float(disparity.min()), float(disparity.max())
    if not (low >= 0.0 and high <= 1.0):
        raise InputError(f"{path} holds {low:g} ... {high:g}; expected disparity in [0, 1], 1 nearest: {remedy}")
    return disparity


def _check_mask(path: Path, size_hw: tuple[int, int]) -> None:
    got_hw = tuple(load_mask(path).shape[-2:])
    if got_hw != size_hw:
        raise InputError(
            f"{path} is {got_hw[1]} x {got_hw[0]} px; expected {size_hw[1]} x {size_hw[0]} like the photograph: "
            "resize it, or remove it to have one made"
        )


def _is_ours(path: Path) -> bool:
    key, mark = OUR_MARK
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(key, "")).startswith(mark)
    except (OSError, UnidentifiedImageError):
        return False


def _save_mask(path: Path, mask: Float[Tensor, "1 h w"], *, made_by: str) -> None:
    key, mark = OUR_MARK
    text = PngInfo()
    text.add_text(key, f"{mark}: {made_by}")
    levels = (mask[0].clamp(0.0, 1.0) * 255.0).round().cpu().numpy().astype(np.uint8)
    with write_atomically(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG", pnginfo=text)


def prepare_folder(
    root: str | Path,
    *,
    image_dirname: str = "input",
    depth_dirname: str = "depth",
    mask_dirname: str = "mask",
    disparity_model: DisparityModel | None,
    matting: SubjectMatting | None,
    from_depth: bool = False,
    invert_disparity: bool = False,
    fill_holes: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> PreparationReport:
    """Give every photograph of a folder its disparity and its subject mask; what is there already is kept.

    For input/NAME.jpg, depth/NAME_pred.npy is kept if it is valid; else another map NAME.npy, .npz, .exr, .tif, .png
    or .jpg is validated, normalised and written there (float32, 1 nearest) with a 16-bit NAME_pred.png to look at; else
    the model predicts it. A mask goes to mask/NAME.png unless there is one. A photograph that fails stops no other, and
    a run that was interrupted goes on where it stopped. Files of the user's own are never written to.

    Args:
        root: Folder that holds the others.
        image_dirname: Photographs, under `root`.
        depth_dirname: Disparity, under `root`.
        mask_dirname: Subject masks, under `root`.
        disparity_model: Predicts where there is no map; None: a photograph without a map fails.
        matting: Makes masks where there are none; None: no masks are made.
        from_depth: Maps that are taken in hold depth rather than disparity.
        invert_disparity: Maps that are taken in are dark where near.
        fill_holes: Fill what is unmeasured in maps that are taken in, rather than refuse them.
        overwrite: Make NAME_pred.npy anew, and masks that this function made.
        progress: Show a bar.
    """
    convention = MapConvention(from_depth=from_depth, invert=invert_disparity, fill_holes=fill_holes)
    root = Path(root)
    folders = _Folders.under(root, image_dirname=image_dirname, depth_dirname=depth_dirname, mask_dirname=mask_dirname)
    work = _Work(folders, disparity_model, matting, convention, overwrite)
    images = find_images(folders.images)
    twins = _twins(images)
    with _bar(images, progress) as bar:
        outcomes = tuple(twins.get(image) or work.prepare(image) for image in bar)
    return PreparationReport(
        root, outcomes, disparity_model.name if disparity_model else None, matting.name if matting else None
    )


def photographs_to_predict(
    root: str | Path, *, image_dirname: str = "input", depth_dirname: str = "depth", overwrite: bool = False
) -> list[Path]:
    """The photographs for which `prepare_folder` would ask the disparity model; empty means that none is needed.

    Args:
        root: As for `prepare_folder`.
        image_dirname: As for `prepare_folder`.
        depth_dirname: As for `prepare_folder`.
        overwrite: As for `prepare_folder`.
    """
    folders = _Folders.under(Path(root), image_dirname=image_dirname, depth_dirname=depth_dirname, mask_dirname="")

    def is_there(image: Path) -> bool:
        kept = folders.prediction(image).exists() and not overwrite
        return kept or folders.map_to_take_in(image) is not None

    return [image for image in find_images(folders.images) if not is_there(image)]


def _twins(images: list[Path]) -> dict[Path, Outcome]:
    """Photographs that share their stem with an earlier one, whose map and mask they would overwrite."""
    first: dict[str, Path] = {}
    twins = {}
    for image in images:
        elder = first.setdefault(image.stem, image)
        if elder != image:
            problem = f"{image} shares its name with {elder.name}, and so its map: rename one of them"
            twins[image] = Outcome(image.name, "failed", "failed", problem)
    return twins


@contextmanager
def _bar(images: list[Path], progress: bool) -> Iterator[Iterator[Path]]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), tqdm(images, unit="photo", disable=not progress) as bar:
        yield iter(bar)
