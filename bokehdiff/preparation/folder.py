"""A folder of photographs made ready: input/NAME.jpg gets depth/NAME_pred.npy and mask/NAME.png, and a cut-out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.images import (
    load_disparity,
    load_mask,
    load_photo,
    make_folder,
    read_header,
    save_disparity,
    save_image,
    write_atomically,
)
from bokehdiff.optics import FULL_FRAME_WIDTH_MM
from bokehdiff.preparation.cutouts import CutoutLimits, UnusableSubjectError, cut_out
from bokehdiff.preparation.disparity import DisparityEstimate, DisparityModel
from bokehdiff.preparation.edges import fit_disparity
from bokehdiff.preparation.maps import MapConvention, normalised, take_in
from bokehdiff.preparation.places import NOTE_KEYS, OUR_MARK, PREDICTION, Dirnames, Places, is_ours
from bokehdiff.preparation.report import Outcome, PreparationReport, Status
from bokehdiff.preparation.subject import SubjectMatting

logger = logging.getLogger(__name__)

WHITE_8_BIT = 255
METRIC, CAMERA = "_metric.npy", "_camera.json"
DIRNAMES = Dirnames()
AS_STORED = MapConvention()


@dataclass(frozen=True)
class _Work:
    """What is to be done to each photograph."""

    places: Places
    disparity_model: DisparityModel | None
    matting: SubjectMatting | None
    convention: MapConvention
    cutouts: CutoutLimits | None
    needs_disparity: bool
    refine_disparity: bool
    overwrite: bool

    def prepare(self, image: Path) -> Outcome:
        """Everything for one photograph; whatever goes wrong is told in the outcome."""
        outcome = Outcome(self.name(image), "failed", "failed", "none" if self.cutouts is None else "failed")
        try:
            if self.is_done(image):
                return self.all_kept(image)
            image_srgb = load_photo(image).image_srgb
            disparity, status = self.disparity(image, image_srgb)
            outcome = replace(outcome, disparity=status)
            mask, status = self.mask(image, image_srgb, disparity)
            outcome = replace(outcome, mask=status)
            if self.cutouts is not None:
                status, note = self.foreground(image, image_srgb, mask, self.cutouts)
                outcome = replace(outcome, foreground=status, note=note)
        except BokehDiffError as error:
            return replace(outcome, problem=error.message)
        except Exception as error:  # a full disk, no memory left, a model's own: the other photographs go on
            logger.debug("%s", image, exc_info=True)
            return replace(outcome, problem=" ".join(f"{type(error).__name__}: {error}".split()))
        return outcome

    def is_done(self, image: Path) -> bool:
        """Whether all that is asked for is there and fits, without decoding the photograph, which takes longest."""
        prediction, mask = self.places.prediction(image), self.places.mask_of(image)
        needs_mask = self.matting is not None or self.cutouts is not None
        if self.overwrite or not prediction.exists() or (needs_mask and mask is None):
            return False
        if self.cutouts is not None and not self.places.foreground(image).exists():
            return False
        try:
            header, disparity = read_header(image), load_disparity(prediction)
        except InputError:  # the whole way round tells what is wrong, or reads what only decoders can
            return False
        size_hw = (disparity.shape[1], disparity.shape[2])
        # A header does not tell whether its photograph is turned.
        fits = header is not None and size_hw in (header.size_hw, header.size_hw[::-1])
        fits = fits and float(disparity.min()) >= 0.0 and float(disparity.max()) <= 1.0
        return fits and (mask is None or tuple(load_mask(mask).shape[1:]) == size_hw)

    def all_kept(self, image: Path) -> Outcome:
        mask: Status = "kept" if self.places.mask_of(image) else "none"
        return Outcome(self.name(image), "kept", mask, "none" if self.cutouts is None else "kept")

    def name(self, image: Path) -> str:
        return image.relative_to(self.places.images).as_posix()

    def disparity(
        self, image: Path, image_srgb: Float[Tensor, "1 3 h w"]
    ) -> tuple[Float[Tensor, "1 h w"] | None, Status]:
        size_hw = (image_srgb.shape[2], image_srgb.shape[3])
        prediction = self.places.prediction(image)
        if prediction.exists() and not self.overwrite:
            return _load_finished(prediction, size_hw), "kept"
        own = self.places.map_to_take_in(image)
        if own is not None:
            disparity = self._fitted(take_in(own, size_hw, convention=self.convention), image_srgb)
            self._save(image, disparity, source=own)
            return disparity, "taken in"
        if self.disparity_model is None:
            if not self.needs_disparity:
                return None, "none"
            raise InputError(
                f"no map in {prediction.parent} and no disparity model: put {image.stem}.png or {image.stem}.npy "
                "there, or pass a model"
            )
        estimate = self.disparity_model.estimate(image_srgb)
        disparity = normalised(estimate.disparity, what=f"{self.disparity_model.name} for {image.name}")
        disparity = self._fitted(disparity, image_srgb)
        self._save(image, disparity, source=None)
        if estimate.is_metric:
            self._save_metric(image, estimate)
        return disparity, "predicted"

    def _fitted(
        self, disparity: Float[Tensor, "1 h w"], image_srgb: Float[Tensor, "1 3 h w"]
    ) -> Float[Tensor, "1 h w"]:
        return fit_disparity(disparity, image_srgb) if self.refine_disparity else disparity

    def _save(self, image: Path, disparity: Float[Tensor, "1 h w"], *, source: Path | None) -> None:
        """NAME_pred.npy for the programs and NAME_pred.png to look at, unless that is what was taken in."""
        prediction, picture = self.places.prediction(image), self.places.prediction(image, ".png")
        make_folder(prediction.parent)
        save_disparity(prediction, disparity)
        if picture.exists() and not self.overwrite and picture != source:
            logger.info("%s is left as it is, though not made from %s", picture, source or "this prediction")
        elif picture != source:
            save_disparity(picture, disparity)

    def _save_metric(self, image: Path, estimate: DisparityEstimate) -> None:
        """Metres beside the normalised map: NAME_metric.npy in 1/m, and what is known of camera and distances."""
        save_disparity(self.places.beside(image, METRIC), estimate.disparity)
        low, high = (float(edge) for edge in estimate.disparity.aminmax())
        known = {"nearest_m": 1.0 / high, "farthest_m": 1.0 / low}
        if estimate.focal_length_px is not None:
            longer_px = max(estimate.disparity.shape[1:])
            known["focal_length_px"] = estimate.focal_length_px
            known["focal_length_35mm_mm"] = estimate.focal_length_px * FULL_FRAME_WIDTH_MM / longer_px
        with write_atomically(self.places.beside(image, CAMERA)) as temporary:
            temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def mask(
        self, image: Path, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 h w"] | None
    ) -> tuple[Float[Tensor, "1 h w"] | None, Status]:
        existing = self.places.mask_of(image)
        if existing and not (self.overwrite and self.matting is not None and is_ours(existing)):
            return _load_fitting_mask(existing, (image_srgb.shape[2], image_srgb.shape[3])), "kept"
        if self.matting is None:
            return None, "none"
        mask = self.matting.predict(image_srgb, disparity)
        path = self.places.new_mask(image)
        make_folder(path.parent)
        _save_mask(path, mask, made_by=self.matting.name)
        return mask, "predicted"

    def foreground(
        self,
        image: Path,
        image_srgb: Float[Tensor, "1 3 h w"],
        mask: Float[Tensor, "1 h w"] | None,
        limits: CutoutLimits,
    ) -> tuple[Status, str | None]:
        path = self.places.foreground(image)
        if path.exists() and not (self.overwrite and is_ours(path)):
            return "kept", None
        if mask is None:
            folder = self.places.new_mask(image).parent
            raise InputError(f"there is no mask to cut a foreground out by: put {path.name} into {folder}")
        try:
            rgba_srgb = cut_out(image_srgb, mask, limits=limits)
        except UnusableSubjectError as error:
            return "unusable", error.message
        make_folder(path.parent)
        save_image(path, rgba_srgb, text=f"{OUR_MARK}: cut out of {self.name(image)}")
        return "cut out", None


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


def _load_fitting_mask(path: Path, size_hw: tuple[int, int]) -> Float[Tensor, "1 h w"]:
    mask = load_mask(path)
    if tuple(mask.shape[-2:]) != size_hw:
        raise InputError(
            f"{path} is {mask.shape[2]} x {mask.shape[1]} px; expected {size_hw[1]} x {size_hw[0]} like the "
            "photograph: resize it, or remove it to have one made"
        )
    return mask


def _save_mask(path: Path, mask: Float[Tensor, "1 h w"], *, made_by: str) -> None:
    text = PngInfo()
    text.add_text(NOTE_KEYS[0], f"{OUR_MARK}: {made_by}")
    levels = (mask[0].clamp(0.0, 1.0) * WHITE_8_BIT).round().cpu().numpy().astype(np.uint8)
    with write_atomically(path) as temporary:
        Image.fromarray(levels).save(temporary, format="PNG", pnginfo=text)


def prepare_folder(
    root: str | Path,
    *,
    dirnames: Dirnames = DIRNAMES,
    disparity_model: DisparityModel | None,
    matting: SubjectMatting | None,
    convention: MapConvention = AS_STORED,
    cutouts: CutoutLimits | None = None,
    needs_disparity: bool = True,
    refine_disparity: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> PreparationReport:
    """Give every photograph of a folder its disparity and its subject mask; what is there already is kept.

    For input/NAME.jpg, depth/NAME_pred.npy is kept if it is valid; else another map NAME.npy, .npz, .exr, .tif, .png
    or .jpg is validated, normalised and written there (float32, 1 nearest) with a 16-bit NAME_pred.png to look at; else
    the model predicts it. A mask goes to mask/NAME.png unless there is one, and the subject to fg/NAME.png where
    foregrounds are wanted. Folders within input/ are mirrored in the others. A photograph that fails stops no other,
    and a run that was interrupted goes on where it stopped. Files of the user's own are never written to.

    Args:
        root: Folder that holds the others.
        dirnames: Names of the others.
        disparity_model: Predicts where there is no map; None for none.
        matting: Makes masks where there are none; None: no masks are made.
        convention: What the values of maps that are taken in mean.
        cutouts: Cut subjects out as training foregrounds, those that lie within these limits; None for none.
        needs_disparity: A photograph without a map that no model predicts fails; else it goes without.
        refine_disparity: Fit maps that are predicted or taken in to the photograph's edges; see `fit_disparity`.
        overwrite: Make NAME_pred.npy anew, and masks and foregrounds that this function made.
        progress: Show a bar.
        rank: Number of this process among those that share the photographs out.
        world_size: How many they are; each takes one of so many in turn.
    """
    root = Path(root)
    places = Places.under(root, dirnames)
    work = _Work(places, disparity_model, matting, convention, cutouts, needs_disparity, refine_disparity, overwrite)
    images = places.photographs()
    twins = _twins(images, places)
    with _bar(images[rank::world_size], progress) as bar:
        outcomes = tuple(twins.get(image) or work.prepare(image) for image in bar)
    return PreparationReport(
        root,
        outcomes,
        disparity_model.name if disparity_model else None,
        matting.name if matting else None,
        None if cutouts is None else places.foregrounds,
    )


def photographs_to_predict(
    root: str | Path,
    *,
    dirnames: Dirnames = DIRNAMES,
    overwrite: bool = False,
) -> list[Path]:
    """The photographs for which `prepare_folder` would ask the disparity model; empty means that none is needed.

    Args:
        root: As for `prepare_folder`.
        dirnames: As for `prepare_folder`.
        overwrite: As for `prepare_folder`.
    """
    places = Places.under(Path(root), dirnames)

    def is_there(image: Path) -> bool:
        kept = places.prediction(image).exists() and not overwrite
        return kept or places.map_to_take_in(image) is not None

    return [image for image in places.photographs() if not is_there(image)]


def _twins(images: list[Path], places: Places) -> dict[Path, Outcome]:
    """Photographs that differ from an earlier one in the suffix only, and would overwrite its map and mask."""
    first: dict[Path, Path] = {}
    twins = {}
    for image in images:
        elder = first.setdefault(places.key(image), image)
        if elder != image:
            problem = f"{image} shares its name with {elder.name}, and so its map: rename one of them"
            name = image.relative_to(places.images).as_posix()
            twins[image] = Outcome(name, "failed", "failed", problem=problem)
    return twins


@contextmanager
def _bar(images: list[Path], progress: bool) -> Iterator[Iterator[Path]]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), tqdm(images, unit="photo", disable=not progress) as bar:
        yield iter(bar)
