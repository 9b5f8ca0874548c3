"""Masks brought to hair by ViTMatte: sure inside, sure outside, and a band between where the network decides."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.errors import InputError
from bokehdiff.images import resize
from bokehdiff.preparation.pretrained import find_checkpoint
from bokehdiff.preparation.subject import SubjectMatting, fit

logger = logging.getLogger(__name__)

VITMATTE = "vitmatte"
MOST_PX = 1536  # longer side that the network sees: its attention costs the square of the area
BAND_SHARE = 0.015  # half width of the band, as a share of the longer side: how far a mask's edge may be off
SURE = 0.95  # a mask above it, or below 1 - it, is taken at its word away from edges
UNKNOWN = 0.5  # in a trimap
INSTEAD = "pass a local folder of a ViTMatte model, or --mask-refine guided, which needs no weights"


@dataclass(frozen=True)
class RefinedMatting:
    """Another matting's masks, their edges by ViTMatte (Yao et al. 2024).

    Args:
        matting: Finds the subject.
        model: `VitMatteForImageMatting`, in evaluation mode.
        processor: Its image processor.
        refined_by: What reports and logs call the model.
    """

    matting: SubjectMatting
    model: Any
    processor: Any
    refined_by: str

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        matting: SubjectMatting,
        revision: str | None = None,
        device: torch.device | str = "cpu",
    ) -> RefinedMatting:
        """Load a ViTMatte model.

        Args:
            path_or_id: Local folder, or hub id such as "hustvl/vitmatte-small-composition-1k".
            matting: Whose masks are refined.
            revision: Branch, tag or commit of a hub id; None for its default branch.
            device: Where the model runs.
        """
        from transformers import VitMatteForImageMatting, VitMatteImageProcessor

        checkpoint = find_checkpoint(path_or_id, revision=revision, instead=INSTEAD)
        kind = checkpoint.config().get("model_type")
        if kind != VITMATTE:
            raise InputError(f"{path_or_id} holds a model of type {kind}; expected {VITMATTE}")
        model = checkpoint.load_complete(VitMatteForImageMatting)
        processor = checkpoint.load(VitMatteImageProcessor)
        logger.info("edges of masks by %s; see its model card for the licence of the weights", path_or_id)
        return cls(matting, model.to(device).eval(), processor, str(path_or_id))

    @property
    def name(self) -> str:
        """What reports and logs call it."""
        return f"{self.matting.name}, edges by {self.refined_by}"

    @torch.no_grad()
    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 h w"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Share of each pixel that is subject, in [0, 1].

        Args:
            image_srgb: Photograph in display space, in [0, 1].
            disparity: As the other matting needs it.
        """
        mask = self.matting.predict(image_srgb, disparity)
        factor = min(1.0, MOST_PX / max(mask.shape[1:]))
        size_hw = (max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[2] * factor)))
        trimap = trimap_of(resize(mask[None], size_hw)[0])
        if not bool((trimap == UNKNOWN).any()):
            return mask
        alpha = self._alpha(resize(image_srgb, size_hw), trimap)
        alpha = torch.where(trimap == UNKNOWN, alpha, trimap)
        return fit(alpha[0], mask).clamp(0.0, 1.0)

    def _alpha(self, image_srgb: Float[Tensor, "1 3 h w"], trimap: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
        weight = next(self.model.parameters())
        inputs = self.processor(images=[image_srgb[0]], trimaps=[trimap[0]], do_rescale=False, return_tensors="pt")
        alphas = self.model(pixel_values=inputs["pixel_values"].to(weight.device, weight.dtype)).alphas
        height, width = trimap.shape[1:]
        return alphas[0, :, :height, :width].float().to(trimap.device)


def trimap_of(mask: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """What a mask is sure of: 0 outside, 1 inside, and 0.5 in a band along its edges and wherever it wavers.

    Concretely, a pixel is 1 if all masks within r = 1.5 % of the longer side are above 0.95, 0 if all are below 0.05.

    Args:
        mask: Share of each pixel that is subject, in [0, 1].
    """
    radius = max(1, math.ceil(BAND_SHARE * max(mask.shape[1:])))
    highest = F.max_pool2d(mask[None], 2 * radius + 1, stride=1, padding=radius)[0]
    lowest = -F.max_pool2d(-mask[None], 2 * radius + 1, stride=1, padding=radius)[0]
    trimap = torch.full_like(mask, UNKNOWN)
    trimap[lowest > SURE] = 1.0
    trimap[highest < 1 - SURE] = 0.0
    return trimap
