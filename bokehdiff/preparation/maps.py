"""Taking in a map that somebody else made: read, fill, turn to near = 1, fit to the photograph, normalise."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import load_disparity, resize
from bokehdiff.optics import SPECKLE_PX, normalise_disparity

logger = logging.getLogger(__name__)

ASPECT_TOLERANCE = 0.02  # maps are often made at the nearest multiple of 14 or 16 px, which bends the aspect by as much
MAP_SUFFIXES = (
    ".npy",
    ".npz",
    ".exr",
    ".pfm",
    ".tif",
    ".tiff",
    ".png",
    ".webp",
    ".bmp",
    ".pgm",
    ".jpg",
    ".jpeg",
)  # most exact first


@dataclass(frozen=True)
class MapConvention:
    """What the values of a map mean.

    Args:
        from_depth: They are depths, in any unit, rather than disparities.
        invert: They are small where the scene is near, though no depths.
        fill_holes: What is unmeasured is filled rather than refused.
    """

    from_depth: bool = False
    invert: bool = False
    fill_holes: bool = False

    def __post_init__(self) -> None:
        if self.from_depth and self.invert:
            raise InputError("a map holds depth (from_depth) or inverted disparity (invert_disparity), not both")


def take_in(path: Path, size_hw: tuple[int, int], *, convention: MapConvention) -> Float[Tensor, "1 h w"]:
    """A map as the project's disparity: the size of its photograph, in [0, 1], 1 nearest.

    Args:
        path: The map, in any format of `images.load_disparity`.
        size_hw: Of the photograph [px].
        convention: What the values mean.
    """
    disparity = _without_holes(path, convention)
    return normalised(fit_to(disparity, size_hw, path=path), what=str(path))


def _without_holes(path: Path, convention: MapConvention) -> Float[Tensor, "1 h w"]:
    values = load_disparity(path, holes=True)
    measured = torch.isfinite(values)
    if convention.from_depth:
        measured &= values > 0
    disparity = 1.0 / values if convention.from_depth else (-values if convention.invert else values)
    n_holes = int((~measured).sum())
    if n_holes == 0:
        return disparity
    reason = "NaN, infinite, or a depth of 0 or less" if convention.from_depth else "NaN or infinite"
    share = f"{100.0 * n_holes / measured.numel():.3g} % of {path} is unmeasured ({reason})"
    if not convention.fill_holes:
        raise InputError(f"{share}: ask for holes to be filled (fill_holes), or mend the map")
    if n_holes == measured.numel():
        raise InputError(f"{share}: there is nothing to fill it from")
    logger.info("%s: filled from the farther side of each hole", share)
    return fill_holes(disparity, measured)


def fill_holes(disparity: Float[Tensor, "1 h w"], measured: Bool[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """Fill what is unmeasured with the background beside it, as holes of stereo lie behind edges.

    Concretely, a hole at (y, x) becomes the smaller of the nearest measured disparities to its left and right in row y;
    in a row where nothing is measured, the smaller of those above and below.

    Args:
        disparity: Larger is nearer, any range; ignored where not measured.
        measured: True at least once.
    """
    rows = _fill_rows(disparity, measured)
    return _fill_rows(rows.mT, torch.isfinite(rows).mT).mT.contiguous()


def _fill_rows(disparity: Tensor, measured: Tensor) -> Tensor:
    left = _nearest_before(disparity, measured)
    right = _nearest_before(disparity.flip(-1), measured.flip(-1)).flip(-1)
    return torch.where(measured, disparity, torch.minimum(left, right))


def _nearest_before(disparity: Tensor, measured: Tensor) -> Tensor:
    """In each row, the last measured value up to here; infinity before the first."""
    columns = torch.arange(disparity.shape[-1], device=disparity.device).expand(disparity.shape)
    last = torch.where(measured, columns, -1).cummax(dim=-1).values
    return torch.where(last >= 0, disparity.gather(-1, last.clamp_min(0)), torch.inf)


def fit_to(disparity: Float[Tensor, "1 mh mw"], size_hw: tuple[int, int], *, path: Path) -> Float[Tensor, "1 h w"]:
    """Resize a map to its photograph, which must have the same aspect.

    Args:
        disparity: The map.
        size_hw: Of the photograph [px].
        path: Named in the message and the log.
    """
    height, width = disparity.shape[-2:]
    if (height, width) == size_hw:
        return disparity
    aspect_ratio = (width / height) / (size_hw[1] / size_hw[0])
    sizes = f"{width} x {height} px, the photograph {size_hw[1]} x {size_hw[0]}"
    if abs(aspect_ratio - 1.0) > ASPECT_TOLERANCE:
        is_turned = (height > width) != (size_hw[0] > size_hw[1])
        turned = " (the photograph was turned upright by its EXIF; turn the map, too)" if is_turned else ""
        raise InputError(f"{path} is {sizes}: not the same view{turned}; expected the same aspect")
    logger.info("%s is %s: resized", path, sizes)
    return resize(disparity[None], size_hw)[0]


def normalised(disparity: Float[Tensor, "1 h w"], *, what: str) -> Float[Tensor, "1 h w"]:
    """`optics.normalise_disparity`, refusing a map that says nothing.

    Args:
        disparity: Larger is nearer, any range.
        what: Where the disparity is from, for the message.
    """
    if not bool(torch.isfinite(disparity).all()):
        raise InputError(f"{what} has NaN or infinity in it")
    result = normalise_disparity(disparity)
    if bool(result.any()):
        return result
    low, high = float(disparity.min()), float(disparity.max())
    if max(disparity.shape[-2:]) > SPECKLE_PX:
        raise InputError(
            f"{what}: the disparity is constant ({low:g} ... {high:g}, specks aside), which tells no near from far"
        )
    logger.info("%s: too small to tell near from far; disparity 0 everywhere", what)
    return result
