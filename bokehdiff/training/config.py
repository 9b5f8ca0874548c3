"""What a training run is made of: frozen dataclasses, read from YAML and flags, checked all at once.

Only `training/build.py` reads these fields; everything else takes plain arguments. This module imports no torch, so
that --help answers at once. Names follow the seed's command line where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bokehdiff.errors import ConfigError

PUBLISHED_BASE = "SG161222/RealVisXL_V5.0"


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and what is trained of it.

    Args:
        pretrained_model_name_or_path: SDXL base: folder or hub id.
        revision: Git revision of a hub id.
        variant: File variant of the base, such as fp16.
        initial_adapter: Begin with the weights of this adapter instead of a fresh LoRA: folder, LoRA file or hub id.
            Rank and alpha must be its own.
        lora_rank: Rank of the LoRA matrices [1].
        lora_alpha: LoRA's scale is alpha / rank [1].
        opt_vae: Also train the VAE encoder's conv_in, mid_block and conv_out.
        pisa_layers: The module whose self-attention is physics-inspired.
        visibility: How occlusion is computed: thin_lens is physical, released is as the published weights were trained.
        ablation: Leave a part of the physics-inspired attention out, to see what it is worth: pisa is all of it, coc
            the circle of confusion, normalisation the sharing out over receivers, occlusion what blocks light.
        train_T: The one timestep, 0-based [steps of 1000].
        attention_dropout: Share of attention weights dropped in PISA layers while training, in [0, 1).
        gradient_checkpointing: Trade time for memory; does not change the result.
        torch_compile: Compile UNet and VAE when they first run: minutes of waiting, then faster steps.
        enable_xformers_memory_efficient_attention: Use xFormers outside PISA layers if it works here; else say so once.
    """

    pretrained_model_name_or_path: str = PUBLISHED_BASE
    revision: str | None = None
    variant: str | None = None
    initial_adapter: str | None = None
    lora_rank: int = 8
    lora_alpha: float = 8.0
    opt_vae: bool = True
    pisa_layers: str = "down_blocks.1.attentions.0"
    visibility: Literal["thin_lens", "released"] = "thin_lens"
    ablation: Literal["nothing", "pisa", "coc", "normalisation", "occlusion"] = "nothing"
    train_T: int = 499  # noqa: N815  the seed's spelling
    attention_dropout: float = 0.0
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    enable_xformers_memory_efficient_attention: bool = False


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from.

    Args:
        train_data_dir: Folder with foregrounds (*fg/, images with alpha) and backgrounds (bg/).
        composition: published is the paper's distribution, its faults mended; bokehdiff has several subjects, leaning
            and bent surfaces, lights above white, noise, and disparity as wrong as estimators make it.
        mix_in: Photographed pairs whose lens is known, mixed with the composed ones: LAYOUT:FOLDER@WEIGHT, several with
            commas; composed samples have weight 1.
        compose_on: Where composed pairs are rendered: auto is the GPU, one batch ahead, where training runs on one and
            CuPy is there.
        resolution: Side of a training sample [px].
        strength_min_px: Smallest blur strength drawn at 768 px [px]; the largest circle of confusion is about this.
        strength_max_px: Largest blur strength drawn at 768 px [px].
        dataloader_num_workers: Processes that compose samples beside the training; does not change the result.
    """

    train_data_dir: str = ""
    composition: Literal["published", "bokehdiff"] = "published"
    mix_in: str = ""
    compose_on: Literal["auto", "cpu", "gpu"] = "auto"
    resolution: int = 512
    strength_min_px: float = 3.0
    strength_max_px: float = 96.0
    dataloader_num_workers: int = 0


@dataclass(frozen=True)
class LossConfig:
    """What the generator is asked for.

    Args:
        lambda_mse: Weight of the mean squared error [1].
        lpips: Use the perceptual loss.
        lambda_lpips: Weight of the perceptual loss [1].
        lpips_weights: VGG16 state dict for the perceptual loss; none for torch's own cache.
        edge: Use the multi-scale edge loss.
        lambda_edge: Weight of the edge loss [1].
        lambda_gan: Weight of the adversarial loss [1]; 0 trains without a discriminator.
        gan_step: Step from which the generator feels the adversarial loss [steps]; the discriminator trains from 0.
        gan_loss_type: Form of the adversarial loss.
        cv_type: Frozen vision backbone of the discriminator.
        cv_weights: Local weight file of that backbone; none for timm's own cache.
    """

    lambda_mse: float = 1.0
    lpips: bool = False
    lambda_lpips: float = 5.0
    lpips_weights: str | None = None
    edge: bool = False
    lambda_edge: float = 1.0
    lambda_gan: float = 0.0
    gan_step: int = 30_000
    gan_loss_type: Literal["multilevel_sigmoid_s", "hinge"] = "multilevel_sigmoid_s"
    cv_type: str = "convnext"
    cv_weights: str | None = None


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow gradients. Defaults are the published ones.

    Args:
        learning_rate: Of the LoRA [1 / step].
        vae_learning_rate_scale: The VAE encoder learns at this multiple of it [1].
        discriminator_learning_rate: Of the discriminator's heads [1 / step].
        adam_beta1: First decay of AdamW [1].
        adam_beta2: Second decay of AdamW [1].
        adam_weight_decay: Weight decay of AdamW [1].
        adam_epsilon: Smallest denominator of AdamW [1].
        max_grad_norm: Gradients of each network are clipped to this norm [1].
        lr_scheduler: Course of the learning rate after the warm-up.
        lr_warmup_steps: Steps over which the learning rate rises to its value [steps].
        lr_num_cycles: Restarts of a cosine with restarts [1].
        use_8bit_adam: Keep the optimiser's moments in 8 bits (extra train8bit).
        ema_decay: Show, measure and save a running mean of the trained weights, of which this share stays at each step,
            such as 0.999, in [0, 1) [1]; 0 takes the weights as they are.
    """

    learning_rate: float = 5e-5
    vae_learning_rate_scale: float = 0.1
    discriminator_learning_rate: float = 1e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-7
    max_grad_norm: float = 1.0
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts"] = "cosine"
    lr_warmup_steps: int = 20
    lr_num_cycles: int = 1
    use_8bit_adam: bool = False
    ema_decay: float = 0.0


@dataclass(frozen=True)
class ValidationConfig:
    """What is held out, and how often it is looked at.

    Args:
        validation_data_dir: Held-out pairs: a folder with *fg/ and bg/ to compose from, or photographed pairs whose
            lens is known as LAYOUT:FOLDER; none composes pairs that training never sees from the training folder.
        validation_steps: Measure PSNR, SSIM and, with --lpips, LPIPS every so many steps [steps]; 0 for never. The best
            adapter by PSNR is kept in best-NNNNNNNN/.
        validation_samples: Pairs that are measured [1]; fewer if there are fewer.
    """

    validation_data_dir: str | None = None
    validation_steps: int = 1_000
    validation_samples: int = 16


@dataclass(frozen=True)
class RunConfig:
    """How long, where to, how often.

    Args:
        output_dir: Run folder: config, log, previews, checkpoints, the adapter.
        seed: Everything random is a function of this and the sample's number.
        max_train_steps: Optimiser steps [steps].
        train_batch_size: Samples per step and process [1].
        gradient_accumulation_steps: Batches summed into one step [1].
        mixed_precision: Precision of the forward pass; trained weights and optimiser stay float32.
        allow_tf32: Allow TF32 matrix products on NVIDIA cards: faster, slightly less exact.
        checkpointing_steps: A checkpoint every so many steps [steps].
        checkpoints_total_limit: Older checkpoints are removed beyond this number; none keeps all.
        resume_from_checkpoint: latest, a checkpoint folder, or none to start anew.
        preview_steps: A preview picture every so many steps [steps]; 0 for none.
        report_to: Tracker of accelerate, such as tensorboard or wandb; none for log.jsonl and pictures only.
        push_to_hub: Upload the finished adapter with its card to --hub-model-id; needs a login (hf auth login).
        hub_model_id: Repository on the hub, "owner/name".
        hub_private: Make that repository private, if it is made.
        dry_run: Print the resolved configuration and an estimate of GPU memory, and stop.
    """

    output_dir: str = "logs_bokehdiff"
    seed: int = 0
    max_train_steps: int = 120_000
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    allow_tf32: bool = False
    checkpointing_steps: int = 5_000
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = "latest"
    preview_steps: int = 1_000
    report_to: str = "tensorboard"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """One-step LoRA training of an SDXL backbone on lens-blur pairs that are composed on the fly.

    Args:
        model: The backbone and what is trained of it.
        data: Where samples come from.
        loss: What the generator is asked for.
        optimizer: How weights follow gradients.
        validation: What is held out, and how often it is looked at.
        run: How long, where to, how often.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)


def check_config(config: TrainConfig) -> None:
    """Refuse a configuration that cannot be run, with every problem at once.

    Args:
        config: The resolved configuration.

    Raises:
        ConfigError: One line per problem, beginning with the flag.
    """
    above_zero = {
        "--lora-rank": config.model.lora_rank,
        "--lora-alpha": config.model.lora_alpha,
        "--resolution": config.data.resolution,
        "--strength-min-px": config.data.strength_min_px,
        "--learning-rate": config.optimizer.learning_rate,
        "--max-grad-norm": config.optimizer.max_grad_norm,
        "--max-train-steps": config.run.max_train_steps,
        "--train-batch-size": config.run.train_batch_size,
        "--gradient-accumulation-steps": config.run.gradient_accumulation_steps,
        "--checkpointing-steps": config.run.checkpointing_steps,
        "--lr-num-cycles": config.optimizer.lr_num_cycles,
        "--validation-samples": config.validation.validation_samples,
    }
    not_below_zero = {
        "--dataloader-num-workers": config.data.dataloader_num_workers,
        "--lambda-mse": config.loss.lambda_mse,
        "--lambda-lpips": config.loss.lambda_lpips,
        "--lambda-edge": config.loss.lambda_edge,
        "--lambda-gan": config.loss.lambda_gan,
        "--gan-step": config.loss.gan_step,
        "--lr-warmup-steps": config.optimizer.lr_warmup_steps,
        "--validation-steps": config.validation.validation_steps,
        "--preview-steps": config.run.preview_steps,
    }
    problems = [f"{flag} must be above 0; got {value:g}" for flag, value in above_zero.items() if not value > 0]
    problems += [f"{flag} must be 0 or more; got {value:g}" for flag, value in not_below_zero.items() if value < 0]
    if not config.data.train_data_dir:
        problems.append(
            "--train-data-dir is needed: a folder with *fg/ and bg/ (make one: bokehdiff data synthesize DIR)"
        )
    if config.data.strength_max_px < config.data.strength_min_px:
        problems.append(
            f"--strength-max-px must not be below --strength-min-px; got {config.data.strength_max_px:g} "
            f"and {config.data.strength_min_px:g}"
        )
    if not 0 <= config.model.train_T < 1000:
        problems.append(f"--train-T must be in 0 ... 999; got {config.model.train_T}")
    if not 0 <= config.model.attention_dropout < 1:
        problems.append(f"--attention-dropout must be in [0, 1); got {config.model.attention_dropout:g}")
    if not 0 <= config.optimizer.ema_decay < 1:
        problems.append(f"--ema-decay must be in [0, 1); got {config.optimizer.ema_decay:g}")
    if config.run.push_to_hub and "/" not in (config.run.hub_model_id or ""):
        problems.append(f"--push-to-hub needs --hub-model-id owner/name; got {config.run.hub_model_id}")
    limit = config.run.checkpoints_total_limit
    if limit is not None and limit < 1:
        problems.append(f"--checkpoints-total-limit must be at least 1; got {limit}")
    if not (config.loss.lambda_mse or config.loss.lpips or config.loss.edge or config.loss.lambda_gan):
        problems.append("--lambda-mse 0 without --lpips, --edge or --lambda-gan leaves nothing to train for")
    if problems:
        raise ConfigError(problems)
