"""How the tiny SDXL is taught: frozen dataclasses, read from YAML and flags, checked all at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bokehdiff.errors import ConfigError


@dataclass(frozen=True)
class PicturesConfig:
    """What it is taught with: drawn by procedure, or from free photographs.

    Args:
        n_pictures: How many are drawn, once.
        picture_px: Side of each [px].
        largest_scale: A crop may be this many times larger in the picture than it is given out [1].
    """

    n_pictures: int = 1200
    picture_px: int = 512
    largest_scale: float = 3.0


@dataclass(frozen=True)
class StageConfig:
    """How long one network is taught, and how fast.

    Args:
        n_steps: Optimiser steps.
        batch_size: Crops per step.
        crop_px: Side of a crop [px].
        learning_rate: Between warm-up and decay [1 / step].
        warmup_steps: Steps over which the learning rate rises.
        decay_steps: Steps at the end over which it falls to 0, in a straight line.
        weight_decay: Of AdamW [1].
        ema_decay: Weights are averaged over about 1 / (1 - this) steps [1].
    """

    n_steps: int = 8000
    batch_size: int = 4
    crop_px: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_steps: int = 1000
    weight_decay: float = 1e-3
    ema_decay: float = 0.998


@dataclass(frozen=True)
class AutoencoderConfig:
    """What the autoencoder is asked for, besides the absolute difference of pixels.

    Args:
        lambda_gradient: Weight of the absolute difference of neighbours' differences [1].
        lambda_kl: Weight of the divergence of latents from a normal distribution, per latent [1].
    """

    lambda_gradient: float = 0.5
    lambda_kl: float = 1e-5


@dataclass(frozen=True)
class PretrainRunConfig:
    """Where to, how often, on what.

    Args:
        output_dir: Run folder: pictures, logs, checkpoints, and the finished base in OUTPUT_DIR/tiny-sdxl.
        seed: Everything random is a function of this and of numbers of crops.
        device: auto, cpu, cuda.
        mixed_precision: Precision of the forward passes; weights and optimiser stay float32.
        n_workers: Processes that cut crops; does not change the result.
        checkpointing_steps: A checkpoint, and a look at held-out images, every so many steps.
        checkpoints_total_limit: How many checkpoints stay.
    """

    output_dir: str = "outputs/pretrain_tiny"
    seed: int = 0
    device: str = "auto"
    mixed_precision: Literal["no", "bf16"] = "bf16"
    n_workers: int = 1
    checkpointing_steps: int = 250
    checkpoints_total_limit: int = 2


@dataclass(frozen=True)
class PretrainConfig:
    """Teach the tiny SDXL from nothing: autoencoder, then UNet; what was interrupted is continued.

    Args:
        pictures: What it is taught with.
        autoencoder: What the autoencoder is asked for.
        autoencoder_stage: How long and how fast it is taught.
        prior_stage: The same for the UNet, which predicts the noise in latents at all timesteps.
        run: Where to, how often, on what.
    """

    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    autoencoder_stage: StageConfig = field(default_factory=StageConfig)
    prior_stage: StageConfig = field(default_factory=lambda: StageConfig(crop_px=256))
    run: PretrainRunConfig = field(default_factory=PretrainRunConfig)


def check_pretrain_config(config: PretrainConfig) -> None:
    """Refuse a configuration that cannot be run, with every problem at once.

    Args:
        config: The resolved configuration.

    Raises:
        ConfigError: One line per problem.
    """
    problems = []
    for name in ("autoencoder_stage", "prior_stage"):
        stage: StageConfig = getattr(config, name)
        for key in ("n_steps", "batch_size", "learning_rate", "warmup_steps", "decay_steps"):
            if not getattr(stage, key) > 0:
                problems.append(f"{name}.{key} must be above 0; got {getattr(stage, key):g}")
        if not 0 <= stage.ema_decay < 1:
            problems.append(f"{name}.ema_decay must be in [0, 1); got {stage.ema_decay:g}")
        if stage.crop_px % 32 or not 0 < stage.crop_px <= config.pictures.picture_px:
            problems.append(
                f"{name}.crop_px must be a multiple of 32 up to picture_px {config.pictures.picture_px}; "
                f"got {stage.crop_px}"
            )
    if config.pictures.n_pictures < 1:
        problems.append(f"pictures.n_pictures must be at least 1; got {config.pictures.n_pictures}")
    if not config.pictures.largest_scale >= 1:
        problems.append(f"pictures.largest_scale must be at least 1; got {config.pictures.largest_scale:g}")
    if config.run.checkpointing_steps < 1:
        problems.append(f"run.checkpointing_steps must be at least 1; got {config.run.checkpointing_steps}")
    if problems:
        raise ConfigError(problems)
