"""Lens blur of a photograph with one disparity per pixel."""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.optics import Lens, circle_of_confusion
from bokehdiff.renderers.layered import depth_edges, hidden_sheet, soft_edges, solid_coc, split_by_matte, steepen_edges
from bokehdiff.renderers.lens_values import lens_values
from bokehdiff.renderers.scatter import Sheet, splat

logger = logging.getLogger(__name__)


class PhotoRenderer(Protocol):
    """A method of `render_photo`."""

    def __call__(
        self,
        image_linear: Float[Tensor, "b 3 h w"],
        coc_px: Float[Tensor, "b h w"],
        *,
        matte: Float[Tensor, "b h w"] | None,
        progress: bool,
    ) -> Float[Tensor, "b 3 h w"]:
        """Blur the image.

        Args:
            image_linear: The photograph.
            coc_px: Signed circle of confusion [px].
            matte: Share of each pixel that is subject, or None.
            progress: Show a bar.
        """
        ...


def render_photo(
    image_linear: Float[Tensor, "b 3 h w"],
    disparity: Float[Tensor, "b dh dw"],
    lens: Lens,
    *,
    matte: Float[Tensor, "b mh mw"] | None = None,
    method: str = "auto",
    progress: bool = False,
) -> Float[Tensor, "b 3 h w"]:
    """Photograph with a wide lens what an all-in-focus photograph and its disparity tell of the scene.

    Concretely, each pixel spreads its light over a disc of radius |K * (disparity - focus)|, nearer light hiding
    farther light, as `scatter.splat` writes it down; values above 1 pass as they are, and gradients flow to the image.

    Args:
        image_linear: All in focus, linear light; HDR above 1 allowed.
        disparity: Larger is nearer, in the units of the lens's focus; of the size of the image.
        lens: What is in focus, and strength_px at the size of the image.
        matte: Share of each pixel that belongs to the foreground subject, in [0, 1], of the size of the image; lets
            "layered" part hair from what is behind it. None if unknown; "scatter" takes none.
        method: "scatter" (only what the photograph shows), "layered" (also what lies hidden behind depth edges, which a
            wide lens sees past them; depth edges are made steep), "auto": "layered".
        progress: Show a bar over the slices of depth.
    """
    if method not in ("auto", *METHODS):
        raise InputError(f"method must be one of auto, {', '.join(METHODS)}; got {method!r}")
    for name, plane in (("disparity", disparity), ("matte", matte)):
        _check_plane(name, plane, image_linear)
    if not bool(torch.isfinite(image_linear).all()):
        raise InputError("image_linear must be finite; got NaN or infinity")
    if method == "scatter" and matte is not None:
        raise InputError("method 'scatter' cannot use a matte: use 'layered', or pass none")
    if method == "auto":
        logger.info("render_photo: method layered")
    values = lens_values(lens, image_linear)
    coc_px = circle_of_confusion(disparity.to(image_linear), values.focus_disparity, values.strength_px)
    return METHODS["layered" if method == "auto" else method](image_linear, coc_px, matte=matte, progress=progress)


def _check_plane(name: str, plane: Tensor | None, image_linear: Tensor) -> None:
    if plane is None:
        return
    expected = [len(image_linear), *image_linear.shape[2:]]
    if list(plane.shape) != expected:
        raise InputError(f"the {name} must have the size of the image, {expected}; got {list(plane.shape)}")
    if not bool(torch.isfinite(plane).all()):
        raise InputError(f"the {name} must be finite; got NaN or infinity (fill unmeasured pixels first)")


def render_scatter(
    image_linear: Float[Tensor, "b 3 h w"],
    coc_px: Float[Tensor, "b h w"],
    *,
    matte: Float[Tensor, "b h w"] | None,
    progress: bool,
) -> Float[Tensor, "b 3 h w"]:
    """The splat of the visible pixels alone; see `scatter.splat`.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
        matte: Not used.
        progress: Show a bar.
    """
    solid_px = solid_coc(coc_px, depth_edges(coc_px))
    return splat([Sheet(image_linear, torch.ones_like(coc_px), coc_px)], solid_px, progress=progress)


def render_layered(
    image_linear: Float[Tensor, "b 3 h w"],
    coc_px: Float[Tensor, "b h w"],
    *,
    matte: Float[Tensor, "b h w"] | None,
    progress: bool,
) -> Float[Tensor, "b 3 h w"]:
    """The splat of the visible pixels and of a guess of what is hidden behind the edges of nearer ones.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
        matte: Share of each pixel that is subject, or None.
        progress: Show a bar.
    """
    coc_px = steepen_edges(coc_px)
    edges = depth_edges(coc_px)
    if matte is None:
        visible = [Sheet(image_linear, torch.ones_like(coc_px), coc_px)]
        solid_px = solid_coc(coc_px, edges)
    else:
        visible = split_by_matte(image_linear, coc_px, matte)
        solid_px = solid_coc(coc_px, edges | soft_edges(matte))
    # A matte has parted the subject from what is behind it already: the other edges are those of the rest.
    rest_px = visible[-1].coc_px
    return splat([*visible, hidden_sheet(image_linear, rest_px, depth_edges(rest_px))], solid_px, progress=progress)


METHODS: dict[str, PhotoRenderer] = {"scatter": render_scatter, "layered": render_layered}
