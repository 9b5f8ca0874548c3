"""Subject masks: by networks that transformers loads, by BiRefNet with consent, or without weights from disparity."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import resize
from bokehdiff.preparation.pretrained import find_checkpoint

logger = logging.getLogger(__name__)

BIREFNET = "ZhengPeng7/BiRefNet"
BIREFNET_SIDE_PX = 1024  # what it was trained at
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WITHOUT_WEIGHTS = "pass a local folder of a segmentation model instead, or no model: masks then come from disparity"
SEMANTIC = "ForSemanticSegmentation"
WORKING_SIDE_PX = 320  # the heuristic sees no more: regions, not hairs
N_LEVELS = 256  # what an 8-bit map can tell apart
LEVEL_BLUR = 0.03  # smooths the histogram over steps that 8 bits and small maps leave
GUIDE_SHARE = 0.01  # radius of the guided filter as a share of the longer side: how far an edge may be off
GUIDE_EDGE = 0.02  # contrast that counts as an edge in the photograph
BY_QUERIES = ("Mask2FormerForUniversalSegmentation", "MaskFormerForInstanceSegmentation")


@runtime_checkable
class SubjectMatting(Protocol):
    """Finds the subject of a photograph.

    Args:
        name: What reports and logs call it.
    """

    @property
    def name(self) -> str:
        """What reports and logs call it."""

    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 h w"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Share of each pixel that is subject, in [0, 1].

        Args:
            image_srgb: Photograph in display space, in [0, 1].
            disparity: In [0, 1], 1 nearest; None where it is not known.
        """


@dataclass(frozen=True)
class DisparitySubject:
    """No network: the largest thing near the centre whose disparity is alike, its edges those of the photograph.

    Concretely: pixels weigh w(x, y) = exp(-((x / W - 1/2)^2 + (y / H - 1/2)^2) / (2 spread^2)). Otsu's threshold of the
    weighted histogram of disparity parts near from far; the level d* of the near part where weight times disparity
    is densest is the subject's; of the connected regions with |d - d*| <= band, the one with the most weight is the
    mask. A guided filter (He et al. 2010) fits it to the photograph.

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
        return "heuristic from disparity and centre (no mask model)"

    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 mh mw"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Mask of the subject; zero everywhere when the disparity is constant and nothing stands out.

        Args:
            image_srgb: Photograph in display space, in [0, 1]; only its edges count.
            disparity: In [0, 1], 1 nearest; needed.
        """
        if disparity is None:
            raise InputError("without disparity the heuristic finds no subject: pass a depth model or a mask model")
        _check_same_size(image_srgb, disparity)
        low, high = float(disparity.min()), float(disparity.max())
        if not (low >= 0.0 and high <= 1.0):
            raise InputError(f"disparity must be in [0, 1]; got {low:g} ... {high:g} (see optics.normalise_disparity)")
        if low == high:
            return torch.zeros_like(disparity)
        scale = min(1.0, WORKING_SIDE_PX / max(disparity.shape[-2:]))
        height, width = (max(1, round(side * scale)) for side in disparity.shape[-2:])
        small = resize(disparity[None], (height, width))[0]
        found = self._near_region(small[0].double().cpu().numpy())
        mask = _fit(torch.from_numpy(found).to(disparity), disparity)
        return _fit_to_edges(image_srgb, mask) if self.refine else mask

    def _near_region(self, disparity: np.ndarray) -> np.ndarray:
        from scipy import ndimage
        from skimage.filters import threshold_otsu

        weight = self._centre_weight(disparity.shape)
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
        weights = ndimage.sum_labels(weight, regions, np.arange(1, n_regions + 1))
        return regions == 1 + np.argmax(weights)

    def _centre_weight(self, size_hw: tuple[int, ...]) -> np.ndarray:
        return _gauss(size_hw, self.spread)


def centre_weight(image_srgb: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 h w"]:
    """How much of a subject is to be expected at each pixel when nothing is known: 1 in the middle.

    Args:
        image_srgb: Photograph; only its size counts.
    """
    return torch.from_numpy(_gauss(tuple(image_srgb.shape[2:]), DisparitySubject.spread)).to(image_srgb)[None]


def _gauss(size_hw: tuple[int, ...], spread: float) -> np.ndarray:
    offsets = [((np.arange(side) + 0.5) / side - 0.5) / spread for side in size_hw]
    return np.exp(-0.5 * (offsets[0][:, None] ** 2 + offsets[1][None, :] ** 2))


def _fit_to_edges(image_srgb: Tensor, mask: Tensor) -> Tensor:
    from kornia.filters import guided_blur

    longer_px = max(mask.shape[-2:])
    radius = max(1, round(GUIDE_SHARE * longer_px))
    subsample = max(1, radius // 4)  # the fast guided filter: its statistics need no more than 4 steps across a radius
    fitted = guided_blur(
        image_srgb, mask[:, None], 2 * radius + 1, GUIDE_EDGE**2, border_type="replicate", subsample=subsample
    )
    return fitted[:, 0].clamp(0.0, 1.0)


@dataclass(frozen=True)
class TransformersMatting:
    """A segmentation model of transformers as a `SubjectMatting`: of all it segments, what agrees with the disparity.

    The candidates are the classes of a semantic model, or the queries of a MaskFormer; the one with the largest
    overlap (soft intersection over union) with `DisparitySubject`'s mask is the subject.

    Args:
        model: Semantic, MaskFormer or Mask2Former model, in evaluation mode.
        processor: Its image processor.
        name: What reports and logs call it.
    """

    model: Any
    processor: Any
    name: str

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TransformersMatting:
        """Load a segmentation model that transformers knows natively; no code from elsewhere is run.

        Args:
            path_or_id: Local folder, or hub id such as "nvidia/segformer-b0-finetuned-ade-512-512".
            revision: Branch, tag or commit of a hub id; None for its default branch.
            device: Where the model runs.
            dtype: Precision it runs in; the mask is float32 in any case.
        """
        import transformers

        if str(path_or_id).startswith(BIREFNET):
            raise _needs_consent(path_or_id)
        checkpoint = find_checkpoint(path_or_id, revision=revision, instead=WITHOUT_WEIGHTS)
        config = checkpoint.config()
        if "auto_map" in config:
            raise _needs_consent(path_or_id)
        architecture = (config.get("architectures") or ["none"])[0]
        if not (architecture.endswith(SEMANTIC) or architecture in BY_QUERIES):
            raise InputError(
                f"{path_or_id} holds {architecture}; expected a model for semantic segmentation, or {BY_QUERIES[0]}"
            )
        model = checkpoint.load_complete(getattr(transformers, architecture), dtype=dtype)
        processor = checkpoint.load(transformers.AutoImageProcessor)
        logger.info("subject masks by %s", path_or_id)
        return cls(model.to(device).eval(), processor, str(path_or_id))

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
        near = _fit(expected[0], candidates).to(candidates.device)
        chosen = candidates[_overlap(candidates, near).argmax()]
        return _fit(chosen.to(image_srgb.device), image_srgb).clamp(0.0, 1.0)


def _candidates(outputs: Any) -> Float[Tensor, "n h w"]:
    """What the model segments, each as its probability per pixel; MaskFormer's last class is "nothing"."""
    if "masks_queries_logits" in outputs:
        is_something = 1.0 - outputs.class_queries_logits[0].float().softmax(dim=-1)[:, -1]
        return is_something[:, None, None] * outputs.masks_queries_logits[0].float().sigmoid()
    return outputs.logits[0].float().softmax(dim=0)


def _overlap(candidates: Float[Tensor, "n h w"], near: Float[Tensor, "1 h w"]) -> Float[Tensor, " n"]:
    shared = torch.minimum(candidates, near).sum(dim=(1, 2))
    return shared / torch.maximum(candidates, near).sum(dim=(1, 2)).clamp_min(torch.finfo(near.dtype).tiny)


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
        return _fit(mask[0, 0], image_srgb).clamp(0.0, 1.0)


def load_matting(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: torch.device | str = "cpu",
) -> SubjectMatting:
    """Load a mask model by name: BiRefNet if its code is trusted, else one that transformers knows natively.

    Args:
        path_or_id: Local folder, or hub id.
        revision: Branch, tag or commit of a hub id; all 40 digits of a commit with `trust_remote_code`.
        trust_remote_code: Consent to run code that comes with the weights.
        device: Where the model runs.
    """
    if trust_remote_code:
        return BiRefNetMatting.from_pretrained(path_or_id, revision=revision, trust_remote_code=True, device=device)
    return TransformersMatting.from_pretrained(path_or_id, revision=revision, device=device)


def _needs_consent(path_or_id: str | Path) -> InputError:
    return InputError(
        f"{path_or_id} runs code of its own repository on this machine: read that code, then pass trust_remote_code, "
        "and for a hub id the commit you read as revision"
    )


def _check_same_size(image_srgb: Tensor, disparity: Tensor) -> None:
    if image_srgb.shape[-2:] != disparity.shape[-2:]:
        sizes = [f"{width} x {height}" for height, width in (disparity.shape[-2:], image_srgb.shape[-2:])]
        raise InputError(f"the disparity must have the size of the photograph; got {sizes[0]} for {sizes[1]}")


def _fit(mask: Float[Tensor, "mh mw"], like: Float[Tensor, "*n h w"]) -> Float[Tensor, "1 h w"]:
    """A mask resized to the size of `like`."""
    return resize(mask[None, None], (like.shape[-2], like.shape[-1]))[0]
