"""The nodes, described as ComfyUI asks for it. They compute nothing themselves: they call the package."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from bokehdiff.cli.infer.options import PUBLISHED_ADAPTER, PUBLISHED_BASE
from bokehdiff.devices import pick_device
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.optics import Aperture
from bokehdiff.renderers import compress_highlights, recover_highlights, render_photo

from .lens import FocusPoint, LensChoice
from .networks import PRECISIONS, KeptPipeline, Weights
from .pictures import FAR_BRIGHT, NEAR_BRIGHT, render_each

logger = logging.getLogger(__name__)

CATEGORY = "bokehdiff"
LENS_TYPE = "BOKEHDIFF_LENS"
AT_POINT, AT_DISPARITY = "point", "disparity"
DEVICES = ["auto", "cpu", "cuda", "mps"]
InputTypes = dict[str, dict[str, tuple[Any, ...]]]

kept_pipeline = KeptPipeline()


def _number(default: float, least: float, most: float, step: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": least, "max": most, "step": step, "tooltip": tooltip}


def _text(default: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "STRING", {"default": default, "tooltip": tooltip}


def _picture_inputs() -> dict[str, tuple[Any, ...]]:
    """What both nodes that render are given first."""
    return {
        "image": ("IMAGE", {"tooltip": "Sharp photographs."}),
        "depth": ("IMAGE,MASK", {"tooltip": "One for all photographs or one for each, in [0, 1], as disparity: 1/z."}),
        "lens": (LENS_TYPE,),
        "depth_is": ([NEAR_BRIGHT, FAR_BRIGHT], {"tooltip": "Whether near or far is bright in depth."}),
    }


def _device_input() -> tuple[list[str], dict[str, Any]]:
    return DEVICES, {"tooltip": "Where to compute; auto is the best there is."}


class BokehDiffLens:
    """A lens: what is in focus, how wide the blur is, and the shape of the opening."""

    RETURN_TYPES = (LENS_TYPE,)
    RETURN_NAMES = ("lens",)
    FUNCTION = "make"
    CATEGORY = CATEGORY
    DESCRIPTION = "What is in focus, how wide the blur is, and the shape of the opening."

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        """The node's inputs, as ComfyUI describes them."""
        blades = "Blades of the opening, 3 or more; 0 for a disc."
        return {
            "required": {
                "focus_by": ([AT_POINT, AT_DISPARITY], {"tooltip": "Focus on a point of the picture or at a depth."}),
                "focus_x": _number(0.5, 0.0, 1.0, 0.001, "Of the point: share of the width from the left."),
                "focus_y": _number(0.5, 0.0, 1.0, 0.001, "Of the point: share of the height from the top."),
                "focus_disparity": _number(0.5, 0.0, 1.0, 0.001, "Disparity in focus: 1 nearest, 0 farthest."),
                "K": _number(
                    20.0, 0.0, 1000.0, 0.5, "Radius of the blur at one unit of disparity from the focus [px]."
                ),
                "blades": ("INT", {"default": 0, "min": 0, "max": 64, "tooltip": blades}),
                "rotation_deg": _number(0.0, -360.0, 360.0, 1.0, "Turn of the blades, clockwise."),
                "rounding": _number(0.0, 0.0, 1.0, 0.01, "Curvature of the blades: 0 straight, 1 a disc."),
                "cat_eye": _number(0.0, 0.0, 1.0, 0.01, "How far the lens's rim cuts the opening in the corners."),
            }
        }

    def make(
        self, *, focus_by: str, focus_x: float, focus_y: float, focus_disparity: float, K: float, blades: int,  # noqa: N803
        rotation_deg: float, rounding: float, cat_eye: float,
    ) -> tuple[LensChoice]:  # fmt: skip
        """The lens; arguments as INPUT_TYPES tells them."""
        aperture = Aperture(blades=blades, rounding=rounding, rotation_deg=rotation_deg, cat_eye=cat_eye)
        focus = FocusPoint(focus_x, focus_y) if focus_by == AT_POINT else focus_disparity
        return (LensChoice(focus, K, aperture),)


class PhysicalLensBlur:
    """`bokehdiff.renderers.render_photo`: lens blur from physics, which needs no weights."""

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "render"
    CATEGORY = CATEGORY
    DESCRIPTION = "Lens blur from physics alone: no weights, no randomness."

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        """The node's inputs, as ComfyUI describes them."""
        gain = "How many times brighter than white clipped lights were: they bloom. 1 changes nothing."
        return {
            "required": {
                **_picture_inputs(),
                "highlights": _number(1.0, 1.0, 100.0, 0.5, gain),
                "device": _device_input(),
            }
        }

    def render(
        self, *, image: Tensor, depth: Tensor, lens: LensChoice, depth_is: str, highlights: float, device: str
    ) -> tuple[Tensor]:
        """Pictures with blur; arguments as INPUT_TYPES tells them."""
        chosen = pick_device(device)

        def blurred(image_srgb: Tensor, disparity: Tensor) -> Tensor:
            image_linear = recover_highlights(srgb_to_linear(image_srgb.to(chosen)), highlights)
            light = render_photo(image_linear, disparity.to(chosen), lens.for_picture(disparity))
            return linear_to_srgb(compress_highlights(light, highlights)).clamp(0.0, 1.0)

        return (render_each(image, depth, depth_is=depth_is, render=blurred),)


class NeuralLensBlur:
    """`bokehdiff.inference.BokehDiffPipeline`: one step of an SDXL base with an adapter."""

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    FUNCTION = "render"
    CATEGORY = CATEGORY
    DESCRIPTION = "Lens blur by one diffusion step. The networks are loaded once and kept until others are named."

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        """The node's inputs, as ComfyUI describes them."""
        base = "SDXL base: folder in the diffusers layout, hub id, or a pipeline that bokehdiff has saved."
        adapter = "Adapter: folder, file or hub id; empty for none."
        renderer = "neural is the network; hybrid is physics, but the network where it guesses better."
        return {
            "required": {
                **_picture_inputs(),
                "base": _text(PUBLISHED_BASE, base),
                "adapter": _text(PUBLISHED_ADAPTER, adapter),
                "renderer": (["neural", "hybrid"], {"tooltip": renderer}),
                "precision": (list(PRECISIONS), {"tooltip": "Of the UNet."}),
                "device": _device_input(),
            },
            "optional": {
                "adapter_variant": _text("small", "Folder of an adapter on the hub; a local adapter has none."),
                "base_variant": _text("", "File variant of the base, such as fp16."),
            },
        }

    def render(
        self, *, image: Tensor, depth: Tensor, lens: LensChoice, depth_is: str, base: str, adapter: str, renderer: str,
        precision: str, device: str, adapter_variant: str = "small", base_variant: str = "",
    ) -> tuple[Tensor]:  # fmt: skip
        """Pictures with blur; arguments as INPUT_TYPES tells them."""
        from bokehdiff.inference import RenderSettings

        base, adapter, adapter_variant, base_variant = (
            text.strip() for text in (base, adapter, adapter_variant, base_variant)
        )
        pipeline = kept_pipeline.of(Weights(base, adapter, adapter_variant, base_variant, precision, device))
        if lens.aperture != Aperture():
            logger.info("the network knows no openings: blades and cat's eyes are left to %s", _physics_of(renderer))
        settings = RenderSettings(renderer="hybrid" if renderer == "hybrid" else "neural")

        def blurred(image_srgb: Tensor, disparity: Tensor) -> Tensor:
            lenses = [lens.for_picture(disparity)]
            return next(iter(pipeline.render_lenses(image_srgb, disparity, lenses, settings))).images_srgb

        return (render_each(image, depth, depth_is=depth_is, render=blurred),)


def _physics_of(renderer: str) -> str:
    return "the physical part" if renderer == "hybrid" else "the physical node"


NODE_CLASS_MAPPINGS = {
    "BokehDiffLens": BokehDiffLens,
    "BokehDiffPhysicalLensBlur": PhysicalLensBlur,
    "BokehDiffNeuralLensBlur": NeuralLensBlur,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "BokehDiffLens": "BokehDiff Lens",
    "BokehDiffPhysicalLensBlur": "Physical Lens Blur",
    "BokehDiffNeuralLensBlur": "Neural Lens Blur",
}
