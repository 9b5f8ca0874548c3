from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bokehdiff.attention import INFERENCE_HARDNESS, PisaInputs, TokenOptics, remove_pisa
from bokehdiff.errors import InputError
from bokehdiff.models import OneStepGenerator, TimeIds, add_lora, load_sdxl, trainable_groups
from tests.helpers import assert_close


@pytest.fixture(scope="module")
def generator(tiny_base):
    return OneStepGenerator(load_sdxl(tiny_base))


@pytest.fixture(scope="module")
def plain(tiny_base):
    return OneStepGenerator(load_sdxl(tiny_base), pisa_layers=None)


@pytest.mark.parametrize("size_hw", [(32, 32), (64, 96), (32, 128)])
def test_a_picture_comes_out_in_the_size_that_went_in(generator, prompt, pisa_of, size_hw):
    image = torch.rand(2, 3, *size_hw)
    with torch.no_grad():
        prediction = generator(image, pisa_of(generator, size_hw, 2), prompt)
    assert prediction.shape == image.shape
    assert bool(torch.isfinite(prediction).all())


def test_the_step_is_what_the_stock_pipeline_does(plain, prompt, tiny_base):
    """One DDPM step from t = 499 straight to the end, without noise, is the same number."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_base)
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 16, 16, 24)
    expected = pipeline(
        prompt_embeds=prompt.tokens,
        pooled_prompt_embeds=prompt.pooled,
        latents=latents,
        height=64,
        width=96,
        timesteps=[499],
        guidance_scale=1.0,
        output_type="latent",
    ).images
    with torch.no_grad():
        assert_close(plain.denoise(latents, None, prompt), expected)


def test_encoding_is_the_mode_scaled_and_decoding_undoes_the_scale(plain):
    image = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        mode = plain.vae.encode(2 * image - 1).latent_dist.mode()
        latents = plain.encode(image)
        assert_close(latents, mode * plain.vae.config.scaling_factor)
        assert_close(plain.decode(latents), plain.vae.decode(mode).sample / 2 + 0.5)


def test_shift_mean_and_std_of_a_config_are_honoured(networks):
    plain = OneStepGenerator(networks, pisa_layers=None)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        mode = plain.vae.encode(2 * image - 1).latent_dist.mode()
        picture = plain.decode(plain.encode(image))
        plain.vae.register_to_config(shift_factor=0.3)
        assert_close(plain.encode(image), (mode - 0.3) * plain.vae.config.scaling_factor)
        assert_close(plain.decode(plain.encode(image)), picture)
        mean, std = torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16)
        plain.vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist(), shift_factor=None)
        scaled = (mode - mean[:, None, None]) * plain.vae.config.scaling_factor / std[:, None, None]
        assert_close(plain.encode(image), scaled)
        assert_close(plain.decode(plain.encode(image)), picture)


def test_velocity_and_noise_predictions_agree_on_what_they_mean(networks, prompt):
    """A network that predicts zero: noise 0 means z0 = z / sqrt(abar), velocity 0 means z0 = sqrt(abar) z."""
    torch.nn.init.zeros_(networks.unet.conv_out.weight)
    torch.nn.init.zeros_(networks.unet.conv_out.bias)
    latents = torch.randn(1, 16, 4, 4)
    share = networks.alphas_cumprod[499].sqrt()
    by_noise = OneStepGenerator(networks, pisa_layers=None)
    by_velocity = OneStepGenerator(replace(networks, prediction_type="v_prediction"), pisa_layers=None)
    with torch.no_grad():
        assert_close(by_noise.denoise(latents, None, prompt), latents / share)
        assert_close(by_velocity.denoise(latents, None, prompt), latents * share)


def test_a_half_precision_unet_takes_about_the_same_step(tiny_base, generator, prompt, pisa_of):
    """With a float32 LoRA on it, and pictures in float32 at both ends."""
    networks = load_sdxl(tiny_base, dtype=torch.bfloat16)
    add_lora(networks.unet)
    image, pisa = torch.rand(1, 3, 64, 64), pisa_of(generator, (64, 64))
    with torch.no_grad():
        coarse = OneStepGenerator(networks)(image, pisa, prompt)
        exact = generator(image, pisa, prompt)
    assert coarse.dtype == torch.float32
    assert float((coarse - exact).abs().mean()) < 0.02 * float(exact.std())


def test_time_ids_are_height_first(plain, prompt, monkeypatch):
    seen = {}
    forward = plain.unet.forward

    def spy(*arguments, **keywords):
        seen.update(keywords["added_cond_kwargs"])
        return forward(*arguments, **keywords)

    monkeypatch.setattr(plain.unet, "forward", spy)
    with torch.no_grad():
        plain(torch.rand(2, 3, 32, 64), None, prompt)
        assert seen["time_ids"].tolist() == [[32, 64, 0, 0, 32, 64]] * 2
        plain(torch.rand(1, 3, 32, 64), None, prompt, time_ids=TimeIds((768, 500), (3, 7), (32, 64)))
    assert seen["time_ids"].tolist() == [[768, 500, 3, 7, 32, 64]]


def test_images_of_a_batch_do_not_meet(generator, prompt):
    images = torch.rand(2, 3, 32, 64)
    disparity = torch.tensor([0.2, 0.7])[:, None, None].expand(2, 32, 64)

    def pisa(chosen):
        coc_px = 40.0 * (disparity[chosen] - 0.5)
        optics = TokenOptics.from_maps(disparity[chosen], coc_px, generator.token_grid((32, 64)), focus_disparity=0.5)
        return PisaInputs(optics, hardness=INFERENCE_HARDNESS)

    with torch.no_grad():
        together = generator(images, pisa(slice(2)), prompt)
        for number in range(2):
            chosen = slice(number, number + 1)
            assert_close(together[chosen], generator(images[chosen], pisa(chosen), prompt))


def test_blur_reaches_the_picture(generator, prompt, pisa_of):
    """The scene's optics are not ignored on their way."""
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        one, other = (generator(image, pisa_of(generator, (64, 64)), prompt) for _ in range(2))
    assert float((one - other).abs().max()) > 1e-6


def test_gradients_reach_all_that_is_trained_and_the_image(networks, prompt, pisa_of):
    add_lora(networks.unet)
    generator = OneStepGenerator(networks)
    trained = [weight for group in trainable_groups(networks.unet, networks.vae) for weight in group]
    with torch.no_grad():
        for name, weight in networks.unet.named_parameters():
            if ".lora_B." in name:
                weight.normal_(std=0.1)  # while it is zero, no gradient reaches A
        for name, weight in networks.vae.named_parameters():
            if name.endswith("conv2.weight"):
                weight.normal_(std=0.1)  # nor what comes before it in a residual branch
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    generator(image, pisa_of(generator, (32, 32)), prompt).square().mean().backward()
    assert all(weight.grad is not None and bool(torch.isfinite(weight.grad).all()) for weight in trained)
    assert [weight.shape for weight in trained if not weight.grad.any()] == []
    assert float(image.grad.abs().sum()) > 0


def test_gradient_checkpointing_changes_no_gradient(networks, prompt, pisa_of):
    add_lora(networks.unet)
    generator = OneStepGenerator(networks)
    lora, vae = trainable_groups(networks.unet, networks.vae)
    image, pisa = torch.rand(1, 3, 32, 32), pisa_of(generator, (32, 32))

    def gradients():
        generator.zero_grad()
        generator(image, pisa, prompt).square().mean().backward()
        return [weight.grad.clone() for weight in (*lora, *vae)]

    plainly = gradients()
    generator.enable_gradient_checkpointing()
    for got, expected in zip(gradients(), plainly, strict=True):
        assert_close(got, expected)


def test_without_pisa_it_is_the_base_and_taking_it_off_restores_it(networks, prompt):
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = OneStepGenerator(networks, pisa_layers=None)(image, None, prompt)
        remove_pisa(OneStepGenerator(networks).unet)
        after = OneStepGenerator(networks, pisa_layers=None)(image, None, prompt)
    assert torch.equal(before, after)


def test_pisa_inputs_and_layers_go_together(generator, plain, prompt, pisa_of):
    image = torch.rand(1, 3, 32, 32)
    pisa = pisa_of(generator, (32, 32))
    with pytest.raises(InputError, match="got no PisaInputs for a generator with a PISA layer"):
        generator(image, None, prompt)
    with pytest.raises(InputError, match="got PisaInputs for a generator with no PISA layer"):
        plain(image, pisa, prompt)


@pytest.mark.parametrize("size_hw", [(1, 1), (33, 32), (32, 40), (8, 32)])
def test_sizes_that_do_not_fit_are_refused(plain, prompt, size_hw):
    with pytest.raises(InputError, match=rf"multiples of 16 px; got {size_hw[0]} x {size_hw[1]}"):
        plain(torch.rand(1, 3, *size_hw), None, prompt)


@pytest.mark.parametrize(
    ("layer", "grid"),
    [
        ("down_blocks.1.attentions.0", (8, 12)),
        ("down_blocks.2.attentions.1", (4, 6)),
        ("mid_block.attentions.0", (4, 6)),
        ("up_blocks.0.attentions.0", (4, 6)),
        ("up_blocks.1.attentions.2", (8, 12)),
    ],
)
def test_the_token_grid_is_that_of_the_layer(networks, prompt, pisa_of, layer, grid):
    generator = OneStepGenerator(networks, pisa_layers=layer)
    assert generator.size_multiple == 16
    assert generator.token_grid((64, 96)) == grid
    with torch.no_grad():  # the layer itself refuses another number of tokens
        generator(torch.rand(1, 3, 64, 96), pisa_of(generator, (64, 96)), prompt)


@pytest.mark.parametrize("layers", ["down_blocks", "blocks.1"])
def test_pisa_layers_lie_in_one_block(networks, layers):
    with pytest.raises(InputError, match=f"must lie in one block .*; got '{layers}'"):
        OneStepGenerator(networks, pisa_layers=layers)


def test_timesteps_lie_in_the_schedule_and_leave_signal(networks):
    with pytest.raises(InputError, match=r"timestep must be in \[0, 1000\); got 1000"):
        OneStepGenerator(networks, timestep=1000, pisa_layers=None)
    dark = replace(networks, alphas_cumprod=torch.linspace(1, 0, 1000))
    with pytest.raises(InputError, match="leaves no signal at timestep 999"):
        OneStepGenerator(dark, timestep=999, pisa_layers=None)


def test_nothing_assumes_the_tiny_models_numbers(prompt):
    """An autoencoder of factor 4 with 6 channels and a UNet that halves once."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from bokehdiff.models import SdxlNetworks

    unet = UNet2DConditionModel(
        in_channels=6,
        out_channels=6,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=80,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=88,
    )
    vae = AutoencoderKL(
        latent_channels=6,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
    )
    networks = SdxlNetworks(unet, vae, torch.linspace(1, 0.1, 1000), "epsilon", "here", "random")
    generator = OneStepGenerator(networks, pisa_layers=None)
    assert (generator.vae_factor, generator.size_multiple) == (4, 8)
    assert generator.token_grid((16, 24)) == (2, 3)
    with torch.no_grad():
        assert generator(torch.rand(1, 3, 16, 24), None, prompt).shape == (1, 3, 16, 24)
