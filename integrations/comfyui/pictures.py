"""ComfyUI's tensors as the package's, and back: IMAGE [b h w c] and MASK [b h w], display values in [0, 1]."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError

logger = logging.getLogger(__name__)

NEAR_BRIGHT, FAR_BRIGHT = "near bright", "far bright"
GREY_TOLERANCE = 4 / 255  # grey that went through a JPEG comes back with colours that differ by a few steps
COLOURS = 3

Render = Callable[[Float[Tensor, "1 3 h w"], Float[Tensor, "1 h w"]], Float[Tensor, "1 3 h w"]]


def render_each(
    image: Float[Tensor, "b h w c"], depth: Tensor, *, depth_is: str, render: Render
) -> Float[Tensor, "b h w 3"]:
    """Render the pictures of a batch one after the other: a clip needs the memory of one frame, and can be cancelled.

    Args:
        image: ComfyUI's IMAGE.
        depth: IMAGE or MASK, one for all pictures or one for each.
        depth_is: NEAR_BRIGHT or FAR_BRIGHT.
        render: From display values and disparity of one picture to display values of its size.
    """
    images_srgb = images_of(image)
    disparity = disparity_of(depth, images_srgb, depth_is=depth_is)
    bar = _progress_bar(len(images_srgb))
    pictures = []
    for index in range(len(images_srgb)):
        one = slice(index, index + 1)
        pictures.append(render(images_srgb[one], disparity[one]).cpu())
        bar.update(1)
    return torch.cat(pictures).permute(0, 2, 3, 1).contiguous()


def images_of(image: Float[Tensor, "b h w c"]) -> Float[Tensor, "b 3 h w"]:
    """Display images in [0, 1].

    Args:
        image: ComfyUI's IMAGE, of three channels.
    """
    if image.ndim != 4 or image.shape[3] != COLOURS or 0 in image.shape:
        raise InputError(f"image must be [b, h, w, 3], without transparency; got {list(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise InputError("image must be finite; got NaN or infinity")
    if not bool(((image >= 0.0) & (image <= 1.0)).all()):
        logger.info("image has values of %g to %g: cut off at 0 and 1", float(image.min()), float(image.max()))
    return image.permute(0, 3, 1, 2).float().clamp(0.0, 1.0)


def disparity_of(depth: Tensor, images_srgb: Float[Tensor, "b 3 h w"], *, depth_is: str) -> Float[Tensor, "b h w"]:
    """Disparity of each image: 1 nearest, of the images' size.

    Args:
        depth: IMAGE [n h w c] whose channels are equal, or MASK [n h w] or [h w], in [0, 1]; n is 1 or b. Another size
            of the same aspect is resized, and that is logged.
        images_srgb: What it belongs to.
        depth_is: NEAR_BRIGHT if larger is nearer, FAR_BRIGHT if it is farther.
    """
    planes = _grey(depth)
    n_images, size_hw = len(images_srgb), (images_srgb.shape[2], images_srgb.shape[3])
    if len(planes) not in (1, n_images):
        raise InputError(f"depth must be one for all images or one for each; got {len(planes)} for {n_images} images")
    # Asked this way round, NaN is outside too.
    if not bool(((planes >= 0.0) & (planes <= 1.0)).all()):
        raise InputError(
            f"depth must be in [0, 1]; got {float(planes.min()):g} to {float(planes.max()):g}: normalise it first"
        )
    if planes.shape[1:] != size_hw:
        from bokehdiff.preparation import fit_to

        planes = torch.cat([fit_to(plane[None], size_hw, path=Path("depth")) for plane in planes]).clamp(0.0, 1.0)
    if depth_is not in (NEAR_BRIGHT, FAR_BRIGHT):
        raise InputError(f"depth_is must be {NEAR_BRIGHT!r} or {FAR_BRIGHT!r}; got {depth_is!r}")
    disparity = planes if depth_is == NEAR_BRIGHT else 1.0 - planes
    return disparity.expand(n_images, -1, -1)


def _grey(depth: Tensor) -> Float[Tensor, "n h w"]:
    if depth.ndim in (2, 3) and 0 not in depth.shape:
        return depth.float().reshape(-1, *depth.shape[-2:])
    if depth.ndim != 4 or depth.shape[3] not in (1, COLOURS, COLOURS + 1) or 0 in depth.shape:
        raise InputError(f"depth must be an IMAGE [n, h, w, c] or a MASK [n, h, w]; got {list(depth.shape)}")
    colours = depth[..., :COLOURS].float()
    if float((colours.amax(dim=3) - colours.amin(dim=3)).max()) > GREY_TOLERANCE:
        raise InputError("depth must be grey: the colours of a painted map do not tell near from far")
    return colours.mean(dim=3)


class _Bar(Protocol):
    def update(self, value: int) -> None: ...


class _NoBar:
    def update(self, value: int) -> None:
        """Nobody looks."""


def _progress_bar(n_pictures: int) -> _Bar:
    """ComfyUI's bar, whose update is also where it cancels; none outside ComfyUI."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return _NoBar()
    return ProgressBar(n_pictures)
