"""From light to the two pictures of a sample: exposure, and what a camera adds, alike in both."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.data.randomness import generator_for
from bokehdiff.data.recipe import Shot
from bokehdiff.images import Transfer, linear_to_srgb, srgb_to_linear


def exposed(image_linear: Float[Tensor, "3 h w"], shot: Shot, *, transfer: Transfer) -> Float[Tensor, "3 h w"]:
    """The picture that the camera stores: display values times the exposure, clipped at white.

    Args:
        image_linear: Light, above 1 too.
        shot: Exposure and mirrorings.
        transfer: From light to display values.
    """
    image_srgb = (linear_to_srgb(image_linear, transfer=transfer) * shot.exposure).clamp(0.0, 1.0)
    return mirrored(image_srgb, shot)


def mirrored(picture: Float[Tensor, "*c h w"], shot: Shot) -> Float[Tensor, "*c h w"]:
    """A picture or map mirrored as the recipe says.

    Args:
        picture: Picture or map of the crop.
        shot: Mirrorings.
    """
    axes = [axis for axis, wanted in ((-1, shot.mirror), (-2, shot.flip)) if wanted]
    return picture.flip(axes).contiguous()


def photographed(
    image_srgb: Float[Tensor, "3 h w"],
    target_srgb: Float[Tensor, "3 h w"],
    coc_px: Float[Tensor, "h w"],
    shot: Shot,
    *,
    transfer: Transfer,
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]]:
    """Both pictures with noise and compression, where the recipe has any.

    What is asked of a renderer is the same photograph through another lens. So the all-in-focus picture gets what the
    camera adds, and the target gets the same where it is in focus, and none where it is blurred:
    averaging over a disc would leave next to nothing of it. Concretely, with a = degraded(image) - image,
    target + max(0, 1 - |coc|) * a. Without blur both pictures are equal.

    Args:
        image_srgb: All in focus.
        target_srgb: Through the lens.
        coc_px: Rendered circle of confusion [px].
        shot: Noise and compression.
        transfer: Between light and display values.
    """
    if not (shot.shot_noise or shot.read_noise or shot.jpeg_quality is not None):
        return image_srgb, target_srgb
    degraded = _compressed(_noisy(image_srgb, shot, transfer), shot.jpeg_quality)
    in_focus = (1.0 - coc_px.abs()).clamp_min(0.0)
    return degraded, (target_srgb + in_focus * (degraded - image_srgb)).clamp(0.0, 1.0)


def _noisy(image_srgb: Float[Tensor, "3 h w"], shot: Shot, transfer: Transfer) -> Float[Tensor, "3 h w"]:
    """Noise of photons and electronics: in light, of variance shot_noise * light + read_noise^2."""
    if not (shot.shot_noise or shot.read_noise):
        return image_srgb
    light = srgb_to_linear(image_srgb, transfer=transfer)
    dice = generator_for(shot.grain, 0, purpose="grain").standard_normal(tuple(light.shape), dtype="float32")
    deviation = (shot.shot_noise * light + shot.read_noise**2).sqrt()
    return linear_to_srgb(light + deviation * torch.from_numpy(dice).to(light.device), transfer=transfer).clamp(max=1.0)


def _compressed(image_srgb: Float[Tensor, "3 h w"], quality: float | None) -> Float[Tensor, "3 h w"]:
    """JPEG there and back: block transform, quantisation, colours at half the size (kornia; sizes are padded to 16)."""
    if quality is None:
        return image_srgb
    from kornia.enhance import jpeg_codec_differentiable

    height, width = image_srgb.shape[1:]
    padded = torch.nn.functional.pad(image_srgb[None], (0, -width % 16, 0, -height % 16), mode="replicate")
    steps = torch.tensor([float(math.floor(quality))], device=image_srgb.device)
    return jpeg_codec_differentiable(padded, steps)[0, :, :height, :width].clamp(0.0, 1.0)
