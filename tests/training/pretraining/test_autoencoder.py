from __future__ import annotations

import torch

from bokehdiff.metrics import psnr
from bokehdiff.models import tiny_autoencoder
from bokehdiff.training.pretraining.autoencoder import (
    AutoencoderWeights,
    autoencoder_losses,
    autoencoder_quality,
    measure_latents,
    reconstructed,
)

WEIGHTS = AutoencoderWeights(gradient=0.5, kl=0.1)


def test_the_loss_is_what_slow_arithmetic_gives():
    vae = tiny_autoencoder()
    image = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        losses = autoencoder_losses(vae, image, WEIGHTS, noise_seed=3)
        posterior = vae.encode(2 * image - 1).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
        got = vae.decode(posterior.mean + posterior.std * noise).sample
    difference = (got - (2 * image - 1)).double().numpy()
    steps = [abs(difference[..., 1:] - difference[..., :-1]), abs(difference[..., 1:, :] - difference[..., :-1, :])]
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    l1, gradient = abs(difference).mean(), sum(step.mean() for step in steps)
    kl = float((mean**2 + variance - 1 - variance.log()).mean() / 2)
    torch.testing.assert_close(float(losses["loss"]), l1 + 0.5 * gradient + 0.1 * kl, rtol=1e-5, atol=0)
    assert losses.keys() == {"loss", "l1", "gradient", "kl"}


def test_every_weight_learns_within_two_steps():
    """Residual branches end in zeros: what comes before those is reached by the second."""
    vae, image = tiny_autoencoder(), torch.rand(1, 3, 32, 32)
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        autoencoder_losses(vae, image, WEIGHTS, noise_seed=step)["loss"].backward()
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in vae.parameters())


def test_quality_is_measured_on_what_comes_back():
    vae, image = tiny_autoencoder(), torch.rand(2, 3, 32, 32)
    quality = autoencoder_quality(vae, image)
    assert quality["psnr"] == float(psnr(reconstructed(vae, image), image).mean())


def test_measured_latents_are_standardised():
    vae, image = tiny_autoencoder(), torch.rand(6, 3, 32, 32)
    measure_latents(vae, image)
    with torch.no_grad():
        mode = vae.encode(2 * image - 1).latent_dist.mode()
    mean, std = (torch.tensor(vae.config[key])[:, None, None] for key in ("latents_mean", "latents_std"))
    scaled = (mode - mean) / std
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.ones(16), rtol=1e-4, atol=0)
    assert vae.config.scaling_factor == 1.0
