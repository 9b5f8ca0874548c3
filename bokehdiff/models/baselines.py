"""The networks that the field compares with, PyNET and the Double V-Net: built from a description, used at any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.errors import InputError
from bokehdiff.images import resize
from bokehdiff.models import double_vnet, pynet
from bokehdiff.models.double_vnet import DoubleVNet, Norm
from bokehdiff.models.pynet import PyNet
from bokehdiff.tiling import Padded, pad_to_multiple

BaselineName = Literal["pynet", "double-vnet"]
Guide = Literal["disparity", "coc", "none"]
Baseline: TypeAlias = PyNet | DoubleVNet

HALVED = 2  # PyNET sees the photograph at half its size
GUIDE_HALF_PX = 8.0  # circle of confusion at which the guide is half way to its end [px]


@dataclass(frozen=True)
class BaselineSpec:
    """What a baseline is built from; kept beside its weights.

    Args:
        model: Which network.
        width: Multiple of the published numbers of channels [1].
        guide: What PyNET is told beside the colours: "disparity" as published, "coc" the circle of confusion, so that
            it knows the lens, or "none".
        level: PyNET's finest level that was trained; its pictures are 2^(level - 1) times smaller.
        norm: Normalisation in the Double V-Net; see `double_vnet.Normalised`.
        norm_fine: Also normalise in PyNET's level 3, which is not published.
    """

    model: BaselineName
    width: float = 1.0
    guide: Guide = "disparity"
    level: int = 1
    norm: Norm = "instance"
    norm_fine: bool = False

    @property
    def needs_disparity(self) -> bool:
        """Whether it must be told how far things are."""
        return self.model == "pynet" and self.guide != "none"

    @property
    def needs_lens(self) -> bool:
        """Whether it must be told focus and strength."""
        return self.model == "pynet" and self.guide == "coc"

    @property
    def shrinks(self) -> int:
        """How many times smaller than the photograph its pictures are."""
        return 2 ** (self.level - 1) if self.model == "pynet" else 1


def build_baseline(spec: BaselineSpec) -> Baseline:
    """The network, with weights as before training.

    Args:
        spec: What it is built from.
    """
    if spec.level not in pynet.LEVELS:
        raise InputError(f"level must be 7, the coarsest, to 1, the finest; got {spec.level}")
    if spec.model == "pynet":
        return PyNet(with_disparity=spec.guide != "none", width=spec.width, norm_fine=spec.norm_fine)
    return DoubleVNet(width=spec.width, norm=spec.norm)


def size_multiple(spec: BaselineSpec) -> int:
    """What sides of photographs must be multiples of for a network [px]; others are padded.

    Args:
        spec: Of the network.
    """
    return HALVED * pynet.SIZE_MULTIPLE if spec.model == "pynet" else double_vnet.SIZE_MULTIPLE


def defocus_guide(coc_px: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Signed circles of confusion as a plane in (0, 1): 1/2 in focus, more in front of it, less behind it.

    Concretely, 1/2 + coc / (2 (|coc| + 8)): fine where blur is small, without a largest blur.

    Args:
        coc_px: Signed radius at the size of the photograph [px].
    """
    return 0.5 + 0.5 * coc_px / (coc_px.abs() + GUIDE_HALF_PX)


def shrunk(image_srgb: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c lh lw"]:
    """A whole number of times smaller, by a cubic filter on display values as PyNET's pairs were made.

    Args:
        image_srgb: Display values or a map in [0, 1]; sides multiples of the factor.
        factor: How many times.
    """
    if factor == 1:
        return image_srgb
    size_hw = (image_srgb.shape[2] // factor, image_srgb.shape[3] // factor)
    return F.interpolate(image_srgb, size=size_hw, mode="bicubic", antialias=True).clamp(0.0, 1.0)


def padded_for(spec: BaselineSpec, planes: Float[Tensor, "b c h w"]) -> Padded:
    """A photograph or map in a size that a network takes.

    Args:
        spec: Of the network.
        planes: Of any size.
    """
    multiple = size_multiple(spec)
    if spec.model == "pynet" and max(planes.shape[2:]) <= multiple:
        multiple *= 2  # of a single pixel, level 7 could not tell a deviation
    return pad_to_multiple(planes, multiple)


def whole_picture(
    network: nn.Module,
    spec: BaselineSpec,
    image_srgb: Float[Tensor, "b 3 h w"],
    guide: Float[Tensor, "b h w"] | None,
) -> Float[Tensor, "b 3 h w"]:
    """A photograph of any size through a network: padded, cropped back; coarse levels are enlarged.

    Args:
        network: In evaluation mode.
        spec: Of the network.
        image_srgb: Display values in [0, 1].
        guide: What PyNET is told beside the colours; None for a network without.

    Returns:
        In [0, 1].
    """
    padded = padded_for(spec, image_srgb)
    told = None if guide is None else padded_for(spec, guide[:, None]).image[:, 0]
    picture = network_picture(network, spec, padded.image, told).float()
    enlarged = resize(picture, (padded.image.shape[2], padded.image.shape[3]))
    return padded.crop(enlarged).clamp(0.0, 1.0)


def network_picture(
    network: nn.Module,
    spec: BaselineSpec,
    image_srgb: Float[Tensor, "b 3 h w"],
    guide: Float[Tensor, "b h w"] | None,
) -> Float[Tensor, "b 3 lh lw"]:
    """What a network makes of a photograph of a size that it takes, at its own size; not clamped.

    Args:
        network: Called as it is, so that what wraps it sees the call.
        spec: Of the network.
        image_srgb: Display values in [0, 1], sides multiples of `size_multiple`.
        guide: As in `whole_picture`.
    """
    if spec.model == "double-vnet":
        final: Tensor = network(image_srgb)[0]
        return final
    told = None if guide is None else shrunk(guide[:, None], HALVED)[:, 0]
    picture: Tensor = network(shrunk(image_srgb, HALVED), told, level=spec.level)
    return picture
