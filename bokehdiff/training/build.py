"""From a configuration to the parts of a run. The only file that reads the configuration's fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, set_seed

from bokehdiff.data import (
    ComposeOn,
    OnTheFlyDataset,
    PairedDataset,
    SampleSource,
    mix_in,
    parse_sources,
    preset,
)
from bokehdiff.errors import InputError, MissingDependencyError, at_fault
from bokehdiff.images import make_folder
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
from bokehdiff.training.averaging import Average
from bokehdiff.training.checkpoint import list_checkpoints
from bokehdiff.training.config import TrainConfig
from bokehdiff.training.description import describe, write_description
from bokehdiff.training.endings import StopRequest, refuse_full_disk
from bokehdiff.training.held_out import HeldOut
from bokehdiff.training.memory import MemoryEstimate, estimate_memory
from bokehdiff.training.memory import Recipe as MemoryRecipe
from bokehdiff.training.network import AcceleratesGradients, Bare, Gradients, Network, trained_weights
from bokehdiff.training.optimizers import adamw, learning_rate_course
from bokehdiff.training.publish import Destination, check_login
from bokehdiff.training.sharding import prepare_sharded, prepare_whole, refuse_other_launchers, turn_sharding_on
from bokehdiff.training.steps import Attention, Objective
from bokehdiff.training.zero import (
    GradientsBesideZero,
    ZeroGradients,
    prepare_zero,
    tell_zero,
    zero_is_asked_for,
    zero_settings,
)

HALF_PRECISION = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IN_SHARES = {DistributedType.FSDP, DistributedType.DEEPSPEED}
WITHOUT_TRACKER = {"", "none"}
BYTES_PER_TRAINED_WEIGHT = 20  # float32: itself, in the adapter too, its mean, and two moments


@dataclass(frozen=True)
class Length:
    """How long a run is and how often it does what.

    Args:
        n_steps: Optimiser steps in all.
        batch_size: Samples per batch and process.
        n_samples_per_step: Samples per optimiser step over all processes and accumulated batches.
        n_workers: Processes that compose samples.
        compose_on: Where they are rendered.
        checkpointing_steps: A checkpoint every so many steps.
        checkpoints_kept: How many stay; None for all.
        resume_from: "latest", a folder, or None.
    """

    n_steps: int
    batch_size: int
    n_samples_per_step: int
    n_workers: int
    compose_on: ComposeOn
    checkpointing_steps: int
    checkpoints_kept: int | None
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
        held_out: Pairs that training never sees.
        objective: What the generator is asked for.
        attention: How PISA is run.
        length: How long, how often.
        folder: The run's folder.
        destination: Where the adapter is published; None if nowhere.
        description: What is written beside the weights: base, recipe, versions.
        config: The configuration as nested mappings, stored with each checkpoint.
        stop: Whether somebody asked the run to stop.
    """

    accelerator: Accelerator
    generator: Network[OneStepGenerator]
    discriminator: Network[VisionAidedDiscriminator] | None
    prompt: PromptEmbedding
    dataset: SampleSource
    held_out: HeldOut
    objective: Objective
    attention: Attention
    length: Length
    folder: Path
    destination: Destination | None
    description: dict[str, str]
    config: dict[str, Any]
    stop: StopRequest

    @property
    def networks(self) -> dict[str, Network[Any]]:
        """What trains, by its name in a checkpoint."""
        both: dict[str, Network[Any] | None] = {"generator": self.generator, "discriminator": self.discriminator}
        return {name: network for name, network in both.items() if network is not None}

    @property
    def accumulated(self) -> list[torch.nn.Module]:
        """Networks whose gradients wait for the last batch of a step; beside a sharded one, a small one's do not."""
        waiting = [self.generator] if self.generator.is_sharded else self.networks.values()
        return [network.module for network in waiting]


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
    return Run(
        accelerator=accelerator,
        generator=generator,
        discriminator=discriminator,
        prompt=prompt,
        dataset=dataset,
        held_out=held_out,
        objective=objective,
        attention=Attention(
            config.model.visibility, config.model.attention_dropout, config.run.seed, config.model.ablation
        ),
        length=_length(config, accelerator.num_processes),
        folder=folder,
        destination=destination,
        description=describe(asdict(config)),
        config=asdict(config),
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


def _build_composed(config: TrainConfig, root: str, *, flag: str) -> OnTheFlyDataset:
    data = config.data
    composition = preset(
        data.composition,
        resolution_px=data.resolution,
        strength_range_px=(data.strength_min_px, data.strength_max_px),
    )
    with at_fault(flag):
        return OnTheFlyDataset(Path(root), seed=config.run.seed, composition=composition)


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
    where, flag = validation.validation_data_dir, "--validation-data-dir"
    n_wanted = validation.validation_samples
    source: SampleSource = composed
    numbers = tuple(len(composed) - 1 - index for index in range(n_wanted))
    if where is not None:
        with at_fault(flag):
            is_pairs = ":" in where and not Path(where).exists()
            source = _build_pairs(where) if is_pairs else _build_composed(config, where, flag=flag)
        numbers = tuple(range(min(n_wanted, len(source))))
    return HeldOut(source, numbers, validation.validation_steps, config.run.preview_steps)


def _build_pairs(where: str) -> PairedDataset:
    """Whole photographs whose lens is known, each once."""
    (spec,) = parse_sources(where)
    pairs = PairedDataset(spec.root, layout=spec.layout, split="val")
    if not pairs.knows_lens:
        raise InputError(
            f"pairs in the layout {spec.layout!r} tell neither focus nor strength, which this network needs"
        )
    return pairs


def _build_accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    tracker = None if config.run.report_to in WITHOUT_TRACKER else config.run.report_to
    there = sorted(str(name) for name in get_available_trackers())
    if tracker is not None and tracker not in there:
        raise MissingDependencyError(
            f"no tracker called {tracker!r} is installed; there are {', '.join(there)}, and none", flag="--report-to"
        )
    refuse_other_launchers()
    by_zero = zero_is_asked_for()
    settings: dict[str, Any] = zero_settings() if by_zero else {"mixed_precision": config.run.mixed_precision}
    accelerator = Accelerator(
        # Else several processes without a GPU would not find each other; DeepSpeed is told its own way.
        cpu=not by_zero and not torch.accelerator.is_available(),
        **settings,
        gradient_accumulation_steps=config.run.gradient_accumulation_steps,
        log_with=tracker,
        project_dir=folder,
    )
    turn_sharding_on(accelerator)
    if by_zero:
        tell_zero(accelerator, batch_size=config.run.train_batch_size, max_grad_norm=config.optimizer.max_grad_norm)
    if accelerator.distributed_type in IN_SHARES and config.optimizer.use_8bit_adam:
        raise InputError("bitsandbytes cannot step weights in shares: leave it out", flag="--use-8bit-adam")
    if by_zero and config.run.mixed_precision == "fp16":
        raise InputError("fp16's loss scaling does not go with DeepSpeed here: bf16 or no", flag="--mixed-precision")
    if config.run.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("fp16 needs a GPU: on a CPU train with bf16 or no", flag="--mixed-precision")
    torch.backends.cuda.matmul.allow_tf32 = config.run.allow_tf32
    torch.backends.cudnn.allow_tf32 = config.run.allow_tf32
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
