"""Whether a picture fits in memory whole, told before it is rendered."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

logger = logging.getLogger(__name__)

# What SDXL's networks hold at most beside their weights, counted by benchmarks/inference.py --count at 512 to 2048 px,
# where it grows as the pixels do [bytes per pixel and byte of a number].
UNET_BYTES_PER_PIXEL = 79.5
AUTOENCODER_BYTES_PER_PIXEL = 768.5
STRIPS_BYTES_PER_PIXEL = 384.5  # ... in strips; they wait in main memory, beside a device that is no CPU
SMALLEST_TILE_PX = 512  # SDXL was never shown less
SHARE_OF_FREE = 0.8  # the rest is for the allocator's rounding and what convolutions need to work in


@dataclass(frozen=True)
class MemoryPlan:
    """How to work through a picture.

    Args:
        tile_px: Side of the UNet's tiles [px]; 0 for the whole picture.
        in_strips: Whether encoder and decoder work strip by strip.
    """

    tile_px: int
    in_strips: bool


def plan_memory(
    size_hw: tuple[int, int],
    *,
    n_images: int,
    free_bytes: int,
    unet_dtype: torch.dtype,
    vae_dtype: torch.dtype,
    multiple: int,
) -> MemoryPlan:
    """The whole picture where it fits; else the largest tiles that do, of at least 64 latents a side.

    Args:
        size_hw: Of the picture that is worked on [px].
        n_images: Worked on at once.
        free_bytes: Free memory of the device.
        unet_dtype: Of the UNet.
        vae_dtype: Of the autoencoder.
        multiple: What sides of tiles must be multiples of [px].
    """
    n_pixels = n_images * size_hw[0] * size_hw[1]
    room = SHARE_OF_FREE * free_bytes
    per_pixel = UNET_BYTES_PER_PIXEL * unet_dtype.itemsize
    tile_px = 0
    if n_pixels * per_pixel > room:
        side = int((room / (n_images * per_pixel)) ** 0.5)
        tile_px = max(side // multiple * multiple, multiple * -(-SMALLEST_TILE_PX // multiple))
        logger.info("%d x %d px are denoised in tiles of %d px: memory is short", *reversed(size_hw), tile_px)
    in_strips = n_pixels * AUTOENCODER_BYTES_PER_PIXEL * vae_dtype.itemsize > room
    if in_strips:
        logger.info("%d x %d px are encoded and decoded in strips: memory is short", *reversed(size_hw))
    return MemoryPlan(tile_px, in_strips)


def free_bytes_of(device: torch.device) -> int:
    """Memory that a device has left [bytes], what torch keeps for itself included.

    Args:
        device: CUDA tells exactly; elsewhere it is the machine's memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return int(psutil.virtual_memory().available)
