"""The tiny SDXL's autoencoder: what it is asked for, and how well it does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from bokehdiff.metrics import psnr


@dataclass(frozen=True)
class AutoencoderWeights:
    """Weights of the losses besides the absolute difference of pixels.

    Args:
        gradient: Of the absolute difference of forward differences.
        kl: Of the divergence from a normal distribution, per latent.
    """

    gradient: float
    kl: float


def autoencoder_losses(
    vae: AutoencoderKL, image_srgb: Float[Tensor, "b 3 h w"], weights: AutoencoderWeights, *, noise_seed: int
) -> dict[str, Tensor]:
    """What the autoencoder makes of images, from a sample of its latents.

    Concretely, with y = decode(mean + std * noise) of x in [-1, 1]: mean |y - x| + gradient * mean |grad y - grad x| +
    kl * mean over latents of (mean^2 + std^2 - 1 - log std^2) / 2. Source: Rombach et al., "High-resolution image
    synthesis with latent diffusion models", 2022, without its critic.

    Args:
        vae: The autoencoder.
        image_srgb: Display images in [0, 1].
        weights: Of the losses.
        noise_seed: The noise is a function of it.

    Returns:
        "loss", and its parts "l1", "gradient", "kl".
    """
    image = 2.0 * image_srgb - 1.0
    posterior = vae.encode(image).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(noise_seed))
    difference = vae.decode(posterior.mean + posterior.std * noise.to(image)).sample.float() - image
    l1 = difference.abs().mean()
    gradient = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).float().mean()
    return {
        "loss": l1 + weights.gradient * gradient + weights.kl * kl,
        "l1": l1,
        "gradient": gradient,
        "kl": kl,
    }


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, image_srgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Images through the mode of their latents and back, in [0, 1].

    Args:
        vae: The autoencoder.
        image_srgb: Display images in [0, 1], sides multiples of 8.
    """
    latents = vae.encode(2.0 * image_srgb - 1.0).latent_dist.mode()
    return (0.5 * vae.decode(latents).sample.float() + 0.5).clamp(0.0, 1.0)


def autoencoder_quality(vae: AutoencoderKL, image_srgb: Float[Tensor, "b 3 h w"]) -> dict[str, float]:
    """Mean peak signal-to-noise ratio of reconstructions [dB], and the latents' mean and standard deviation.

    Args:
        vae: The autoencoder.
        image_srgb: Held-out display images.
    """
    with torch.no_grad():
        latents = vae.encode(2.0 * image_srgb - 1.0).latent_dist.mode().float()
    return {
        "psnr": float(psnr(reconstructed(vae, image_srgb), image_srgb).mean()),
        "latent_mean": float(latents.mean()),
        "latent_std": float(latents.std()),
    }


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, image_srgb: Float[Tensor, "b 3 h w"]) -> None:
    """Write the mean and the deviation of each latent channel into the config, from where they are taken out again.

    Args:
        vae: The taught autoencoder.
        image_srgb: Display images, as it was taught with.
    """
    latents = torch.cat([vae.encode(2.0 * image[None] - 1.0).latent_dist.mode().float() for image in image_srgb])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist(), scaling_factor=1.0)
