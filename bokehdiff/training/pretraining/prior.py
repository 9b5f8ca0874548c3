"""The tiny SDXL's UNet as a prior: it tells the noise in latents of images, at every timestep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor

from bokehdiff.models import PromptEmbedding, TimeIds

SHOWN_TIMESTEPS = (199, 499, 799)
N_BANDS = 10  # of timesteps, in which the prior's quality is told


@dataclass(frozen=True)
class Diffusion:
    """What noise is added to, and what the UNet is told besides.

    Args:
        vae: Frozen; its config tells the mean and the deviation of each latent channel.
        alphas_cumprod: Share of signal left after each timestep.
        prompt: The one prompt's embedding.
    """

    vae: AutoencoderKL
    alphas_cumprod: Float[Tensor, " t"]
    prompt: PromptEmbedding

    def images(self, latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b 3 h w"]:
        """Latents of `latents` as display images in [0, 1]."""
        mean, std = self._scaling(latents)
        with torch.no_grad():
            return (0.5 * self.vae.decode(latents * std + mean).sample.float() + 0.5).clamp(0.0, 1.0)

    def _scaling(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (like.new_tensor(config[key])[:, None, None] for key in ("latents_mean", "latents_std"))
        return mean, std

    @torch.no_grad()
    def latents(self, image_srgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c lh lw"]:
        """Images as latents of mean 0 and deviation 1 in each channel.

        Args:
            image_srgb: Display images in [0, 1], sides multiples of 32.
        """
        mode = self.vae.encode(2.0 * image_srgb - 1.0).latent_dist.mode().float()
        mean, std = self._scaling(mode)
        return (mode - mean) / std


def noise_error(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "b c lh lw"],
    timesteps: Int[Tensor, " b"],
    noise: Float[Tensor, "b c lh lw"],
    diffusion: Diffusion,
) -> Float[Tensor, " b"]:
    """Mean squared error of the noise that the UNet tells in noisy latents, per image.

    Concretely, mean over c, y, x of (UNet(sqrt(abar) z + sqrt(1 - abar) e, t) - e)^2. Source: Ho et al., "Denoising
    diffusion probabilistic models", 2020, equation 14.

    Args:
        unet: The prior.
        latents: z, of deviation 1.
        timesteps: t of each image, 0-based.
        noise: e, normal.
        diffusion: The schedule, and what the UNet is told.
    """
    return (noise_told(unet, latents, timesteps, noise, diffusion) - noise).square().mean(dim=(1, 2, 3))


def noise_told(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "b c lh lw"],
    timesteps: Int[Tensor, " b"],
    noise: Float[Tensor, "b c lh lw"],
    diffusion: Diffusion,
) -> Float[Tensor, "b c lh lw"]:
    """What the UNet takes for noise in noisy latents; arguments as of `noise_error`."""
    n_images, _, height, width = latents.shape
    signal = diffusion.alphas_cumprod.to(latents.device)[timesteps][:, None, None, None]
    factor = 2 ** (len(diffusion.vae.config.block_out_channels) - 1)
    size_hw = (height * factor, width * factor)
    told: Tensor = unet(
        signal.sqrt() * latents + (1.0 - signal).sqrt() * noise,
        timesteps,
        encoder_hidden_states=diffusion.prompt.tokens.to(latents).expand(n_images, -1, -1),
        added_cond_kwargs={
            "text_embeds": diffusion.prompt.pooled.to(latents).expand(n_images, -1),
            "time_ids": TimeIds(size_hw, (0, 0), size_hw).as_tensor(n_images).to(latents),
        },
    ).sample
    return told.float()


def prior_losses(
    unet: UNet2DConditionModel, image_srgb: Float[Tensor, "b 3 h w"], diffusion: Diffusion, *, noise_seed: int
) -> dict[str, Tensor]:
    """The loss of a batch at timesteps spread evenly over the schedule.

    Args:
        unet: The prior.
        image_srgb: Display images in [0, 1].
        diffusion: The schedule, and what the UNet is told.
        noise_seed: Timesteps and noise are a function of it.
    """
    latents = diffusion.latents(image_srgb)
    chance = torch.Generator().manual_seed(noise_seed)
    n_images, n_timesteps = len(latents), len(diffusion.alphas_cumprod)
    place = (torch.arange(n_images) + torch.rand(n_images, generator=chance)) / n_images  # one in each equal part
    timesteps = (place * n_timesteps).long().clamp_max(n_timesteps - 1).to(latents.device)
    noise = torch.randn(latents.shape, generator=chance).to(latents)
    return {"loss": noise_error(unet, latents, timesteps, noise, diffusion).mean()}


@torch.no_grad()
def prior_quality(
    unet: UNet2DConditionModel, image_srgb: Float[Tensor, "b 3 h w"], diffusion: Diffusion, *, noise_seed: int
) -> dict[str, float]:
    """Error in each of ten bands of timesteps, over that of the best guess which knows no images; below 1 is better.

    That guess takes each latent for a normal number by itself: e = sqrt(1 - abar) times what is seen, whose error is
    abar (for latents of deviation 1; measured here on the same latents, as it is).

    Args:
        unet: The prior.
        image_srgb: Held-out display images.
        diffusion: The schedule, and what the UNet is told.
        noise_seed: Noise is a function of it.
    """
    latents, noise = _with_noise(image_srgb, diffusion, noise_seed)
    n_timesteps = len(diffusion.alphas_cumprod)
    numbers = {}
    for band in range(N_BANDS):
        t = (2 * band + 1) * n_timesteps // (2 * N_BANDS)
        timesteps = torch.full((len(latents),), t, device=latents.device)
        signal = float(diffusion.alphas_cumprod[t])
        seen = signal**0.5 * latents + (1.0 - signal) ** 0.5 * noise
        guess = F.mse_loss((1.0 - signal) ** 0.5 * seen, noise)
        error = noise_error(unet, latents, timesteps, noise, diffusion).mean()
        numbers[f"error_t{t}"] = float(error)
        numbers[f"over_guess_t{t}"] = float(error / guess)
    return numbers


@torch.no_grad()
def denoised(
    unet: UNet2DConditionModel, image_srgb: Float[Tensor, "b 3 h w"], diffusion: Diffusion, *, noise_seed: int
) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """Images, and what one step makes of them from three levels of noise, to look at.

    Args:
        unet: The prior.
        image_srgb: Held-out display images.
        diffusion: The schedule, and what the UNet is told.
        noise_seed: Noise is a function of it.
    """
    latents, noise = _with_noise(image_srgb, diffusion, noise_seed)
    columns = {"held out": image_srgb, "through the autoencoder": diffusion.images(latents)}
    for t in SHOWN_TIMESTEPS:
        signal = float(diffusion.alphas_cumprod[t])
        timesteps = torch.full((len(latents),), t, device=latents.device)
        error = noise_told(unet, latents, timesteps, noise, diffusion) - noise
        columns[f"denoised from step {t}"] = diffusion.images(latents - ((1.0 - signal) / signal) ** 0.5 * error)
    return columns


def _with_noise(image_srgb: Tensor, diffusion: Diffusion, seed: int) -> tuple[Tensor, Tensor]:
    """Latents of images, and noise of their shape, the same on every device."""
    latents = diffusion.latents(image_srgb)
    return latents, torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
