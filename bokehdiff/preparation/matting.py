"""Subject masks by networks: those that transformers knows natively, or BiRefNet with consent to its code."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import resize
from bokehdiff.preparation.heuristic import DisparitySubject, centre_weight
from bokehdiff.preparation.pointed import POINTED, PointedMatting
from bokehdiff.preparation.pretrained import Checkpoint, find_checkpoint
from bokehdiff.preparation.subject import SubjectMatting, fit, overlap

logger = logging.getLogger(__name__)

BIREFNET = "ZhengPeng7/BiRefNet"
BIREFNET_SIDE_PX = 1024  # what it was trained at
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WITHOUT_WEIGHTS = "pass a local folder of a segmentation model instead, or no model: masks then come from disparity"
SEMANTIC = "ForSemanticSegmentation"
BY_QUERIES = ("Mask2FormerForUniversalSegmentation", "MaskFormerForInstanceSegmentation")


@dataclass(frozen=True)
class TransformersMatting:
    """A segmentation model of transformers as a `SubjectMatting`: of all it segments, what agrees with the disparity.

    The candidates are the classes of a semantic model, or the queries of a MaskFormer; the one with the largest
    overlap (soft intersection over union) with `DisparitySubject`'s mask is the subject; without disparity, with a spot
    in the middle.

    Args:
        model: Semantic, MaskFormer or Mask2Former model, in evaluation mode.
        processor: Its image processor.
        name: What reports and logs call it.
    """

    model: Any
    processor: Any
    name: str

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, device: torch.device | str) -> TransformersMatting:
        """From weights on this machine, of a model that transformers knows natively; no code from elsewhere is run.

        Args:
            checkpoint: A semantic, MaskFormer or Mask2Former model.
            device: Where the model runs.
        """
        import transformers

        config = checkpoint.config()
        if "auto_map" in config:
            raise _needs_consent(checkpoint.name)
        architecture = (config.get("architectures") or ["none"])[0]
        if not (architecture.endswith(SEMANTIC) or architecture in BY_QUERIES):
            raise InputError(
                f"{checkpoint.name} holds {architecture}; expected a model for semantic segmentation, {BY_QUERIES[0]}, "
                f"or Segment Anything ({', '.join(POINTED)})"
            )
        model = checkpoint.load_complete(getattr(transformers, architecture))
        processor = checkpoint.load(transformers.AutoImageProcessor)
        logger.info("subject masks by %s", checkpoint.name)
        return cls(model.to(device).eval(), processor, checkpoint.name)

    @torch.no_grad()
    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 mh mw"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Mask of the subject; see the class.

        Args:
            image_srgb: Photograph in display space, in [0, 1].
            disparity: In [0, 1], 1 nearest; chooses among what the model segments. Without it, what fills the middle.
        """
        expected = centre_weight(image_srgb) if disparity is None else DisparitySubject().predict(image_srgb, disparity)
        weight = next(self.model.parameters())
        inputs = self.processor(images=[image_srgb[0]], do_rescale=False, return_tensors="pt")
        candidates = _candidates(self.model(pixel_values=inputs["pixel_values"].to(weight.device, weight.dtype)))
        near = fit(expected[0], candidates).to(candidates.device)
        chosen = candidates[overlap(candidates, near).argmax()]
        return fit(chosen.to(image_srgb.device), image_srgb).clamp(0.0, 1.0)


def _candidates(outputs: Any) -> Float[Tensor, "n h w"]:
    """What the model segments, each as its probability per pixel; MaskFormer's last class is "nothing"."""
    if "masks_queries_logits" in outputs:
        is_something = 1.0 - outputs.class_queries_logits[0].float().softmax(dim=-1)[:, -1]
        return is_something[:, None, None] * outputs.masks_queries_logits[0].float().sigmoid()
    return outputs.logits[0].float().softmax(dim=0)


@dataclass(frozen=True)
class BiRefNetMatting:
    """BiRefNet (Zheng et al. 2024), whose code comes with its weights: only with explicit consent.

    Args:
        model: Takes [1 3 1024 1024] normalised by ImageNet's statistics; the last of what it returns are logits.
        name: What reports and logs call it.
    """

    model: Any
    name: str

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path = BIREFNET,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> BiRefNetMatting:
        """Load BiRefNet and the code in its repository.

        Args:
            path_or_id: Local folder, or hub id.
            revision: Commit of a hub id, all 40 digits: what you have read is what runs. Not needed for a folder.
            trust_remote_code: Consent to run that code.
            device: Where the model runs.
            dtype: Precision it runs in; the mask is float32 in any case.
        """
        from transformers import AutoModelForImageSegmentation

        if not trust_remote_code:
            raise _needs_consent(path_or_id)
        is_folder = Path(path_or_id).expanduser().is_dir()
        if not is_folder and not re.fullmatch("[0-9a-f]{40}", revision or ""):
            raise InputError(
                f"{path_or_id} runs code of its repository: its revision must be a commit of 40 digits; got {revision}"
            )
        checkpoint = find_checkpoint(path_or_id, revision=revision, instead=WITHOUT_WEIGHTS)
        model = checkpoint.load_complete(AutoModelForImageSegmentation, trust_remote_code=True, dtype=dtype)
        logger.info("subject masks by %s, running the code of its repository", path_or_id)
        return cls(model.to(device).eval(), str(path_or_id))

    @torch.no_grad()
    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 mh mw"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Mask of the subject; the disparity is not looked at.

        Args:
            image_srgb: Photograph in display space, in [0, 1].
            disparity: Not needed.
        """
        weight = next(self.model.parameters())
        mean, std = (torch.tensor(values).to(image_srgb)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        square = resize(image_srgb, (BIREFNET_SIDE_PX, BIREFNET_SIDE_PX))
        logits = self.model(((square - mean) / std).to(weight.device, weight.dtype))[-1]
        mask = logits.float().sigmoid().to(image_srgb.device)
        return fit(mask[0, 0], image_srgb).clamp(0.0, 1.0)


def load_matting(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    point_xy: tuple[float, float] | None = None,
    device: torch.device | str = "cpu",
) -> SubjectMatting:
    """Load a mask model by name: BiRefNet if its code is trusted, else one that transformers knows natively.

    Args:
        path_or_id: Local folder, or hub id.
        revision: Branch, tag or commit of a hub id; all 40 digits of a commit with `trust_remote_code`.
        trust_remote_code: Consent to run code that comes with the weights.
        point_xy: On the subject, as shares of width and height; for Segment Anything only, None to find one.
        device: Where the model runs.
    """
    if trust_remote_code:
        return BiRefNetMatting.from_pretrained(path_or_id, revision=revision, trust_remote_code=True, device=device)
    if str(path_or_id).startswith(BIREFNET):
        raise _needs_consent(path_or_id)
    checkpoint = find_checkpoint(path_or_id, revision=revision, instead=WITHOUT_WEIGHTS)
    if checkpoint.config().get("model_type") in POINTED:
        return PointedMatting.load(checkpoint, point_xy=point_xy, device=device)
    if point_xy is not None:
        raise InputError(f"a point is for Segment Anything ({', '.join(POINTED)}); {path_or_id} segments without one")
    return TransformersMatting.load(checkpoint, device=device)


def _needs_consent(path_or_id: str | Path) -> InputError:
    return InputError(
        f"{path_or_id} runs code of its own repository on this machine: read that code, then pass trust_remote_code, "
        "and for a hub id the commit you read as revision"
    )
