from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from bokehdiff.models import PromptEmbedding, load_sdxl, tiny_autoencoder, tiny_unet
from bokehdiff.training.pretraining.autoencoder import measure_latents
from bokehdiff.training.pretraining.prior import Diffusion, denoised, noise_error, prior_losses, prior_quality


class Answer(UNet2DConditionModel):
    """Stands for a UNet: says `told` of what it sees."""

    def __init__(self, told):
        nn.Module.__init__(self)
        self.told = told

    def forward(self, sample, timesteps, **_):
        return type("Output", (), {"sample": self.told(sample, timesteps)})()


@pytest.fixture(scope="module")
def diffusion(tiny_base):
    vae = tiny_autoencoder()
    measure_latents(vae, torch.rand(6, 3, 32, 32))
    prompt = PromptEmbedding(torch.randn(1, 5, 80), torch.randn(1, 40))
    return Diffusion(vae, load_sdxl(tiny_base).alphas_cumprod, prompt)


def test_latents_go_to_deviation_one_and_come_back(diffusion):
    image = torch.rand(2, 3, 32, 64)
    latents = diffusion.latents(image)
    assert latents.shape == (2, 16, 8, 16)
    with torch.no_grad():
        expected = diffusion.vae.decode(diffusion.vae.encode(2 * image - 1).latent_dist.mode()).sample
    torch.testing.assert_close(diffusion.images(latents), (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_the_error_is_that_of_the_told_noise(diffusion):
    latents, noise = torch.randn(2, 2, 16, 4, 4)
    timesteps = torch.tensor([100, 900])
    seen = {}

    def told(sample, t):
        seen["sample"] = sample
        return torch.zeros_like(sample)

    error = noise_error(Answer(told), latents, timesteps, noise, diffusion)
    torch.testing.assert_close(error, noise.square().mean(dim=(1, 2, 3)))
    for n, t in enumerate((100, 900)):
        abar = float(diffusion.alphas_cumprod[t])
        torch.testing.assert_close(seen["sample"][n], abar**0.5 * latents[n] + (1 - abar) ** 0.5 * noise[n])


def test_timesteps_are_spread_over_the_schedule(diffusion):
    seen = []
    unet = Answer(lambda sample, t: seen.append(t) or torch.zeros_like(sample))
    image = torch.rand(4, 3, 32, 32)
    losses = [float(prior_losses(unet, image, diffusion, noise_seed=seed)["loss"]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    for timesteps in seen:
        assert [int(t) // 250 for t in timesteps] == [0, 1, 2, 3]


def test_the_guess_that_knows_no_images_measures_one(diffusion):
    def guess(sample, timesteps):
        return (1 - diffusion.alphas_cumprod[timesteps][:, None, None, None]).sqrt() * sample

    quality = prior_quality(Answer(guess), torch.rand(2, 3, 64, 64), diffusion, noise_seed=1)
    over = [value for name, value in quality.items() if name.startswith("over_guess")]
    assert len(over) == 10
    assert over == pytest.approx([1.0] * 10, rel=1e-4)


def test_one_who_knows_the_noise_gives_the_image_back(diffusion):
    image = torch.rand(1, 3, 32, 32)
    latents = diffusion.latents(image)

    def exactly(sample, timesteps):
        abar = diffusion.alphas_cumprod[timesteps][:, None, None, None]
        return (sample - abar.sqrt() * latents) / (1 - abar).sqrt()

    columns = denoised(Answer(exactly), image, diffusion, noise_seed=2)
    for name, column in columns.items():
        if "step" in name:
            torch.testing.assert_close(column, columns["through the autoencoder"], rtol=0, atol=1e-3)


def test_every_weight_of_the_unet_learns(diffusion):
    unet = tiny_unet()
    prior_losses(unet, torch.rand(2, 3, 64, 64), diffusion, noise_seed=0)["loss"].backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in unet.parameters())
