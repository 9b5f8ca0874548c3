"""Encoder and decoder for pictures that do not fit into memory: layer by layer, each in strips of rows.

Tiles of a whole autoencoder show: each normalises by its own mean and deviation, which in a sky are another's by far.
Here every layer is finished for the whole picture before the next begins, so that means and deviations are the
picture's, convolutions see their neighbours across strips, and the result is that of the whole picture up to rounding.
Between layers the picture waits in main memory; a device holds one strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn

STRIP_NUMBERS = 2**24  # of a strip between layers, 64 MiB of float32: three or four are held at a time
LEAST_ROWS = 4  # of a strip
FACTOR = 2  # of the autoencoder's upsamplers and downsamplers

Layer = Callable[[Tensor], Tensor]


@apply_forward_hook  # brings the autoencoder to its device where it is moved as it is needed
@torch.no_grad()
def encode_in_strips(vae: AutoencoderKL, image_signed: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
    """The mode of the latents that `vae.encode` gives, in less memory: changes time and memory, not the result.

    Args:
        vae: Of SDXL's class.
        image_signed: In [-1, 1], in the autoencoder's dtype; sides multiples of its factor [px].
    """
    encoder = vae.encoder
    canvas = _convolved(_Canvas.of(image_signed), encoder.conv_in)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            canvas = _through_resnet(canvas, resnet)
        for downsampler in block.downsamplers or ():
            canvas = _downsampled(canvas, downsampler)
    latents = encoder.mid_block(canvas.values.to(image_signed.device))  # 8 numbers a pixel from here on: whole
    moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(latents)))
    moments = moments if vae.quant_conv is None else vae.quant_conv(moments)
    return moments.chunk(2, dim=1)[0]


@apply_forward_hook
@torch.no_grad()
def decode_in_strips(vae: AutoencoderKL, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
    """What `vae.decode(latents).sample` gives, in less memory: changes time and memory, not the result.

    Args:
        vae: Of SDXL's class.
        latents: As its UNet does not scale them, in the autoencoder's dtype.
    """
    decoder = vae.decoder
    latents = latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)
    canvas = _Canvas.of(decoder.mid_block(decoder.conv_in(latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            canvas = _through_resnet(canvas, resnet)
        for upsampler in block.upsamplers or ():
            canvas = _convolved(canvas, upsampler, scale=FACTOR)
    normalise = _normalisation(decoder.conv_norm_out, canvas)
    image = _convolved(canvas, lambda strip: decoder.conv_out(decoder.conv_act(normalise(strip))))
    return image.values.to(latents.device)


class _Canvas:
    """A whole picture between two layers, in main memory, and what normalising it needs to know.

    Args:
        values: [b c h w].
        device: Where layers compute.
    """

    def __init__(self, values: Tensor, device: torch.device) -> None:
        self.values = values
        self.device = device
        self._moments: list[tuple[int, Tensor, Tensor]] = []  # of each strip: pixels, mean and variance of channels

    @classmethod
    def of(cls, values: Tensor) -> _Canvas:
        """One that is known already."""
        canvas = cls(values.cpu(), values.device)
        canvas._measure(values)
        return canvas

    @property
    def height(self) -> int:
        return self.values.shape[2]

    def strips(self, scale: int = 1) -> Iterator[tuple[int, int]]:
        """First row and end of each strip."""
        n_images, n_channels, height, width = self.values.shape
        rows = max(STRIP_NUMBERS // (n_images * n_channels * width * scale * scale), LEAST_ROWS)
        for top in range(0, height, rows):
            yield top, min(top + rows, height)

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.values[:, :, top:bottom].to(self.device)

    def write(self, top: int, strip: Tensor) -> None:
        self.values[:, :, top : top + strip.shape[2]] = strip
        self._measure(strip)

    def _measure(self, strip: Tensor) -> None:
        variance, mean = torch.var_mean(strip.float(), dim=(2, 3), correction=0)
        self._moments.append((strip.shape[2] * strip.shape[3], mean.cpu().double(), variance.cpu().double()))

    def forget(self) -> None:
        """What follows is another picture's."""
        self._moments = []

    def moments(self, n_groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of each group of channels, [b g 1] each."""
        counts, means, variances = zip(*self._moments, strict=True)
        share = torch.tensor(counts, dtype=torch.float64)[:, None, None, None] / sum(counts)
        strip_mean, strip_variance = (torch.stack(part).unflatten(2, (n_groups, -1)) for part in (means, variances))
        mean = (share * strip_mean).sum(0).mean(-1, keepdim=True)
        return mean, (share * (strip_variance + (strip_mean - mean).square())).sum(0).mean(-1, keepdim=True)


def _normalisation(norm: nn.GroupNorm, canvas: _Canvas) -> Layer:
    """Group normalisation of a strip by the moments of its whole canvas."""
    mean, variance = canvas.moments(norm.num_groups)
    n_images, n_channels = canvas.values.shape[:2]
    shape = (n_images, n_channels, 1, 1)
    gain = norm.weight.double().cpu().unflatten(0, (norm.num_groups, -1)) / (variance + norm.eps).sqrt()
    offset, gain = (
        part.expand(-1, -1, n_channels // norm.num_groups).reshape(shape).float().to(canvas.device)
        for part in (mean, gain)
    )
    bias = norm.bias.float()[:, None, None]

    def normalise(strip: Tensor) -> Tensor:
        return ((strip.float() - offset) * gain + bias).to(strip.dtype)

    return normalise


def _convolved(canvas: _Canvas, layer: Layer, *, scale: int = 1) -> _Canvas:
    """Through a layer that looks one row beyond its own and gives `scale` rows for each."""

    def made() -> Iterator[Tensor]:
        for top, bottom in canvas.strips(scale):
            first, end = max(top - 1, 0), min(bottom + 1, canvas.height)
            strip = layer(canvas.rows(first, end))
            yield strip[:, :, scale * (top - first) : scale * (bottom - first)]

    return _put_together(made(), scale * canvas.height, canvas.device)


def _through_resnet(canvas: _Canvas, block: Any) -> _Canvas:
    """x + conv2(act(norm2(conv1(act(norm1(x)))))); the result takes the place of what lies between the convolutions."""
    first = _normalisation(block.norm1, canvas)
    inner = _convolved(canvas, lambda strip: block.conv1(block.nonlinearity(first(strip))))
    second = _normalisation(block.norm2, inner)
    inner.forget()
    above = inner.rows(0, 0)
    for top, bottom in inner.strips():
        strip = inner.rows(top, min(bottom + 1, inner.height))
        within = torch.cat([above, strip], dim=2)
        above = strip[:, :, bottom - top - 1 : bottom - top].clone()  # is about to be overwritten
        added = block.conv2(block.nonlinearity(second(within)))[:, :, within.shape[2] - strip.shape[2] :]
        passed = canvas.rows(top, bottom)
        passed = passed if block.conv_shortcut is None else block.conv_shortcut(passed)
        inner.write(top, (passed + added[:, :, : bottom - top]) / block.output_scale_factor)
    return inner


def _downsampled(canvas: _Canvas, downsampler: Layer) -> _Canvas:
    """Row i of the result sees rows 2 i to 2 i + 2; below the last is what the downsampler itself puts there."""

    def made() -> Iterator[Tensor]:
        for top, bottom in canvas.strips():
            first, end = top // FACTOR * FACTOR, bottom // FACTOR * FACTOR
            yield downsampler(canvas.rows(first, min(end + 1, canvas.height)))

    return _put_together(made(), canvas.height // FACTOR, canvas.device)


def _put_together(strips: Iterator[Tensor], height: int, device: torch.device) -> _Canvas:
    first = next(strips)
    n_images, n_channels, _, width = first.shape
    canvas = _Canvas(torch.empty(n_images, n_channels, height, width, dtype=first.dtype), device)
    top = 0
    for strip in chain([first], strips):
        canvas.write(top, strip)
        top += strip.shape[2]
    return canvas
