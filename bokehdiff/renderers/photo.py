"""Lens blur of a photograph with one disparity per pixel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from bokehdiff.errors import InputError
from bokehdiff.optics import Aperture, Lens, circle_of_confusion, image_field
from bokehdiff.renderers.edge_matte import edge_matte
from bokehdiff.renderers.inpainting import Inpainter, inpainter
from bokehdiff.renderers.layered import (
    Hidden,
    depth_edges,
    hidden_sheets,
    mixed_near,
    soft_edges,
    solid_coc,
    split_by_edges,
    split_by_matte,
    steepen_edges,
)
from bokehdiff.renderers.lens_values import lens_values
from bokehdiff.renderers.scatter import Sheet, Step, splat

logger = logging.getLogger(__name__)

BEST = "layered"
DIFFUSION = "diffusion"
FALLOFF_POINTS = 256  # of the lens, as many as `render_layers` takes by default
FALLOFF_NODES = 129  # places along a side where the light is found; it changes smoothly in between


@dataclass(frozen=True)
class PhotoOptions:
    """What methods of `render_photo` take besides the image and its circles of confusion.

    Args:
        aperture: Shape and transmission of the opening.
        matte: Share of each pixel that is subject, or None.
        inpaint: Makes up the colours of hidden surfaces.
        progress: Show a bar.
        watch: Is shown the surfaces that a picture is made of, before they are spread; None if nobody looks.
        step: Is told how many tiles are done, of how many; None if nobody counts.
        shows_made_up: Draw the share of the light that was made up, in place of the light.
    """

    aperture: Aperture
    matte: Float[Tensor, "b h w"] | None
    inpaint: Inpainter
    progress: bool
    watch: Callable[[list[Sheet]], None] | None = None
    step: Step | None = None
    shows_made_up: bool = False


@runtime_checkable
class PhotoRenderer(Protocol):
    """A method of `render_photo`."""

    def __call__(
        self, image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], options: PhotoOptions
    ) -> Float[Tensor, "b 3 h w"]:
        """Blur the image.

        Args:
            image_linear: The photograph.
            coc_px: Signed circle of confusion [px].
            options: All else.
        """
        ...


def render_photo(
    image_linear: Float[Tensor, "b 3 h w"],
    disparity: Float[Tensor, "b dh dw"],
    lens: Lens,
    *,
    matte: Float[Tensor, "b mh mw"] | None = None,
    method: str = "auto",
    inpainting: str = DIFFUSION,
    progress: bool = False,
    watch: Callable[[list[Sheet]], None] | None = None,
    step: Step | None = None,
) -> Float[Tensor, "b 3 h w"]:
    """Photograph with a wide lens what an all-in-focus photograph and its disparity tell of the scene.

    Concretely, each pixel spreads its light over a picture of the opening of radius |K * (disparity - focus)|, nearer
    light hiding farther light, as `scatter.splat` writes it down; values above 1 pass as they are.

    Args:
        image_linear: All in focus, linear light; HDR above 1 allowed.
        disparity: Larger is nearer, in the units of the lens's focus; of the size of the image.
        lens: What is in focus, strength_px at the size of the image, the opening, and its colour errors.
        matte: Share of each pixel that belongs to the foreground subject, in [0, 1], of the size of the image; parts
            hair from what is behind it. None if unknown; "scatter" takes none.
        method: "scatter" (only what the photograph shows), "occlusion_aware" (also what lies hidden behind depth edges,
            which a wide lens sees past them, pixels of the edges being parted by colour or matte; gradients to image,
            disparity, matte, focus and strength), "layered" (the same, where the ramps of depth edges are made steep
            first; gradients to the image), "auto": "layered".
        inpainting: What makes up hidden surfaces: "diffusion", "telea" or "navier-stokes" (OpenCV), or the path of a
            TorchScript file such as LaMa's. "scatter" takes none.
        progress: Show a bar over the tiles of the picture.
        watch: Called with the surfaces that the picture is made of, visible ones first, before they are spread: to look
            at, or to know what was made up. Once for each colour where the lens treats colours differently.
        step: Called before each tile of the picture with the number of tiles that are done and of all, to tell how far
            it is; what it raises ends the rendering. Anew for each colour where `watch` is.
    """
    _check(image_linear, disparity, matte, method)
    if method == "scatter" and matte is not None:
        raise InputError("method 'scatter' cannot use a matte: use 'layered', or pass none")
    if method == "scatter" and inpainting != DIFFUSION:
        raise InputError(f"method 'scatter' fills in nothing, so inpainting {inpainting!r} has no use: use 'layered'")
    if method == "auto":
        logger.info("render_photo: method %s", BEST)
    options = PhotoOptions(
        lens.aperture, matte, inpainter(inpainting, device=image_linear.device), progress, watch, step
    )
    renderer = METHODS[BEST if method == "auto" else method]
    disparity = disparity.to(image_linear)
    if not lens.is_chromatic:
        picture = _magnified(_blurred(renderer, image_linear, disparity, lens.of_channel(0), options), lens)
        return _darkened(picture, lens.aperture)
    channels = []
    for channel in range(3):
        picture = _blurred(renderer, image_linear, disparity, lens.of_channel(channel), options)
        channels.append(_magnified(picture, lens.of_channel(channel))[:, channel])
    return _darkened(torch.stack(channels, dim=1), lens.aperture)


def made_up_share(
    image_linear: Float[Tensor, "b 3 h w"],
    disparity: Float[Tensor, "b dh dw"],
    lens: Lens,
    *,
    method: str = "auto",
) -> Float[Tensor, "b h w"]:
    """How much of each pixel of `render_photo`'s picture comes from surfaces that the photograph does not show.

    In [0, 1]: 0 where physics only moves light about, more where it had to guess colours; of the green channel's lens.

    Args:
        image_linear: As of `render_photo`.
        disparity: As of `render_photo`.
        lens: As of `render_photo`.
        method: As of `render_photo`.
    """
    _check(image_linear, disparity, None, method)
    options = PhotoOptions(lens.aperture, None, inpainter(DIFFUSION), progress=False, shows_made_up=True)
    renderer = METHODS[BEST if method == "auto" else method]
    lens = lens.of_channel(1)
    return _magnified(_blurred(renderer, image_linear, disparity.to(image_linear), lens, options), lens)[:, 0]


def _blurred(
    renderer: PhotoRenderer,
    image_linear: Float[Tensor, "b 3 h w"],
    disparity: Float[Tensor, "b h w"],
    lens: Lens,
    options: PhotoOptions,
) -> Float[Tensor, "b 3 h w"]:
    values = lens_values(lens, image_linear)
    coc_px = circle_of_confusion(disparity, values.focus_disparity, values.strength_px)
    return renderer(image_linear, coc_px, options)


def _magnified(image_linear: Float[Tensor, "b 3 h w"], lens: Lens) -> Float[Tensor, "b 3 h w"]:
    """The picture enlarged about its centre; edge pixels go on beyond the border."""
    scale = lens.magnification_rgb[0]
    if scale == 1.0:
        return image_linear
    turn = torch.eye(2, 3, dtype=image_linear.dtype, device=image_linear.device) / scale
    grid = F.affine_grid(turn.expand(len(image_linear), 2, 3), list(image_linear.shape), align_corners=False)
    return F.grid_sample(image_linear, grid, padding_mode="border", align_corners=False)


def _darkened(image_linear: Float[Tensor, "b 3 h w"], aperture: Aperture) -> Float[Tensor, "b 3 h w"]:
    """Less the light that the rim of the lens cuts off, if the opening's fall-off is wanted."""
    if not (aperture.cat_eye and aperture.falloff):
        return image_linear
    size_hw = (image_linear.shape[2], image_linear.shape[3])
    y, x = (torch.linspace(0.5, n - 0.5, min(n, FALLOFF_NODES)) for n in size_hw)
    places = image_field(torch.stack(torch.meshgrid(x, y, indexing="xy")), size_hw)
    points, spacing = aperture.sample(FALLOFF_POINTS), aperture.spacing(FALLOFF_POINTS)
    passed = aperture.unvignetted(points, places, spacing=spacing)
    light = torch.einsum("n,nhw->hw", aperture.weights(FALLOFF_POINTS), passed)[None, None]
    return image_linear * F.interpolate(light, size_hw, mode="bilinear", align_corners=True).to(image_linear)


def _check(image_linear: Tensor, disparity: Tensor, matte: Tensor | None, method: str) -> None:
    if method not in ("auto", *METHODS):
        raise InputError(f"method must be one of auto, {', '.join(METHODS)}; got {method!r}")
    for name, plane in (("disparity", disparity), ("matte", matte)):
        _check_plane(name, plane, image_linear)
    if not bool(torch.isfinite(image_linear).all()):
        raise InputError("image_linear must be finite; got NaN or infinity")


def _check_plane(name: str, plane: Tensor | None, image_linear: Tensor) -> None:
    if plane is None:
        return
    expected = [len(image_linear), *image_linear.shape[2:]]
    if list(plane.shape) != expected:
        raise InputError(f"the {name} must have the size of the image, {expected}; got {list(plane.shape)}")
    if not bool(torch.isfinite(plane).all()):
        raise InputError(f"the {name} must be finite; got NaN or infinity (fill unmeasured pixels first)")


def render_scatter(
    image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], options: PhotoOptions
) -> Float[Tensor, "b 3 h w"]:
    """The splat of the visible pixels alone; see `scatter.splat`.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
        options: Without a matte.
    """
    sheets = [Sheet(image_linear, torch.ones_like(coc_px), coc_px)]
    return _splat(sheets, coc_px, depth_edges(coc_px), options)


def render_occlusion_aware(
    image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], options: PhotoOptions
) -> Float[Tensor, "b 3 h w"]:
    """The splat of the visible pixels and of what is made up behind the edges of nearer ones; differentiable.

    A matte tells the share of a subject in each pixel; without one the colours along depth edges do. The idea of layers
    with a filled background, and of receivers in focus that reject light from behind, is Dr. Bokeh's (Sheng et al.,
    CVPR 2024); any number of surfaces, one radius for colour and coverage, and light that is neither lost nor gained
    replace its gather.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
        options: All else.
    """
    if options.matte is None:
        return _parted_by_colour(image_linear, coc_px, options)
    visible = split_by_matte(image_linear, coc_px, options.matte)
    # A matte has parted the subject from what is behind it already: the other edges are those of the rest.
    rest = visible[-1]
    edges = depth_edges(rest.coc_px)
    trust = mixed_near(edges, rest.weight)
    hidden = hidden_sheets(_colour_of(rest), rest.coc_px, edges, inpaint=options.inpaint, trust=trust)
    return _splat([*visible, *_sheets(hidden)], coc_px, depth_edges(coc_px) | soft_edges(options.matte), options)


def _parted_by_colour(
    image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], options: PhotoOptions
) -> Float[Tensor, "b 3 h w"]:
    matte = edge_matte(image_linear, coc_px)
    hidden = hidden_sheets(matte.behind, matte.far_px, matte.band, inpaint=options.inpaint, trust=matte.trust)
    behind = hidden[0].image_linear if hidden else matte.behind
    return _splat([*split_by_edges(image_linear, matte, behind), *_sheets(hidden)], coc_px, matte.band, options)


def render_layered(
    image_linear: Float[Tensor, "b 3 h w"], coc_px: Float[Tensor, "b h w"], options: PhotoOptions
) -> Float[Tensor, "b 3 h w"]:
    """`render_occlusion_aware` after the ramps of depth edges are made steep, as disparity from a network needs it.

    Args:
        image_linear: The photograph.
        coc_px: Signed circle of confusion [px].
        options: All else.
    """
    return render_occlusion_aware(image_linear, steepen_edges(coc_px), options)


def _sheets(hidden: list[Hidden]) -> list[Sheet]:
    return [surface.sheet for surface in hidden]


def _colour_of(sheet: Sheet) -> Float[Tensor, "b 3 h w"]:
    return sheet.light / sheet.weight.clamp_min(torch.finfo(sheet.weight.dtype).eps)[:, None]


def _splat(
    sheets: list[Sheet], coc_px: Float[Tensor, "b h w"], edges: Bool[Tensor, "b h w"], options: PhotoOptions
) -> Float[Tensor, "b 3 h w"]:
    if options.watch is not None:
        options.watch(sheets)
    if options.shows_made_up:
        sheets = [replace(sheet, light=_grey(sheet.weight * sheet.is_made_up)) for sheet in sheets]
    return splat(
        sheets, solid_coc(coc_px, edges), aperture=options.aperture, progress=options.progress, step=options.step
    )


def _grey(plane: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 h w"]:
    return plane[:, None].expand(-1, 3, -1, -1)


METHODS: dict[str, PhotoRenderer] = {
    "scatter": render_scatter,
    "occlusion_aware": render_occlusion_aware,
    "layered": render_layered,
}
