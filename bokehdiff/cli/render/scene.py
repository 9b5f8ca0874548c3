"""A photograph with all that belongs to it, read from its files and brought to one size."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from bokehdiff.cli.render.options import RenderOptions
from bokehdiff.cli.render.places import MASK_ENDINGS, Task, disparity_of, map_of
from bokehdiff.errors import InputError, at_fault
from bokehdiff.images import Photo, load_disparity, load_mask, load_photo, resize
from bokehdiff.optics import normalise_disparity

logger = logging.getLogger(__name__)

ASPECT_TOLERANCE_PX = 2.0  # a map of other size may be off by so much of the photograph, from its own rounding


@dataclass(frozen=True, eq=False)
class View:
    """What is known of one view.

    Args:
        photo: The photograph.
        disparity: Of the photograph's size; in [0, 1] for a strength K, in 1/m for a camera.
        farthest: Metric disparity that became 0 of `disparity` [1/m]; None where maps hold no distances.
        nearest: Metric disparity that became 1 [1/m]; None as `farthest`.
        matte: Share of each pixel that is subject; None if unknown.
    """

    photo: Photo
    disparity: Float[Tensor, "1 h w"]
    farthest: float | None
    nearest: float | None
    matte: Float[Tensor, "1 h w"] | None


def load_view(task: Task, options: RenderOptions) -> View:
    """Read a photograph and its maps.

    Args:
        task: The photograph.
        options: The command line.
    """
    with at_fault("--image"):
        photo = load_photo(task.photograph)
    if photo.alpha is not None:
        logger.warning(
            "%s: its transparency is not carried over to the result (if it cuts out a subject: --matte %s)",
            task.name,
            task.photograph.name,
        )
    with at_fault("--disparity"):
        found = disparity_of(task, options)
        stored = load_disparity(found, invert=options.maps.invert_disparity, key=options.maps.disparity_key)
        disparity, farthest, nearest = _in_range(found, stored, options)
        disparity = fitted(disparity, photo.size_hw, what=f"disparity {found.name}")
    return View(photo, disparity, farthest, nearest, load_mask_of(task, photo, options.maps.matte, flag="--matte"))


def load_mask_of(task: Task, photo: Photo, where: str | None, *, flag: str) -> Float[Tensor, "1 h w"] | None:
    """A mask of the photograph's size; None if none was asked for.

    Args:
        task: The photograph.
        photo: The same, loaded.
        where: File or folder.
        flag: The flag at fault where it cannot be used.
    """
    if where is None:
        return None
    with at_fault(flag):
        path = map_of(task, where, MASK_ENDINGS)
        return fitted(load_mask(path), photo.size_hw, what=f"{flag[2:]} {path.name}")


def _in_range(
    path: Path, stored: Float[Tensor, "1 h w"], options: RenderOptions
) -> tuple[Float[Tensor, "1 h w"], float | None, float | None]:
    """Disparity in [0, 1], or in 1/m for a camera; with the metric disparities that 0 and 1 stand for."""
    maps = options.maps
    if maps.depth_is == "metric":
        stored = _inverse_distance(path, stored * maps.depth_scale)
    if options.lens.f_number is not None:
        return stored, None, None
    farthest, nearest = (float(value) for value in stored.aminmax())
    if maps.depth_is != "disparity":
        if nearest == farthest:
            raise InputError(f"{path}: all is at one distance, {1 / nearest:g} m: there is nothing to blur")
        return (stored - farthest) / (nearest - farthest), farthest, nearest
    if maps.normalize_disparity:
        return normalise_disparity(stored), None, None
    if not (farthest >= 0.0 and nearest <= 1.0):
        raise InputError(
            f"{path}: disparity must be in [0, 1]; got {farthest:g} ... {nearest:g}: pass --normalize-disparity, or "
            "--f-number or --depth-is if it is metric"
        )
    return stored, None, None


def _inverse_distance(path: Path, distance_m: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    least = float(distance_m.min())
    if not least > 0:
        raise InputError(f"{path}: distances must be above 0; got {least:g} (fill unmeasured pixels first)")
    return distance_m.reciprocal()


def fitted(plane: Float[Tensor, "1 h w"], size_hw: tuple[int, int], *, what: str) -> Float[Tensor, "1 h2 w2"]:
    """A map at the size of the photograph, if it shows the same view.

    Args:
        plane: The map.
        size_hw: Height and width of the photograph [px].
        what: What messages call the map.
    """
    height, width = plane.shape[1:]
    if (height, width) == size_hw:
        return plane
    if abs(width * size_hw[0] / height - size_hw[1]) > ASPECT_TOLERANCE_PX * size_hw[0] / height:
        raise InputError(
            f"the {what} has another shape than the photograph: {width} x {height} for {size_hw[1]} x {size_hw[0]}"
        )
    logger.info("%s: resized from %d x %d to %d x %d", what, width, height, size_hw[1], size_hw[0])
    return resize(plane[:, None], size_hw)[:, 0].clamp(plane.min(), plane.max())
