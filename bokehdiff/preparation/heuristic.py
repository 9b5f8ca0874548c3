"""The subject of a photograph without any network: what is near, central, and of other colours than the border."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import resize
from bokehdiff.preparation.edges import fit_mask
from bokehdiff.preparation.subject import check_same_size, fit

WORKING_SIDE_PX = 320  # the heuristic sees no more: regions, not hairs
N_LEVELS = 256  # what an 8-bit map can tell apart
LEVEL_BLUR = 0.03  # smooths the histogram over steps that 8 bits and small maps leave
BORDER_SHARE = 0.05  # of the shorter side: what counts as the photograph's border
COLOUR_NOISE = 4.0  # deviation of Lab colours within one surface
DISTINCT = 3.0  # deviations from the border's colours at which a pixel is wholly distinct
LEAST_DISTINCT = 0.25  # weight of a pixel in the border's colours, over one that is wholly distinct


@dataclass(frozen=True)
class DisparitySubject:
    """No network: the largest thing near the centre whose disparity is alike, its edges those of the photograph.

    Concretely: pixels weigh w(x, y) = exp(-((x / W - 1/2)^2 + (y / H - 1/2)^2) / (2 spread^2)). Otsu's threshold of the
    weighted histogram of disparity parts near from far; the level d* of the near part where weight times disparity
    is densest is the subject's; of the connected regions with |d - d*| <= band, the one with the most weight, each
    pixel's times how distinct its colour is from those along the photograph's border, is the mask. A guided filter
    fits it to the photograph.

    It takes whatever is near and central: good for a person in front of a background, wrong for a subject off-centre
    or a scene that recedes without a gap.

    Args:
        spread: Standard deviation of the preference for the centre, as a share of width and height.
        band: Largest difference of disparity within the subject.
        refine: Fit the mask to the photograph's edges.
    """

    spread: float = 0.25
    band: float = 0.15
    refine: bool = True

    @property
    def name(self) -> str:
        """What reports and logs call it."""
        return "heuristic from disparity, centre and colour (no mask model)"

    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 mh mw"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Mask of the subject; zero everywhere when the disparity is constant and nothing stands out.

        Args:
            image_srgb: Photograph in display space, in [0, 1]; its edges and colours count.
            disparity: In [0, 1], 1 nearest; needed.
        """
        if disparity is None:
            raise InputError("without disparity the heuristic finds no subject: pass a depth model or a mask model")
        check_same_size(image_srgb, disparity)
        low, high = float(disparity.min()), float(disparity.max())
        if not (low >= 0.0 and high <= 1.0):
            raise InputError(f"disparity must be in [0, 1]; got {low:g} ... {high:g} (see optics.normalise_disparity)")
        if low == high:
            return torch.zeros_like(disparity)
        scale = min(1.0, WORKING_SIDE_PX / max(disparity.shape[-2:]))
        height, width = (max(1, round(side * scale)) for side in disparity.shape[-2:])
        small = resize(disparity[None], (height, width))[0]
        colours = resize(image_srgb, (height, width))[0].permute(1, 2, 0)
        found = self._near_region(
            small[0].double().cpu().numpy(), distinctness(colours.clamp(0.0, 1.0).float().cpu().numpy())
        )
        mask = fit(torch.from_numpy(found).to(disparity), disparity)
        return fit_mask(mask, image_srgb) if self.refine else mask

    def _near_region(
        self, disparity: Float[np.ndarray, "h w"], distinct: Float[np.ndarray, "h w"]
    ) -> Bool[np.ndarray, "h w"]:
        from scipy import ndimage
        from skimage.filters import threshold_otsu

        weight = _gauss(disparity.shape, self.spread)
        counts, edges = np.histogram(disparity, bins=N_LEVELS, range=(0.0, 1.0), weights=weight)
        levels = (edges[1:] + edges[:-1]) / 2
        near = levels > threshold_otsu(hist=(counts, levels))
        density = ndimage.gaussian_filter1d(counts, LEVEL_BLUR * N_LEVELS, mode="constant") * levels * near
        level = levels[np.argmax(density)]
        nearest_of_far = levels[~near].max()
        alike = (np.abs(disparity - level) <= self.band) & (disparity > nearest_of_far)
        regions, n_regions = ndimage.label(alike)
        if n_regions == 0:
            return alike
        weights = ndimage.sum_labels(weight * distinct, regions, np.arange(1, n_regions + 1))
        return regions == 1 + np.argmax(weights)


def centre_weight(image_srgb: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 h w"]:
    """How much of a subject is to be expected at each pixel when nothing is known: 1 in the middle.

    Args:
        image_srgb: Photograph; only its size counts.
    """
    return torch.from_numpy(_gauss(tuple(image_srgb.shape[2:]), DisparitySubject.spread)).to(image_srgb)[None]


def _gauss(size_hw: tuple[int, ...], spread: float) -> np.ndarray:
    offsets = [((np.arange(side) + 0.5) / side - 0.5) / spread for side in size_hw]
    return np.exp(-0.5 * (offsets[0][:, None] ** 2 + offsets[1][None, :] ** 2))


def distinctness(image_srgb: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """How unlike the photograph's border each pixel is in colour, from 0.25 to 1; subjects seldom fill the border.

    Concretely, with m and C mean and covariance of the border's Lab colours, 16 added to C's diagonal, the Mahalanobis
    distance of a pixel's colour over 3, at most 1.

    Args:
        image_srgb: Photograph.
    """
    lab = cv2.cvtColor(np.ascontiguousarray(image_srgb), cv2.COLOR_RGB2LAB).astype(np.float64)
    width = max(1, round(BORDER_SHARE * min(lab.shape[:2])))
    inner = np.zeros(lab.shape[:2], dtype=bool)
    inner[width:-width, width:-width] = True
    border = lab[~inner]
    offset = lab - border.mean(axis=0)
    spread = np.cov(border.T, bias=True) + COLOUR_NOISE**2 * np.eye(3)
    distance = np.sqrt(np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(spread), offset))
    return np.clip(distance / DISTINCT, LEAST_DISTINCT, 1.0)
