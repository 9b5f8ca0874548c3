"""From a configuration to the parts of a run: the Double V-Net's, or that of one of PyNET's levels."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import nn

from bokehdiff.errors import InputError, at_fault
from bokehdiff.images import make_folder
from bokehdiff.losses import FeatureLoss
from bokehdiff.models import Baseline, BaselineSpec, DoubleVNet, PyNet, build_baseline, load_baseline
from bokehdiff.training.acceleration import build_accelerator
from bokehdiff.training.baselines.config import COARSEST_LEVEL, FINEST_LEVEL, BaselineConfig
from bokehdiff.training.baselines.critics import Critics
from bokehdiff.training.baselines.double import Adversary, DoubleMethod
from bokehdiff.training.baselines.fidelity import Fidelity
from bokehdiff.training.baselines.material import build_material
from bokehdiff.training.baselines.policy import BASELINE_POLICY
from bokehdiff.training.baselines.pyramid import RESULT_FOLDER, PyramidMethod
from bokehdiff.training.description import describe, write_description
from bokehdiff.training.endings import StopRequest
from bokehdiff.training.network import Bare, Network
from bokehdiff.training.optimizers import adamw, learning_rate_course
from bokehdiff.training.run import Length, Method, Run

IN_SHARES = {DistributedType.FSDP, DistributedType.DEEPSPEED}
SIGNED_TO_UNIT = 2.0  # a difference of values in [-1, 1] is twice that of values in [0, 1]


def spec_of(config: BaselineConfig, level: int = FINEST_LEVEL) -> BaselineSpec:
    """What the network is built from.

    Args:
        config: Checked configuration.
        level: PyNET's.
    """
    network = config.network
    if network.model == "double-vnet":
        return BaselineSpec("double-vnet", width=network.width, guide="none", norm=network.norm)
    return BaselineSpec("pynet", width=network.width, guide=network.guide, level=level, norm_fine=network.norm_fine)


def level_folder(config: BaselineConfig, level: int) -> Path:
    """Where a level of PyNET is trained.

    Args:
        config: Checked configuration.
        level: 7 to 1.
    """
    return Path(config.run.output_dir) / f"level_{level}"


def build_run(config: BaselineConfig, level: int = FINEST_LEVEL) -> Run:
    """Build a run: what is cheap and likely to be wrong first, so that mistakes show at once.

    Args:
        config: Checked configuration.
        level: Of PyNET; the Double V-Net has none.
    """
    spec = spec_of(config, level)
    material = build_material(config, spec)
    with at_fault("--output-dir"):
        folder = make_folder(level_folder(config, level) if spec.model == "pynet" else config.run.output_dir)
    accelerator = build_accelerator(
        folder,
        mixed_precision=config.run.mixed_precision,
        n_accumulated=config.run.gradient_accumulation_steps,
        report_to=config.run.report_to,
        allow_tf32=config.run.allow_tf32,
    )
    if accelerator.distributed_type in IN_SHARES:
        raise InputError("these networks are small and are not shared out: take configs/accelerate/ddp.yaml")
    set_seed(config.run.seed)
    network = build_baseline(spec)
    begin = _first_weights(config, level)
    if begin is not None:
        _fill(network, begin, spec)
    length = _length(config, level, accelerator.num_processes)
    method = (
        _pyramid(config, network, spec, accelerator, length)
        if isinstance(network, PyNet)
        else _double(config, network, spec, accelerator, length)
    )
    stored = asdict(config)
    if accelerator.is_main_process:
        write_description(folder, stored)
    return Run(
        accelerator=accelerator,
        method=method,
        dataset=material.dataset,
        held_out=material.held_out,
        length=length,
        folder=folder,
        destination=None,
        description=describe(stored, {"model": spec.model, "level": str(spec.level)}),
        config=stored,
        policy=BASELINE_POLICY,
        stop=StopRequest(),
    )


def _first_weights(config: BaselineConfig, level: int) -> Path | None:
    """Weights that a level begins with: those of the level before it, or what the user names; None for random ones."""
    levels, network = config.levels, config.network
    if network.init_from is not None and (network.model == "double-vnet" or level == levels.first_level):
        return Path(network.init_from)
    if network.model == "double-vnet" or level == COARSEST_LEVEL:
        return None
    before = level_folder(config, level + 1) / RESULT_FOLDER
    if not before.is_dir():
        raise InputError(
            f"level {level} begins with the weights of level {level + 1}, which are not in {before}: begin with "
            f"--first-level {level + 1}, or name weights with --init-from",
            flag="--first-level",
        )
    return before


def _fill(network: Baseline, begin: Path, spec: BaselineSpec) -> None:
    with at_fault("--init-from"):
        loaded = load_baseline(begin, model=spec.model)
        theirs = replace(loaded.spec, level=spec.level)
        if begin.suffix == ".npz":  # arrays tell sizes only
            theirs = replace(theirs, norm=spec.norm, guide=spec.guide if theirs.needs_disparity else theirs.guide)
        if theirs != spec:
            different = [name for name, value in asdict(spec).items() if asdict(theirs)[name] != value]
            told = ", ".join(f"{name} {asdict(theirs)[name]} instead of {asdict(spec)[name]}" for name in different)
            raise InputError(f"{begin} holds a network with {told}")
        network.load_state_dict(loaded.network.state_dict())


def _pyramid(
    config: BaselineConfig, network: PyNet, spec: BaselineSpec, accelerator: Accelerator, length: Length
) -> Method:
    reached = network.trained_at(spec.level)
    for name, weight in network.named_parameters():
        weight.requires_grad_(name in reached)  # finer levels wait, and no process looks for their gradients
    fine = spec.level == FINEST_LEVEL
    fidelity = _fidelity(config, accelerator) if fine else Fidelity(lambda_l1=config.levels.coarse_lambda_l1)
    trained = _with_adam(config, accelerator, network.train(), config.optimizer.learning_rate, length)
    turn_seed = config.run.seed if config.data.turn else None
    return PyramidMethod(trained, spec, fidelity, config.data.resolution, turn_seed)


def _double(
    config: BaselineConfig, network: DoubleVNet, spec: BaselineSpec, accelerator: Accelerator, length: Length
) -> Method:
    fidelity = _fidelity(config, accelerator)
    fidelity = replace(fidelity, lambda_l1=SIGNED_TO_UNIT * fidelity.lambda_l1)
    adversary = None
    if config.loss.lambda_adversarial:
        critics = Critics(norm=config.network.norm, width=config.network.width)
        trained = _with_adam(config, accelerator, critics, config.optimizer.critic_learning_rate, length)
        adversary = Adversary(trained, config.loss.lambda_adversarial, config.loss.lambda_penalty)
    generator = _with_adam(config, accelerator, network.train(), config.optimizer.learning_rate, length)
    return DoubleMethod(generator, adversary, spec, fidelity, config.run.seed, config.data.turn)


def _fidelity(config: BaselineConfig, accelerator: Accelerator) -> Fidelity:
    loss = config.loss
    features = None
    if loss.lambda_vgg:
        with at_fault("--lambda-vgg"):
            features = FeatureLoss(loss.vgg_weights, inputs=loss.vgg_inputs).to(accelerator.device)
    return Fidelity(
        lambda_l1=loss.lambda_l1 or 0.0,
        lambda_vgg=loss.lambda_vgg,
        lambda_ssim=loss.lambda_ssim or 0.0,
        features=features,
    )


def _with_adam(
    config: BaselineConfig, accelerator: Accelerator, module: Bare, learning_rate: float | None, length: Length
) -> Network[Bare]:
    """A network as accelerate wraps it, with Adam and its course."""
    settings = config.optimizer
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": weights, "lr": learning_rate}]
    betas = (settings.adam_beta1 or 0.0, settings.adam_beta2 or 0.0)
    optimizer = adamw(groups, betas=betas, weight_decay=0.0, epsilon=settings.adam_epsilon)
    schedule = learning_rate_course(
        optimizer,
        kind=settings.lr_scheduler,
        n_warmup_steps=settings.lr_warmup_steps,
        n_steps=length.n_steps,
        n_cycles=1,
    )
    wrapped: nn.Module
    wrapped, prepared = accelerator.prepare(module, optimizer)
    return Network(wrapped, module, prepared, schedule, settings.max_grad_norm or math.inf)


def _length(config: BaselineConfig, level: int, n_processes: int) -> Length:
    run, place = config.run, COARSEST_LEVEL - level
    pynet = config.network.model == "pynet"
    batch_size = config.levels.level_batch_sizes[place] if pynet else run.train_batch_size
    return Length(
        n_steps=config.levels.level_steps[place] if pynet else run.max_train_steps,
        batch_size=batch_size,
        n_samples_per_step=batch_size * run.gradient_accumulation_steps * n_processes,
        n_workers=config.data.dataloader_num_workers,
        compose_on=config.data.compose_on,
        checkpointing_steps=run.checkpointing_steps,
        checkpoints_kept=run.checkpoints_total_limit,
        resume_from=run.resume_from_checkpoint,
        prefetched=config.data.prefetch_batches,
    )
