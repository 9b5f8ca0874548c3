"""From a configuration to the parts of a run. The only file that reads the configuration's fields."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed

from bokehdiff.data import OnTheFlyDataset, SampleSource, mix_in, parse_sources, preset
from bokehdiff.errors import InputError, at_fault
from bokehdiff.images import make_folder
from bokehdiff.losses import PerceptualLoss
from bokehdiff.models import (
    OneStepGenerator,
    PromptEmbedding,
    SdxlNetworks,
    VisionAidedDiscriminator,
    add_lora,
    load_adapter,
    load_sdxl,
    prompt_embedding,
    trainable_groups,
    use_xformers,
)
from bokehdiff.training.acceleration import HALF_PRECISION, build_accelerator
from bokehdiff.training.averaging import Average
from bokehdiff.training.checkpoint import list_checkpoints
from bokehdiff.training.config import TrainConfig
from bokehdiff.training.description import describe, write_description
from bokehdiff.training.endings import StopRequest, refuse_full_disk
from bokehdiff.training.lora import LoraMethod
from bokehdiff.training.material import composed_pairs, held_out_pairs, last_numbers
from bokehdiff.training.memory import MemoryEstimate, estimate_memory
from bokehdiff.training.memory import Recipe as MemoryRecipe
from bokehdiff.training.network import AcceleratesGradients, Bare, Gradients, Network, trained_weights
from bokehdiff.training.optimizers import adamw, learning_rate_course
from bokehdiff.training.policy import LORA_POLICY
from bokehdiff.training.publish import Destination, check_login
from bokehdiff.training.run import HeldOut, Length, Run
from bokehdiff.training.sharding import prepare_sharded, prepare_whole, turn_sharding_on
from bokehdiff.training.steps import Attention, Objective
from bokehdiff.training.zero import (
    GradientsBesideZero,
    ZeroGradients,
    prepare_zero,
    tell_zero,
)

logger = logging.getLogger(__name__)

IN_SHARES = {DistributedType.FSDP, DistributedType.DEEPSPEED}
BYTES_PER_TRAINED_WEIGHT = 20  # float32: itself, in the adapter too, its mean, and two moments


def build(config: TrainConfig) -> Run:
    """Build a run: what is cheap and likely to be wrong first, so that mistakes show at once.

    Args:
        config: Checked configuration.
    """
    composed = _build_composed(config, config.data.train_data_dir, flag="--train-data-dir")
    dataset = _build_mixture(config, composed)
    held_out = _build_held_out(config, composed)
    with at_fault("--output-dir"):
        folder = make_folder(config.run.output_dir)
    accelerator = _build_accelerator(config, folder)
    destination = _build_destination(config)
    set_seed(config.run.seed)
    objective = _build_objective(config, accelerator.device)
    discriminator = _build_discriminator(config, accelerator)
    generator, prompt = _build_generator(config, accelerator)
    _refuse_full_disk(config, folder, [network.bare for network in (generator, discriminator) if network])
    if accelerator.is_main_process:
        write_description(folder, asdict(config))
    model = config.model
    attention = Attention(model.visibility, model.attention_dropout, config.run.seed, model.ablation)
    return Run(
        accelerator=accelerator,
        method=LoraMethod(generator, discriminator, prompt, objective, attention),
        dataset=dataset,
        held_out=held_out,
        length=_length(config, accelerator.num_processes),
        folder=folder,
        destination=destination,
        description=describe(asdict(config), base_and_lora(config)),
        config=asdict(config),
        policy=LORA_POLICY,
        stop=StopRequest(),
    )


def estimate(config: TrainConfig) -> MemoryEstimate:
    """How much GPU memory a run of this configuration takes, without weights and without a GPU.

    Args:
        config: Checked configuration.
    """
    return estimate_memory(
        MemoryRecipe(
            base=config.model.pretrained_model_name_or_path,
            dtype=HALF_PRECISION[config.run.mixed_precision],
            rank=config.model.lora_rank,
            train_vae=config.model.opt_vae,
            checkpointing=config.model.gradient_checkpointing,
            resolution_px=config.data.resolution,
            batch_size=config.run.train_batch_size,
            objective=_weights_of_losses(config),
            lpips=config.loss.lpips,
            cv_type=config.loss.cv_type if config.loss.lambda_gan else None,
            averaged=config.optimizer.ema_decay > 0,
            in_8_bits=config.optimizer.use_8bit_adam,
        )
    )


def base_and_lora(config: TrainConfig) -> dict[str, str]:
    """What a reader of the adapter wants to know of its making.

    Args:
        config: Checked configuration.
    """
    model = config.model
    return {
        "base": model.pretrained_model_name_or_path,
        "visibility": model.visibility,
        "ablation": model.ablation,
        "train_T": str(model.train_T),
        "pisa_layers": model.pisa_layers,
        "lora_rank": str(model.lora_rank),
        "lora_alpha": f"{model.lora_alpha:g}",
    }


def _build_composed(config: TrainConfig, root: str, *, flag: str) -> OnTheFlyDataset:
    data = config.data
    composition = preset(
        data.composition,
        resolution_px=data.resolution,
        strength_range_px=(data.strength_min_px, data.strength_max_px),
    )
    return composed_pairs(root, flag=flag, seed=config.run.seed, composition=composition)


def _build_mixture(config: TrainConfig, composed: OnTheFlyDataset) -> SampleSource:
    with at_fault("--mix-in"):
        return mix_in(
            composed,
            parse_sources(config.data.mix_in),
            seed=config.run.seed,
            resolution_px=config.data.resolution,
            needs_lens=True,
        )


def _build_held_out(config: TrainConfig, composed: OnTheFlyDataset) -> HeldOut:
    """Pairs of their own folder, or the very last composed of the training folder, which no run reaches."""
    validation = config.validation
    last = last_numbers(composed, validation.validation_samples)
    return held_out_pairs(
        validation.validation_data_dir,
        HeldOut(composed, last, validation.validation_steps, config.run.preview_steps),
        n_wanted=validation.validation_samples,
        compose=lambda root: _build_composed(config, root, flag="--validation-data-dir"),
        needs_lens=True,
    )


def _build_accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    run = config.run
    accelerator = build_accelerator(
        folder,
        mixed_precision=run.mixed_precision,
        n_accumulated=run.gradient_accumulation_steps,
        report_to=run.report_to,
        allow_tf32=run.allow_tf32,
    )
    turn_sharding_on(accelerator)
    by_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if by_zero:
        tell_zero(accelerator, batch_size=run.train_batch_size, max_grad_norm=config.optimizer.max_grad_norm)
    if accelerator.distributed_type in IN_SHARES and config.optimizer.use_8bit_adam:
        raise InputError("bitsandbytes cannot step weights in shares: leave it out", flag="--use-8bit-adam")
    if by_zero and run.mixed_precision == "fp16":
        raise InputError("fp16's loss scaling does not go with DeepSpeed here: bf16 or no", flag="--mixed-precision")
    return accelerator


def _build_destination(config: TrainConfig) -> Destination | None:
    if not config.run.push_to_hub:
        return None
    with at_fault("--push-to-hub"):
        check_login()
    return Destination(config.run.hub_model_id or "", private=config.run.hub_private)


def _build_objective(config: TrainConfig, device: torch.device) -> Objective:
    if not config.loss.lpips:
        return _weights_of_losses(config)
    with at_fault("--lpips"):
        perceptual = PerceptualLoss(weights=config.loss.lpips_weights).to(device)
    return replace(_weights_of_losses(config), perceptual=perceptual)


def _weights_of_losses(config: TrainConfig) -> Objective:
    return Objective(
        lambda_mse=config.loss.lambda_mse,
        lambda_edge=config.loss.lambda_edge if config.loss.edge else 0.0,
        lambda_lpips=config.loss.lambda_lpips,
        perceptual=None,
        lambda_gan=config.loss.lambda_gan,
        gan_step=config.loss.gan_step,
        gan_kind=config.loss.gan_loss_type,
    )


def _build_discriminator(config: TrainConfig, accelerator: Accelerator) -> Network[VisionAidedDiscriminator] | None:
    if not config.loss.lambda_gan:
        return None
    with at_fault("--cv-type"):
        module = VisionAidedDiscriminator(
            config.loss.cv_type,
            weights=config.loss.cv_weights,
            backbone_dtype=HALF_PRECISION[config.run.mixed_precision],
        )
    groups = [
        {
            "params": list(trained_weights(module).values()),
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
    _begin_with_adapter(config, networks)
    with at_fault("--pisa-layers"):
        layers = None if model.ablation == "pisa" else model.pisa_layers
        module = OneStepGenerator(networks, timestep=model.train_T, pisa_layers=layers)
    if model.gradient_checkpointing:
        module.enable_gradient_checkpointing()
    if model.torch_compile:
        module.compile()
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
    decay = config.optimizer.ema_decay
    return _with_optimizer(config, accelerator, module.train(), groups, average_decay=decay), prompt


def _begin_with_adapter(config: TrainConfig, networks: SdxlNetworks) -> None:
    """Put the weights to begin with in place, and tell where they were trained otherwise."""
    model = config.model
    if model.initial_adapter is None:
        return
    with at_fault("--initial-adapter"):
        told = load_adapter(model.initial_adapter, networks.unet, networks.vae).metadata
    for name, now in (("train_T", model.train_T), ("visibility", model.visibility)):
        if str(told.get(name, now)) != str(now):
            logger.warning("The initial adapter was trained with %s %s; it goes on with %s", name, told[name], now)


def _with_optimizer(
    config: TrainConfig,
    accelerator: Accelerator,
    module: Bare,
    groups: list[dict[str, Any]],
    *,
    average_decay: float = 0.0,
) -> Network[Bare]:
    """A network as accelerate wraps it, with AdamW, its course, and the running mean where one is kept."""
    settings = config.optimizer
    optimizer = adamw(
        groups,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.adam_weight_decay,
        epsilon=settings.adam_epsilon,
        in_8_bits=settings.use_8bit_adam,
    )
    schedule = learning_rate_course(
        optimizer,
        kind=settings.lr_scheduler,
        n_warmup_steps=settings.lr_warmup_steps,
        n_steps=config.run.max_train_steps,
        n_cycles=settings.lr_num_cycles,
    )
    wrapped, prepared, gradients = _prepared(config, accelerator, module, optimizer)
    average = Average(trained_weights(module), average_decay) if average_decay else None
    return Network(wrapped, module, prepared, schedule, settings.max_grad_norm, average, gradients)


def _prepared(
    config: TrainConfig, accelerator: Accelerator, module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, Any, Gradients]:
    """As accelerate wraps it; what is shared out of two networks is the generator, which is large."""
    dtype = HALF_PRECISION[config.run.mixed_precision]
    if accelerator.distributed_type not in IN_SHARES:
        return *accelerator.prepare(module, optimizer), AcceleratesGradients()
    by_zero = accelerator.distributed_type == DistributedType.DEEPSPEED
    if not isinstance(module, OneStepGenerator):
        prepared = prepare_whole(accelerator, module, optimizer, dtype=dtype)
        return *prepared, GradientsBesideZero() if by_zero else AcceleratesGradients()
    if by_zero:
        engine, states = prepare_zero(accelerator, module, optimizer, dtype=dtype)
        return engine, states, ZeroGradients(engine)
    return *prepare_sharded(accelerator, module, optimizer), AcceleratesGradients()


def _refuse_full_disk(config: TrainConfig, folder: Path, networks: list[torch.nn.Module]) -> None:
    """Room for the checkpoints that are kept, and the one that is written before the oldest goes."""
    n_weights = sum(weight.numel() for network in networks for weight in trained_weights(network).values())
    kept = config.run.checkpoints_total_limit or -(-config.run.max_train_steps // config.run.checkpointing_steps)
    to_come = max(kept + 1 - len(list_checkpoints(folder)), 1)
    refuse_full_disk(folder, to_come * n_weights * BYTES_PER_TRAINED_WEIGHT)


def _length(config: TrainConfig, n_processes: int) -> Length:
    run = config.run
    return Length(
        n_steps=run.max_train_steps,
        batch_size=run.train_batch_size,
        n_samples_per_step=run.train_batch_size * run.gradient_accumulation_steps * n_processes,
        n_workers=config.data.dataloader_num_workers,
        compose_on=config.data.compose_on,
        checkpointing_steps=run.checkpointing_steps,
        checkpoints_kept=run.checkpoints_total_limit,
        resume_from=run.resume_from_checkpoint,
    )
