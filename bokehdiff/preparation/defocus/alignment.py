"""Defocused photographs laid over the sharp one: hand, tripod and focusing move the picture, and exposure differs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import Transfer, linear_to_srgb, resize
from bokehdiff.optics import Aperture
from bokehdiff.preparation.defocus.focal_sweep import Blurrer

SIZES_PX = (80, 160, 320)  # longer sides of the images that are compared, one after the other
LARGEST_SHARE = 0.1  # of the longer side: no disc of more is tried
RADIUS_STEP_SHARE = 0.008  # of the longer side, between them
ITERATIONS, LEAST_CHANGE = 200, 1e-8  # of the search, and of the correlation
LEAST_CORRELATION = 0.5  # of pictures that show one view
LEAST_DEVIATION = 1e-3  # of display values: less is no texture
CLIPPED_SRGB = 0.98  # brighter pixels do not tell how bright they were
DARK_LINEAR = 0.02  # darker ones are noise, as a ratio
MOVED_PX = 0.15  # movements, ...
MOVED_SHARE = 0.05  # ... in blurred pictures this share of the mean disc, and ...
GAIN_SLACK = 0.01  # ... changes of brightness that the search finds where there are none


@dataclass(frozen=True)
class Alignment:
    """Where the points of the sharp photograph lie in a defocused one, and how bright they are there.

    Args:
        matrix: Takes points (x, y, 1) of the one to (x, y) of the other, in pixels, centres at halves.
        gain: Light of the defocused photograph over that of the sharp one.
    """

    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    gain: float

    def largest_px(self, size_hw: tuple[int, int]) -> float:
        """How far the corner moves that moves most [px].

        Args:
            size_hw: Of the photographs.
        """
        height, width = size_hw
        corners = np.array([[x, y, 1.0] for x in (0.0, width) for y in (0.0, height)])
        return float(np.hypot(*(corners @ np.array(self.matrix).T - corners[:, :2]).T).max())

    def resized(self, scale: float) -> Alignment:
        """The same for images resized by `scale`."""
        (a, b, c), (d, e, f) = self.matrix
        return Alignment(((a, b, scale * c), (d, e, scale * f)), self.gain)


NONE = Alignment(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), 1.0)


def roughly_aligned(
    sharp_linear: Float[Tensor, "1 3 h w"],
    blurred_linear: Float[Tensor, "1 3 h w"],
    *,
    transfer: Transfer,
    aperture: Aperture,
) -> Alignment:
    """The alignment of a defocused photograph of unknown depth: the sharp one stands for it, blurred all over alike.

    Args:
        sharp_linear: All in focus.
        blurred_linear: Defocused, of the same size.
        transfer: How light becomes display values, in which pictures are compared.
        aperture: Shape of the opening.
    """
    longer = max(sharp_linear.shape[2:])
    found = NONE
    for side in sorted({min(side, longer) for side in SIZES_PX}):
        scale = side / longer
        size_hw = (max(1, round(scale * sharp_linear.shape[2])), max(1, round(scale * sharp_linear.shape[3])))
        sharp, blurred = resize(sharp_linear, size_hw), resize(blurred_linear, size_hw)
        picture = _softened(sharp, blurred, transfer, aperture)
        found = aligned(picture, blurred, found.resized(scale), transfer=transfer).resized(1.0 / scale)
    return found


def aligned(
    picture_linear: Float[Tensor, "1 3 h w"],
    blurred_linear: Float[Tensor, "1 3 h w"],
    start: Alignment,
    *,
    transfer: Transfer,
) -> Alignment:
    """The alignment of a defocused photograph to a picture of what it should show.

    OpenCV's enhanced correlation coefficient (Evangelidis and Psarakis, PAMI 2008), which brightness does not change,
    is climbed over affine maps; of the best one the part that hands, tripods and focusing make is kept: a shift, a turn
    and a change of scale. The gain is the median ratio of light.

    Args:
        picture_linear: What it should show.
        blurred_linear: The photograph.
        start: Where to begin.
        transfer: How light becomes display values, in which pictures are compared.
    """
    map_2x3, correlation = _climbed(
        _grey(picture_linear, transfer), _grey(blurred_linear, transfer), np.array(start.matrix)
    )
    if correlation < LEAST_CORRELATION:
        raise InputError(
            f"the defocused image does not show the view of the sharp one: their correlation is {correlation:.2f}, "
            f"expected {LEAST_CORRELATION} or more"
        )
    found = Alignment(_similar(map_2x3, picture_linear.shape[2] / 2, picture_linear.shape[3] / 2), 1.0)
    return Alignment(found.matrix, _gain(picture_linear, moved_back(blurred_linear, found), transfer))


def worth_it(alignment: Alignment, size_hw: tuple[int, int], *, disc_px: float) -> Alignment:
    """The alignment without the parts that are as small as its errors.

    Args:
        alignment: Found.
        size_hw: Of the photographs that were compared.
        disc_px: Mean radius of the defocused one's discs [px].
    """
    least_px = max(MOVED_PX, MOVED_SHARE * disc_px)
    matrix = alignment.matrix if alignment.largest_px(size_hw) > least_px else NONE.matrix
    return Alignment(matrix, alignment.gain if abs(alignment.gain - 1.0) > GAIN_SLACK else 1.0)


def _similar(map_2x3: np.ndarray, y: float, x: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The nearest shift, turn and scale, which moves the point (x, y) as the map does."""
    scaled_cosine = float(map_2x3[0, 0] + map_2x3[1, 1]) / 2.0
    scaled_sine = float(map_2x3[1, 0] - map_2x3[0, 1]) / 2.0
    centre_x, centre_y = (float(value) for value in map_2x3 @ np.array([x, y, 1.0]))
    return (
        (scaled_cosine, -scaled_sine, centre_x - scaled_cosine * x + scaled_sine * y),
        (scaled_sine, scaled_cosine, centre_y - scaled_sine * x - scaled_cosine * y),
    )


def moved_back(image_linear: Float[Tensor, "1 3 h w"], alignment: Alignment) -> Float[Tensor, "1 3 h w"]:
    """A defocused photograph laid over the sharp one, as bright; beyond its border the edge pixels go on.

    Args:
        image_linear: As taken.
        alignment: From `find_alignment`.
    """
    if alignment == NONE:
        return image_linear
    height, width = image_linear.shape[2:]
    pixels = np.ascontiguousarray(image_linear[0].permute(1, 2, 0).numpy())
    moved = cv2.warpAffine(
        pixels,
        _at_integers(np.array(alignment.matrix)),
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return torch.from_numpy(moved).permute(2, 0, 1)[None].clamp_min(0.0) / alignment.gain


def _at_integers(matrix: np.ndarray) -> np.ndarray:
    """The same map for OpenCV, which has pixel centres at integers."""
    shift = matrix[:, :2] @ np.array([0.5, 0.5]) + matrix[:, 2] - 0.5
    return np.concatenate([matrix[:, :2], shift[:, None]], axis=1)


def _climbed(picture: np.ndarray, blurred: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, LEAST_CHANGE)
    first = _at_integers(start).astype(np.float32)
    try:
        correlation, found = cv2.findTransformECC(picture, blurred, first, cv2.MOTION_AFFINE, criteria, None, 1)
    except cv2.error:  # OpenCV's way to say that it does not converge
        return start, _correlation(picture, blurred)
    shift = found[:, 2] - found[:, :2] @ np.array([0.5, 0.5]) + 0.5
    return np.concatenate([found[:, :2], shift[:, None]], axis=1).astype(np.float64), float(correlation)


def _correlation(picture: np.ndarray, other: np.ndarray) -> float:
    """Of two grey pictures; 1 where one of them has no texture, which is not for this room to refuse."""
    deviation = float(picture.std() * other.std())
    covariance = float(((picture - picture.mean()) * (other - other.mean())).mean())
    return covariance / deviation if deviation > LEAST_DEVIATION**2 else 1.0


def _grey(image_linear: Float[Tensor, "1 3 h w"], transfer: Transfer) -> np.ndarray:
    shown = linear_to_srgb(image_linear, transfer=transfer).clamp(0.0, 1.0)
    return np.ascontiguousarray(shown[0].mean(dim=0).numpy())


def _softened(
    sharp_linear: Float[Tensor, "1 3 h w"],
    blurred_linear: Float[Tensor, "1 3 h w"],
    transfer: Transfer,
    aperture: Aperture,
) -> Float[Tensor, "1 3 h w"]:
    """The sharp picture through the disc that correlates best."""
    size_hw = (sharp_linear.shape[2], sharp_linear.shape[3])
    largest_px = LARGEST_SHARE * max(size_hw)
    blurrer = Blurrer(size_hw, largest_px, aperture)
    transform = blurrer.transform(sharp_linear[0])
    target = _grey(blurred_linear, transfer)
    best, most = sharp_linear, -math.inf
    for radius_px in np.arange(0.0, largest_px, max(RADIUS_STEP_SHARE * max(size_hw), 0.5)).tolist():
        picture = blurrer.blurred(transform, blurrer.kernel(radius_px))[None].clamp_min(0.0)
        grey = _grey(picture, transfer)
        correlation = _correlation(grey, target)
        if correlation > most:
            best, most = picture, correlation
    return best


def _gain(picture_linear: Float[Tensor, "1 3 h w"], moved: Float[Tensor, "1 3 h w"], transfer: Transfer) -> float:
    """Median ratio of light, where neither is clipped or dark."""
    pair = (picture_linear, moved)
    told = torch.stack([(linear_to_srgb(image, transfer=transfer) < CLIPPED_SRGB).all(dim=1) for image in pair])
    told &= torch.stack([image.mean(dim=1) > DARK_LINEAR for image in pair])
    there = told.all(dim=0)
    if not bool(there.any()):
        return 1.0
    return float((moved.mean(dim=1)[there] / picture_linear.mean(dim=1)[there]).median())
