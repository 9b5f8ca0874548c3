"""The two stages of teaching the tiny SDXL, built from a configuration and run one after the other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from bokehdiff.data import EndlessCrops, write_pictures
from bokehdiff.devices import pick_device
from bokehdiff.images import make_folder
from bokehdiff.models import (
    load_sdxl,
    n_weights,
    prompt_embedding,
    tiny_autoencoder,
    tiny_unet,
    write_taught_sdxl,
    write_tiny_sdxl,
)
from bokehdiff.pictures import contact_sheet
from bokehdiff.training.pretraining.autoencoder import (
    AutoencoderWeights,
    autoencoder_losses,
    autoencoder_quality,
    measure_latents,
    reconstructed,
)
from bokehdiff.training.pretraining.card import model_card
from bokehdiff.training.pretraining.config import PretrainConfig, StageConfig
from bokehdiff.training.pretraining.prior import Diffusion, denoised, prior_losses, prior_quality
from bokehdiff.training.pretraining.stage import Schedule, Stage, Teaching, teach
from bokehdiff.training.records import read_records

HELD_OUT_SEED = 2**32  # of pictures and crops that no stage is taught with
N_HELD_OUT = 12
N_SHOWN = 6
N_MEASURED = 256  # crops from which the latents' mean and deviation are taken
AUTOENCODER_FOLDER = "autoencoder"
PRIOR_FOLDER = "prior"
BASE_FOLDER = "tiny-sdxl"


@dataclass(frozen=True)
class Material:
    """What the stages are taught with and looked at with.

    Args:
        pictures: File of the pictures taught with.
        held_out_srgb: Pictures that are never taught.
    """

    pictures: Path
    held_out_srgb: Float[Tensor, "b 3 s s"]


def pretrain(config: PretrainConfig) -> Path:
    """Teach both networks, and write the base that they make; gives its folder.

    Args:
        config: Checked configuration.
    """
    folder = make_folder(config.run.output_dir)
    material = _material(config, folder)
    vae = teach_autoencoder(config, material, folder)
    unet = teach_prior(config, material, folder, vae)
    origin = {"weights": "taught", "seed": config.run.seed} | {
        name: read_records(folder / name)[-1]["n_samples_seen"] for name in (AUTOENCODER_FOLDER, PRIOR_FOLDER)
    }
    size = f"{n_weights(unet):,} weights in the UNet, {n_weights(vae):,} in the autoencoder"
    card = model_card(config, folder, size=size, n_held_out=N_HELD_OUT)
    return write_taught_sdxl(folder / BASE_FOLDER, unet, vae, origin=origin, card=card)


def teach_autoencoder(config: PretrainConfig, material: Material, folder: Path) -> AutoencoderKL:
    """The first stage.

    Args:
        config: Checked configuration.
        material: From the same configuration.
        folder: Of the run.
    """
    torch.manual_seed(config.run.seed)
    device = pick_device(config.run.device)
    vae = tiny_autoencoder().to(device)
    weights = AutoencoderWeights(config.autoencoder.lambda_gradient, config.autoencoder.lambda_kl)
    held_out = material.held_out_srgb.to(device)
    stage = Stage(
        name=AUTOENCODER_FOLDER,
        network=vae,
        losses=lambda image_srgb, seed: autoencoder_losses(vae, image_srgb, weights, noise_seed=seed),
        quality=lambda: autoencoder_quality(vae, held_out),
        picture=lambda: contact_sheet(
            {"held out": held_out[:N_SHOWN], "through the autoencoder": reconstructed(vae, held_out[:N_SHOWN])}
        ),
    )
    crops = _crops(config, config.autoencoder_stage, material)
    taught = teach(
        stage,
        crops,
        _teaching(config, config.autoencoder_stage, device),
        config=asdict(config),
        folder=make_folder(folder / AUTOENCODER_FOLDER),
    )
    measure_latents(taught, torch.stack([crops[n] for n in range(N_MEASURED)]).to(device))
    return taught


def teach_prior(config: PretrainConfig, material: Material, folder: Path, vae: AutoencoderKL) -> UNet2DConditionModel:
    """The second stage.

    Args:
        config: Checked configuration.
        material: From the same configuration.
        folder: Of the run.
        vae: From the first stage, which tells the mean and the deviation of its latents.
    """
    torch.manual_seed(config.run.seed)
    device = pick_device(config.run.device)
    texts = write_tiny_sdxl(folder / "untaught")  # for its text encoders, which are never taught
    prompt = prompt_embedding(texts, cache_dir=folder / "untaught").to(device)
    alphas = load_sdxl(texts).alphas_cumprod
    diffusion = Diffusion(vae.to(device).eval().requires_grad_(False), alphas, prompt)
    unet = tiny_unet().to(device)
    held_out = material.held_out_srgb.to(device)
    stage = Stage(
        name=PRIOR_FOLDER,
        network=unet,
        losses=lambda image_srgb, seed: prior_losses(unet, image_srgb, diffusion, noise_seed=seed),
        quality=lambda: prior_quality(unet, held_out, diffusion, noise_seed=HELD_OUT_SEED),
        picture=lambda: contact_sheet(denoised(unet, held_out[:N_SHOWN], diffusion, noise_seed=HELD_OUT_SEED)),
    )
    return teach(
        stage,
        _crops(config, config.prior_stage, material),
        _teaching(config, config.prior_stage, device),
        config=asdict(config),
        folder=make_folder(folder / PRIOR_FOLDER),
    )


def _material(config: PretrainConfig, folder: Path) -> Material:
    wanted = config.pictures
    pictures = write_pictures(
        folder / "pictures",
        n_pictures=wanted.n_pictures,
        size_px=wanted.picture_px,
        seed=config.run.seed,
        progress=True,
    )
    held_out = write_pictures(
        folder / "held_out", n_pictures=N_HELD_OUT, size_px=wanted.picture_px, seed=HELD_OUT_SEED, progress=True
    )
    side = min(256, wanted.picture_px)
    crops = EndlessCrops(held_out, size_px=side, seed=HELD_OUT_SEED)
    return Material(pictures, torch.stack([crops[n] for n in range(N_HELD_OUT)]))


def _crops(config: PretrainConfig, stage: StageConfig, material: Material) -> EndlessCrops:
    return EndlessCrops(
        material.pictures, size_px=stage.crop_px, seed=config.run.seed, largest_scale=config.pictures.largest_scale
    )


def _teaching(config: PretrainConfig, stage: StageConfig, device: torch.device) -> Teaching:
    return Teaching(
        schedule=Schedule(stage.n_steps, stage.learning_rate, stage.warmup_steps, stage.decay_steps),
        batch_size=stage.batch_size,
        weight_decay=stage.weight_decay,
        ema_decay=stage.ema_decay,
        device=device,
        autocast_dtype=torch.bfloat16 if config.run.mixed_precision == "bf16" else None,
        n_workers=config.run.n_workers,
        checkpointing_steps=config.run.checkpointing_steps,
        checkpoints_kept=config.run.checkpoints_total_limit,
    )
