"""Disparity from one photograph, by any depth model that transformers loads."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.preparation.pretrained import find_checkpoint

logger = logging.getLogger(__name__)

Quantity = Literal["disparity", "depth"]
NEAREST_DEPTH_M = 0.01  # a network's depth of 0 would be an infinite disparity; nothing is photographed nearer
MAX_ASPECT = 8  # longer strips are padded; panoramas are shorter
WITHOUT_WEIGHTS = (
    "pass a local folder of a depth model instead, or put a map NAME.png or NAME.npy into the depth folder"
)


@dataclass(frozen=True)
class DisparityEstimate:
    """What a model tells of a photograph.

    Args:
        disparity: Larger is nearer; in 1/m if it is metric, else of any finite range.
        is_metric: The model knows metres.
        focal_length_px: Of the camera, in pixels of the photograph; None where the model does not tell.
    """

    disparity: Float[Tensor, "1 h w"]
    is_metric: bool = False
    focal_length_px: float | None = None


@runtime_checkable
class DisparityModel(Protocol):
    """Estimates disparity from one photograph.

    Args:
        name: What reports and logs call it.
    """

    @property
    def name(self) -> str:
        """What reports and logs call it."""

    def estimate(self, image_srgb: Float[Tensor, "1 3 h w"]) -> DisparityEstimate:
        """Disparity of each pixel, and what else is known.

        Args:
            image_srgb: Photograph in display space, in [0, 1].
        """


@dataclass(frozen=True)
class PublishedModel:
    """Weights on the hub and the terms they come with.

    Args:
        hub_id: Repository of the weights.
        licence: SPDX name of the licence of the weights.
    """

    hub_id: str
    licence: str


ModelSize = Literal["Small", "Base", "Large"]
DEPTH_ANYTHING_V2: dict[ModelSize, PublishedModel] = {
    "Small": PublishedModel("depth-anything/Depth-Anything-V2-Small-hf", "Apache-2.0"),
    "Base": PublishedModel("depth-anything/Depth-Anything-V2-Base-hf", "CC-BY-NC-4.0"),
    "Large": PublishedModel("depth-anything/Depth-Anything-V2-Large-hf", "CC-BY-NC-4.0"),
}


@dataclass(frozen=True)
class TransformersDisparity:
    """A depth model of transformers as a `DisparityModel`.

    Args:
        model: Of `AutoModelForDepthEstimation`, in evaluation mode.
        processor: Its image processor.
        name: What reports and logs call it.
        quantity: What the model predicts; "depth" is turned into 1 / depth.
    """

    model: Any
    processor: Any
    name: str
    quantity: Quantity

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        quantity: Quantity | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TransformersDisparity:
        """Load a depth model; one that is nowhere to be found is refused within seconds.

        Args:
            path_or_id: Local folder, or hub id such as "depth-anything/Depth-Anything-V2-Small-hf".
            revision: Branch, tag or commit of a hub id; None for its default branch.
            quantity: What it predicts; None for what is known of its kind.
            device: Where the model runs.
            dtype: Precision it runs in; the disparity is float32 in any case.
        """
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        checkpoint = find_checkpoint(path_or_id, revision=revision, instead=WITHOUT_WEIGHTS)
        model = checkpoint.load_complete(AutoModelForDepthEstimation, dtype=dtype)
        quantity = quantity or predicted_quantity(model.config)
        processor = checkpoint.load(AutoImageProcessor)
        logger.info("disparity by %s, %s", path_or_id, _licence_note(str(path_or_id)))
        return cls(model.to(device).eval(), processor, str(path_or_id), quantity)

    def predict(self, image_srgb: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 h w"]:
        """Disparity of each pixel: larger is nearer; 1 / depth in 1/m where the model knows metres.

        Args:
            image_srgb: Photograph in display space, in [0, 1].
        """
        return self.estimate(image_srgb).disparity

    @torch.no_grad()
    def estimate(self, image_srgb: Float[Tensor, "1 3 h w"]) -> DisparityEstimate:
        """Disparity of each pixel, and the focal length where the model tells it (Depth Pro does).

        Args:
            image_srgb: Photograph in display space, in [0, 1].
        """
        height, width = image_srgb.shape[-2:]
        image_srgb = _thickened(image_srgb)
        size_hw = tuple(image_srgb.shape[-2:])
        weight = next(self.model.parameters())
        inputs = self.processor(images=[image_srgb[0]], do_rescale=False, return_tensors="pt")
        outputs = self.model(pixel_values=inputs["pixel_values"].to(weight.device, weight.dtype))
        outputs.predicted_depth = outputs.predicted_depth.float()
        post_process = self.processor.post_process_depth_estimation
        sizes = {"target_sizes": [size_hw]}
        if "source_sizes" in inspect.signature(post_process).parameters:  # ZoeDepth: crops its own padding away
            sizes["source_sizes"] = [size_hw]
        found = post_process(outputs, **sizes)[0]
        predicted = found["predicted_depth"].reshape(1, *size_hw)[:, :height, :width]
        predicted = predicted.to(image_srgb.device, torch.float32)
        if self.quantity == "disparity":
            return DisparityEstimate(predicted)
        focal = found.get("focal_length")
        return DisparityEstimate(
            1.0 / predicted.clamp_min(NEAREST_DEPTH_M),
            is_metric=True,
            focal_length_px=None if focal is None else float(focal),
        )


def _thickened(image_srgb: Tensor) -> Tensor:
    """A strip made thicker by repeating its edge: processors round a side to whole patches, a thin one to none."""
    height, width = image_srgb.shape[-2:]
    below, right = max(0, width // MAX_ASPECT - height), max(0, height // MAX_ASPECT - width)
    return torch.nn.functional.pad(image_srgb, (0, right, 0, below), mode="replicate")


def predicted_quantity(config: Any) -> Quantity:
    """What a depth model of transformers predicts, after its own post-processing: near large, or near small.

    Depth Anything and DPT (MiDaS) predict relative inverse depth, unless trained on metres: the metric Depth Anything
    models, and DPT on DINOv2 (`add_projection`). The others predict metres.

    Args:
        config: Configuration of the model.
    """
    family = config.model_type
    if family in {"depth_anything", "prompt_depth_anything"}:
        return "depth" if config.depth_estimation_type == "metric" else "disparity"
    if family == "dpt":
        return "depth" if config.add_projection else "disparity"
    if family in {"depth_pro", "glpn", "tipsv2_dpt", "zoedepth"}:
        return "depth"
    raise InputError(
        f"it is not known whether {family} models predict depth or disparity; "
        "expected depth_anything, prompt_depth_anything, dpt, depth_pro, glpn, tipsv2_dpt or zoedepth, or to be told"
    )


def _licence_note(name: str) -> str:
    for published in DEPTH_ANYTHING_V2.values():
        if published.hub_id == name:
            terms = " (not for commercial use)" if "NC" in published.licence else ""
            return f"licence of the weights: {published.licence}{terms}"
    return "see its model card for the licence of the weights"
