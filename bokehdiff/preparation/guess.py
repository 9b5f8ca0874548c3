"""Disparity without any network or map: a guess from where things stand in the picture and what colour they have."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bokehdiff.images import resize
from bokehdiff.preparation.disparity import DisparityEstimate
from bokehdiff.preparation.edges import fit_disparity
from bokehdiff.preparation.heuristic import centre_weight, distinctness

WORKING_SIDE_PX = 320  # regions, not hairs, as in the heuristic for masks
FLOOR_NEAREST = 0.5  # disparity of the floor at the lower border: below that of whatever stands on it
LIFT = 0.35  # of the subject over the floor at its feet: it is a guess that it stands out at all
LIKELY = 0.75  # quantile of centre times colour beyond which pixels begin as the subject
CERTAIN_SHARE = 0.04  # of each side but the lower one: a subject seldom touches them
LEAST_SHARE, MOST_SHARE = 0.03, 0.8  # of the picture that a subject fills; else nothing stands out
CUT_ROUNDS = 4
GREATEST_BYTE = 255.0


@dataclass(frozen=True)
class GuessedDisparity:
    """No network: a floor that comes nearer towards the lower border, and one thing that stands on it.

    Concretely, floor(y) = 0.5 (y / H)^2; GrabCut (Rother et al. 2004) parts the picture in two, begun with what is
    central and of other colours than the border; the largest part becomes the subject, everywhere at the disparity of
    the floor at its lowest row + 0.35. Steps are fitted to the photograph's edges.

    This says nothing about the scene that a glance would not, and is wrong for most: a landscape's sky is far, a wall
    is taken for a receding floor. It is there so that something can be tried before a depth model is at hand.
    """

    @property
    def name(self) -> str:
        """What reports and logs call it."""
        return "guess from position and colour (no depth model)"

    def estimate(self, image_srgb: Float[Tensor, "1 3 h w"]) -> DisparityEstimate:
        """Disparity in [0, 1], larger is nearer.

        Args:
            image_srgb: Photograph in display space, in [0, 1].
        """
        height, width = image_srgb.shape[2:]
        scale = min(1.0, WORKING_SIDE_PX / max(height, width))
        small = resize(image_srgb.clamp(0.0, 1.0), (max(1, round(height * scale)), max(1, round(width * scale))))
        rows = (torch.arange(small.shape[2]) + 0.5) / small.shape[2]
        floor = (FLOOR_NEAREST * rows.square())[:, None].expand(*small.shape[2:]).clone()
        subject = torch.from_numpy(_standing_out(small))
        if bool(subject.any()):
            foot = int(subject.any(dim=1).nonzero().max())
            floor[subject] = float(floor[foot, 0]) + LIFT
        disparity = resize(floor[None, None].to(image_srgb), (height, width))[0]
        return DisparityEstimate(fit_disparity(disparity, image_srgb))


def _standing_out(image_srgb: Float[Tensor, "1 3 h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest region that GrabCut parts from the rest; nowhere where it finds none of a subject's size."""
    height, width = image_srgb.shape[2:]
    pixels = image_srgb[0].permute(1, 2, 0).float().cpu().numpy()
    expected = centre_weight(image_srgb)[0].cpu().numpy() * distinctness(pixels)
    labels = np.where(expected > np.quantile(expected, LIKELY), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    rim = max(1, round(CERTAIN_SHARE * min(height, width)))
    labels[:rim] = labels[:, :rim] = labels[:, -rim:] = cv2.GC_BGD
    if not (labels == cv2.GC_PR_FGD).any():
        return np.zeros((height, width), dtype=bool)
    bytes_bgr = np.ascontiguousarray((pixels[..., ::-1] * GREATEST_BYTE).round().astype(np.uint8))
    cv2.setRNGSeed(0)  # GrabCut's colour models begin at random places
    models = np.zeros((1, 65)), np.zeros((1, 65))  # 13 numbers for each of OpenCV's five Gaussians
    cv2.grabCut(bytes_bgr, labels, None, *models, CUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return _largest(labels == cv2.GC_PR_FGD)


def _largest(found: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    from scipy import ndimage

    regions, n_regions = ndimage.label(found)
    sizes = ndimage.sum_labels(found, regions, np.arange(1, n_regions + 1)) if n_regions else np.zeros(1)
    largest = ndimage.binary_fill_holes(regions == 1 + int(np.argmax(sizes)))
    return largest if LEAST_SHARE <= largest.mean() <= MOST_SHARE else np.zeros_like(found)
