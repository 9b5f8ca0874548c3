"""Who finds the subject of a photograph, and what all of them need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import resize
from bokehdiff.preparation.edges import fit_mask


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
class FittedMatting:
    """Another matting's masks, fitted to the photograph's edges by a guided filter.

    Args:
        matting: Finds the subject.
    """

    matting: SubjectMatting

    @property
    def name(self) -> str:
        """What reports and logs call it."""
        return f"{self.matting.name}, fitted to edges"

    def predict(
        self, image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 h w"] | None
    ) -> Float[Tensor, "1 h w"]:
        """Share of each pixel that is subject, in [0, 1].

        Args:
            image_srgb: Photograph in display space, in [0, 1].
            disparity: As the other matting needs it.
        """
        return fit_mask(self.matting.predict(image_srgb, disparity), image_srgb)


def overlap(candidates: Float[Tensor, "n h w"], expected: Float[Tensor, "1 h w"]) -> Float[Tensor, " n"]:
    """Soft intersection over union of each candidate with what is expected.

    Args:
        candidates: Masks in [0, 1].
        expected: Mask in [0, 1].
    """
    shared = torch.minimum(candidates, expected).sum(dim=(1, 2))
    return shared / torch.maximum(candidates, expected).sum(dim=(1, 2)).clamp_min(torch.finfo(expected.dtype).tiny)


def check_same_size(image_srgb: Float[Tensor, "1 3 h w"], disparity: Float[Tensor, "1 mh mw"]) -> None:
    """Refuse disparity that is not of the photograph's size.

    Args:
        image_srgb: Photograph.
        disparity: Of the same size.
    """
    if image_srgb.shape[-2:] != disparity.shape[-2:]:
        sizes = [f"{width} x {height}" for height, width in (disparity.shape[-2:], image_srgb.shape[-2:])]
        raise InputError(f"the disparity must have the size of the photograph; got {sizes[0]} for {sizes[1]}")


def fit(mask: Float[Tensor, "mh mw"], like: Float[Tensor, "*n h w"]) -> Float[Tensor, "1 h w"]:
    """A mask resized to the size of another image.

    Args:
        mask: Mask.
        like: Image whose size it takes.
    """
    return resize(mask[None, None], (like.shape[-2], like.shape[-1]))[0]
