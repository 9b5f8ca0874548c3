"""From a configuration to the parts of a run. The only file that reads the configuration's fields."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler

from bokehdiff.data import Composition, OnTheFlyDataset
from bokehdiff.errors import InputError, at_fault
from bokehdiff.images import make_folder, write_atomically
from bokehdiff.losses import PerceptualLoss
from bokehdiff.models import (
    OneStepGenerator,
    PromptEmbedding,
    VisionAidedDiscriminator,
    add_lora,
    load_sdxl,
    prompt_embedding,
    trainable_groups,
    use_xformers,
)
from bokehdiff.training.config import TrainConfig
from bokehdiff.training.network import Bare, Network
from bokehdiff.training.steps import Attention, Objective

HALF_PRECISION = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VERSIONS_OF = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Length:
    """How long a run is and how often it does what.

    Args:
        n_steps: Optimiser steps in all.
        batch_size: Samples per batch and process.
        n_samples_per_step: Samples per optimiser step over all processes and accumulated batches.
        n_workers: Processes that compose samples.
        checkpointing_steps: A checkpoint every so many steps.
        checkpoints_kept: How many stay; None for all.
        preview_steps: A preview every so many steps; 0 for none.
        resume_from: "latest", a folder, or None.
    """

    n_steps: int
    batch_size: int
    n_samples_per_step: int
    n_workers: int
    checkpointing_steps: int
    checkpoints_kept: int | None
    preview_steps: int
    resume_from: str | None


@dataclass(frozen=True)
class Run:
    """Everything that training needs, built.

    Args:
        accelerator: Devices, precision, processes.
        generator: The one-step generator with its optimiser.
        discriminator: The discriminator with its own; None without a GAN.
        prompt: The one prompt's embedding.
        dataset: Training samples by number.
        objective: What the generator is asked for.
        attention: How PISA is run.
        length: How long, how often.
        folder: The run's folder.
        description: What is written beside the weights: base, recipe, versions.
    """

    accelerator: Accelerator
    generator: Network[OneStepGenerator]
    discriminator: Network[VisionAidedDiscriminator] | None
    prompt: PromptEmbedding
    dataset: OnTheFlyDataset
    objective: Objective
    attention: Attention
    length: Length
    folder: Path
    description: dict[str, str]


def build(config: TrainConfig) -> Run:
    """Build a run: what is cheap and likely to be wrong first, so that mistakes show at once.

    Args:
        config: Checked configuration.
    """
    dataset = _build_dataset(config)
    with at_fault("--output-dir"):
        folder = make_folder(config.run.output_dir)
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        gradient_accumulation_steps=config.run.gradient_accumulation_steps,
        log_with=config.run.report_to,
        project_dir=folder,
    )
    torch.backends.cuda.matmul.allow_tf32 = config.run.allow_tf32
    set_seed(config.run.seed)
    objective = _build_objective(config, accelerator.device)
    discriminator = _build_discriminator(config, accelerator)
    generator, prompt = _build_generator(config, accelerator)
    if config.run.report_to:
        accelerator.init_trackers("bokehdiff")
    if accelerator.is_main_process:
        _write_description(folder, config)
    return Run(
        accelerator=accelerator,
        generator=generator,
        discriminator=discriminator,
        prompt=prompt,
        dataset=dataset,
        objective=objective,
        attention=Attention(config.model.visibility, config.model.attention_dropout, config.run.seed),
        length=_length(config, accelerator.num_processes),
        folder=folder,
        description=_describe(config),
    )


def _build_dataset(config: TrainConfig) -> OnTheFlyDataset:
    composition = Composition(
        resolution_px=config.data.resolution,
        strength_range_px=(config.data.strength_min_px, config.data.strength_max_px),
    )
    with at_fault("--train-data-dir"):
        return OnTheFlyDataset(Path(config.data.train_data_dir), seed=config.run.seed, composition=composition)


def _build_objective(config: TrainConfig, device: torch.device) -> Objective:
    perceptual = None
    if config.loss.lpips:
        with at_fault("--lpips"):
            perceptual = PerceptualLoss(weights=config.loss.lpips_weights).to(device)
    return Objective(
        lambda_mse=config.loss.lambda_mse,
        lambda_edge=config.loss.lambda_edge if config.loss.edge else 0.0,
        lambda_lpips=config.loss.lambda_lpips,
        perceptual=perceptual,
        lambda_gan=config.loss.lambda_gan,
        gan_step=config.loss.gan_step,
        gan_kind=config.loss.gan_loss_type,
    )


def _build_discriminator(config: TrainConfig, accelerator: Accelerator) -> Network[VisionAidedDiscriminator] | None:
    if not config.loss.lambda_gan:
        return None
    with at_fault("--cv-type"):
        module = VisionAidedDiscriminator(config.loss.cv_type, weights=config.loss.cv_weights)
    groups = [
        {
            "params": [p for p in module.parameters() if p.requires_grad],
            "lr": config.optimizer.discriminator_learning_rate,
        }
    ]
    return _with_optimizer(config, accelerator, module, groups)


def _build_generator(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[Network[OneStepGenerator], PromptEmbedding]:
    model = config.model
    with at_fault("--pretrained-model-name-or-path"):
        networks = load_sdxl(
            model.pretrained_model_name_or_path,
            revision=model.revision,
            variant=model.variant,
            dtype=HALF_PRECISION[config.run.mixed_precision],
        )
        prompt = prompt_embedding(
            model.pretrained_model_name_or_path, revision=model.revision, variant=model.variant
        ).to(accelerator.device)
    if model.enable_xformers_memory_efficient_attention:
        use_xformers(networks.unet, accelerator.device)
    add_lora(networks.unet, rank=model.lora_rank, alpha=model.lora_alpha)
    with at_fault("--pisa-layers"):
        module = OneStepGenerator(networks, timestep=model.train_T, pisa_layers=model.pisa_layers)
    if model.gradient_checkpointing:
        module.enable_gradient_checkpointing()
    if config.data.resolution % module.size_multiple:
        raise InputError(
            f"must be a multiple of {module.size_multiple} for this backbone; got {config.data.resolution}",
            flag="--resolution",
        )
    lora, vae = trainable_groups(module.unet, module.vae, train_vae=model.opt_vae)
    rate = config.optimizer.learning_rate
    groups = [{"params": lora, "lr": rate}]
    if vae:
        groups.append({"params": vae, "lr": rate * config.optimizer.vae_learning_rate_scale})
    return _with_optimizer(config, accelerator, module, groups), prompt


def _with_optimizer(
    config: TrainConfig, accelerator: Accelerator, module: Bare, groups: list[dict[str, Any]]
) -> Network[Bare]:
    """AdamW and its schedule, counted in optimiser steps whatever the number of processes."""
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        groups,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        eps=settings.adam_epsilon,
    )
    schedule = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=config.run.max_train_steps,
        num_cycles=settings.lr_num_cycles,
    )
    wrapped, prepared = accelerator.prepare(module, optimizer)
    return Network(wrapped, module, prepared, schedule, settings.max_grad_norm)


def _describe(config: TrainConfig) -> dict[str, str]:
    """What a reader of the adapter wants to know of its making."""
    versions = {name: metadata.version(name) for name in VERSIONS_OF}
    return {
        "base": config.model.pretrained_model_name_or_path,
        "visibility": config.model.visibility,
        "train_T": str(config.model.train_T),
        "pisa_layers": config.model.pisa_layers,
        "seed": str(config.run.seed),
        "versions": " ".join(f"{name}={version}" for name, version in versions.items()),
    }


def _length(config: TrainConfig, n_processes: int) -> Length:
    run = config.run
    return Length(
        n_steps=run.max_train_steps,
        batch_size=run.train_batch_size,
        n_samples_per_step=run.train_batch_size * run.gradient_accumulation_steps * n_processes,
        n_workers=config.data.dataloader_num_workers,
        checkpointing_steps=run.checkpointing_steps,
        checkpoints_kept=run.checkpoints_total_limit,
        preview_steps=run.preview_steps,
        resume_from=run.resume_from_checkpoint,
    )


def _write_description(folder: Path, config: TrainConfig) -> None:
    """The run's folder says what it is: the resolved configuration, the command, the versions."""
    with write_atomically(folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
    versions = [f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in VERSIONS_OF)]
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    with write_atomically(folder / "command.txt") as partial:
        partial.write_text("\n".join([command, *versions]) + "\n", encoding="utf-8")
