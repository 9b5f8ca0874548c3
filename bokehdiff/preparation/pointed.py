"""Subject masks by Segment Anything (2 and 3), which segments what a point lies on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.preparation.heuristic import DisparitySubject, centre_weight
from bokehdiff.preparation.pretrained import Checkpoint
from bokehdiff.preparation.subject import fit, overlap

logger = logging.getLogger(__name__)

POINTED = ("sam2", "sam2_video", "sam3_tracker", "sam3_video")  # model types that transformers loads for points
ON_SUBJECT = 1  # label of a point that lies on what is wanted


@dataclass(frozen=True)
class PointedMatting:
    """Segment Anything as a `SubjectMatting`: of the masks that it offers for one point, the most likely.

    Without a point, the one deepest inside `DisparitySubject`'s mask is taken, and each offer's own score counts times
    its overlap with that mask, since a point on a shirt may mean the shirt or who wears it. Without disparity, too, the
    point is the middle.

    Args:
        model: Of `AutoModelForMaskGeneration`, in evaluation mode.
        processor: Its image processor.
        name: What reports and logs call it.
        point_xy: As shares of width and height, the same in every photograph; None to find one in each.
    """

    model: Any
    processor: Any
    name: str
    point_xy: tuple[float, float] | None = None

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, *, point_xy: tuple[float, float] | None, device: torch.device | str
    ) -> PointedMatting:
        """From weights on this machine.

        Args:
            checkpoint: Of one of the `POINTED` model types.
            point_xy: See the class.
            device: Where the model runs.
        """
        from transformers import AutoImageProcessor, AutoModelForMaskGeneration

        model = checkpoint.load_complete(AutoModelForMaskGeneration)
        processor = checkpoint.load(AutoImageProcessor)
        logger.info("subject masks by %s, from a point on each subject", checkpoint.name)
        return cls(model.to(device).eval(), processor, checkpoint.name, point_xy)

    @torch.no_grad()
    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 mh mw"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Mask of what the point lies on; see the class.

        Args:
            image_srgb: Photograph in display space, in [0, 1].
            disparity: In [0, 1], 1 nearest; None where it is not known.
        """
        expected = None
        point_xy = self.point_xy or (0.5, 0.5)
        if self.point_xy is None:
            near = centre_weight(image_srgb)
            if disparity is not None:
                near = DisparitySubject(refine=False).predict(image_srgb, disparity)
                expected = near if bool(near.any()) else None
            point_xy = deepest_point(near)
        masks, scores = self._offers(image_srgb, point_xy)
        if expected is not None:
            scores = scores * overlap(masks, fit(expected[0], masks).to(masks))
        return fit(masks[scores.argmax()].to(image_srgb.device), image_srgb).clamp(0.0, 1.0)

    def _offers(
        self, image_srgb: Float[Tensor, "1 3 h w"], point_xy: tuple[float, float]
    ) -> tuple[Float[Tensor, "n mh mw"], Float[Tensor, " n"]]:
        """The masks that the model offers for a point, and its own scores of them."""
        weight = next(self.model.parameters())
        inputs = self.processor(images=[image_srgb[0]], do_rescale=False, return_tensors="pt")
        pixels = inputs["pixel_values"].to(weight.device, weight.dtype)
        height, width = pixels.shape[-2:]  # photographs are stretched to the model's square, and points with them
        place = torch.tensor([[[[point_xy[0] * width, point_xy[1] * height]]]]).to(weight)
        outputs = self.model(
            pixel_values=pixels,
            input_points=place,
            input_labels=torch.full((1, 1, 1), ON_SUBJECT, device=weight.device),
            multimask_output=True,
        )
        return outputs.pred_masks[0, 0].float().sigmoid(), outputs.iou_scores[0, 0].float()


def deepest_point(mask: Float[Tensor, "1 h w"]) -> tuple[float, float]:
    """The point of a mask that is farthest from its edge, as shares of width and height.

    Args:
        mask: In [0, 1]; where it reaches half of its maximum counts.
    """
    inside = (mask[0] >= mask.max() / 2).cpu().numpy().astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    return (float(column) + 0.5) / inside.shape[1], (float(row) + 0.5) / inside.shape[0]
