"""How a baseline is trained: frozen dataclasses, read from YAML and flags, checked all at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from bokehdiff.errors import ConfigError

COARSEST_LEVEL, FINEST_LEVEL = 7, 1
LEVELS = tuple(range(COARSEST_LEVEL, FINEST_LEVEL - 1, -1))
# Sides are halved five times by PyNET, at half the size, and three times by the Double V-Net.
SIZE_MULTIPLES = {"pynet": 64, "double-vnet": 8}


@dataclass(frozen=True)
class NetworkConfig:
    """Which network, and of what size.

    Args:
        model: pynet is PyNET with its head for bokeh, double-vnet the attention-based Double V-Net.
        width: Multiple of the published numbers of channels, 47.55 and 13.36 million weights [1].
        guide: What PyNET is told beside the colours: disparity as published; coc the circle of confusion, so that it
            knows the lens; or none. The Double V-Net is told nothing.
        norm: Normalisation of the Double V-Net: instance is a real one, sum_variance the released code's.
        norm_fine: Normalise in PyNET's level 3 too, which the published network does not: another way to keep level 1
            from diverging.
        init_from: Weights to begin with: a folder that training wrote, or an .npz of TensorFlow's arrays. PyNET's first
            level that is trained begins with them, finer ones with the level before.
    """

    model: Literal["pynet", "double-vnet"] = "pynet"
    width: float = 1.0
    guide: Literal["disparity", "coc", "none"] = "disparity"
    norm: Literal["instance", "sum_variance"] = "instance"
    norm_fine: bool = False
    init_from: str | None = None


@dataclass(frozen=True)
class MaterialConfig:
    """What it learns from.

    Args:
        train_data_dir: Folder with *fg/ and bg/ to compose pairs from on the fly; none for photographed pairs alone.
        pairs: Photographed pairs, LAYOUT:FOLDER@WEIGHT, several with commas; with --train-data-dir they are mixed in,
            composed pairs having weight 1. Layouts: aim, ebb, realbokeh, blb, folders.
        resolution: Side of a crop of the target [px]; PyNET sees the same crop at half the size.
        composition: What composed pairs are drawn from, as for bokehdiff train.
        strength_min_px: Smallest blur strength composed, at 768 px [px].
        strength_max_px: Largest blur strength composed, at 768 px [px].
        width_multiple: Photographs are cut at the right to a multiple of this [px]; 64 is a multiple of 32 at half the
            size, of which EBB!'s maps of depth are.
        mirror: Probability that a crop of a photographed pair is mirrored, left and right, in [0, 1].
        turn: Turn crops by quarters and mirror them upside down, as PyNET's training does.
        shuffle_buffer: Shuffle photographed pairs through a buffer of so many, as tf.data does; none shuffles all.
        compose_on: Where composed pairs are rendered, as for bokehdiff train.
        dataloader_num_workers: Processes that make samples beside the training; does not change the result.
        prefetch_batches: Batches that each of them makes ahead.
    """

    train_data_dir: str | None = None
    pairs: str | None = None
    resolution: int = 1024
    composition: Literal["published", "bokehdiff"] = "published"
    strength_min_px: float = 3.0
    strength_max_px: float = 96.0
    width_multiple: int = 64
    mirror: float = 0.5
    turn: bool = False
    shuffle_buffer: int | None = None
    compose_on: Literal["auto", "cpu", "gpu"] = "auto"
    dataloader_num_workers: int = 0
    prefetch_batches: int = 2


@dataclass(frozen=True)
class LevelConfig:
    """PyNET's levels, 7 the coarsest to 1 the finest, each begun with the weights of the last.

    Args:
        first_level: Where to begin; below 7 the level before must be in --output-dir, or --init-from be given.
        last_level: Where to stop.
        level_steps: Optimiser steps of levels 7 to 1 [steps].
        level_batch_sizes: Samples per step and process of levels 7 to 1.
        coarse_lambda_l1: Weight of the mean absolute difference, the only loss of levels 7 to 2 [1].
    """

    first_level: int = COARSEST_LEVEL
    last_level: int = FINEST_LEVEL
    level_steps: tuple[int, int, int, int, int, int, int] = (5_000, 5_000, 20_000, 20_000, 30_000, 80_000, 100_000)
    level_batch_sizes: tuple[int, int, int, int, int, int, int] = (50, 50, 40, 14, 9, 9, 5)
    coarse_lambda_l1: float = 100.0


@dataclass(frozen=True)
class FidelityConfig:
    """What it is asked for: of PyNET at level 1, of the Double V-Net always.

    Args:
        lambda_l1: Weight of the mean absolute difference; none for the published 10 of PyNET, 0.5 of the Double V-Net
            (there of values in [-1, 1]) [1].
        lambda_vgg: Weight of the mean squared difference of VGG-19's features relu5_4 [1]; 0 leaves it out, and needs
            no weights.
        lambda_ssim: Weight of 1 - SSIM; none for the published 10 of PyNET, 0.05 of the Double V-Net [1].
        vgg_weights: State dict of VGG-19 in torchvision's names; none for torch's own cache.
        vgg_inputs: imagenet for torchvision's weights, caffe for Oxford's own, with which the published weight goes.
        lambda_adversarial: Weight of what the Double V-Net's critics say [1]; 0 trains without them.
        lambda_penalty: Weight of the critics' gradient penalty [1]. The released code meant 10 and had 1.
    """

    lambda_l1: float | None = None
    lambda_vgg: float = 0.1
    lambda_ssim: float | None = None
    vgg_weights: str | None = None
    vgg_inputs: Literal["imagenet", "caffe"] = "imagenet"
    lambda_adversarial: float = 1.0
    lambda_penalty: float = 10.0


@dataclass(frozen=True)
class AdamConfig:
    """How weights follow gradients.

    Args:
        learning_rate: None for the published 5e-5 of PyNET, 1e-5 of the Double V-Net [1 / step].
        critic_learning_rate: Of the critics; none for the same [1 / step].
        adam_beta1: First decay of Adam; none for the published 0.9 and 0 [1].
        adam_beta2: Second decay of Adam; none for the published 0.999 and 0.9 [1].
        adam_epsilon: Smallest denominator of Adam [1].
        max_grad_norm: Gradients of each network are clipped to this norm [1]; 0 leaves them as they are, as published,
            where level 1 of PyNET diverges.
        lr_scheduler: Course of the learning rate after the warm-up; published is constant.
        lr_warmup_steps: Steps over which the learning rate rises to its value [steps].
    """

    learning_rate: float | None = None
    critic_learning_rate: float | None = None
    adam_beta1: float | None = None
    adam_beta2: float | None = None
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    lr_warmup_steps: int = 0


@dataclass(frozen=True)
class HeldOutConfig:
    """What is held out, and how often it is looked at.

    Args:
        validation_data_dir: Held-out pairs: a folder with *fg/ and bg/ to compose from, or LAYOUT:FOLDER; none for
            composites that training never reaches, or the part of photographed pairs that their layout keeps for
            validation. Where it keeps none, the last pairs are left out of training.
        validation_steps: Measure PSNR and SSIM every so many steps [steps]; 0 for never. The best weights by PSNR are
            kept in best-NNNNNNNN/.
        validation_samples: Pairs that are measured [1]; fewer if there are fewer.
    """

    validation_data_dir: str | None = None
    validation_steps: int = 1_000
    validation_samples: int = 16


@dataclass(frozen=True)
class BaselineRunConfig:
    """How long, where to, how often.

    Args:
        output_dir: Run folder; PyNET's levels have folders of their own in it, level_7 to level_1.
        seed: Everything random is a function of this and the sample's number.
        max_train_steps: Optimiser steps of the Double V-Net [steps]; 60 epochs of 4894 pairs are published.
        train_batch_size: Samples per step and process of the Double V-Net [1].
        gradient_accumulation_steps: Batches summed into one step [1].
        mixed_precision: Precision of the forward pass; weights and optimiser stay float32.
        allow_tf32: Allow TF32 matrix products on NVIDIA cards: faster, slightly less exact.
        checkpointing_steps: A checkpoint every so many steps [steps].
        checkpoints_total_limit: Older checkpoints are removed beyond this number; none keeps all.
        resume_from_checkpoint: latest, or none to start anew.
        preview_steps: A preview picture every so many steps [steps]; 0 for none.
        report_to: Tracker of accelerate, such as tensorboard or wandb; none for log.jsonl and pictures only.
        dry_run: Print the resolved configuration, and stop.
    """

    output_dir: str = "logs_baseline"
    seed: int = 0
    max_train_steps: int = 293_640
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    allow_tf32: bool = False
    checkpointing_steps: int = 5_000
    checkpoints_total_limit: int | None = 2
    resume_from_checkpoint: Literal["latest"] | None = "latest"
    preview_steps: int = 1_000
    report_to: str = "tensorboard"
    dry_run: bool = False


@dataclass(frozen=True)
class BaselineConfig:
    """Train PyNET or the Double V-Net on photographed pairs, or on pairs composed on the fly.

    Args:
        network: Which network, and of what size.
        data: What it learns from.
        levels: PyNET's levels.
        loss: What it is asked for.
        optimizer: How weights follow gradients.
        validation: What is held out, and how often it is looked at.
        run: How long, where to, how often.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: MaterialConfig = field(default_factory=MaterialConfig)
    levels: LevelConfig = field(default_factory=LevelConfig)
    loss: FidelityConfig = field(default_factory=FidelityConfig)
    optimizer: AdamConfig = field(default_factory=AdamConfig)
    validation: HeldOutConfig = field(default_factory=HeldOutConfig)
    run: BaselineRunConfig = field(default_factory=BaselineRunConfig)


def with_published(config: BaselineConfig) -> BaselineConfig:
    """The same with published numbers where none were given.

    Args:
        config: As it was given.
    """
    pynet = config.network.model == "pynet"
    loss, optimizer = config.loss, config.optimizer
    rate = _given(optimizer.learning_rate, 5e-5 if pynet else 1e-5)
    return replace(
        config,
        loss=replace(
            loss,
            lambda_l1=_given(loss.lambda_l1, 10.0 if pynet else 0.5),
            lambda_ssim=_given(loss.lambda_ssim, 10.0 if pynet else 0.05),
        ),
        optimizer=replace(
            optimizer,
            learning_rate=rate,
            critic_learning_rate=_given(optimizer.critic_learning_rate, rate),
            adam_beta1=_given(optimizer.adam_beta1, 0.9 if pynet else 0.0),
            adam_beta2=_given(optimizer.adam_beta2, 0.999 if pynet else 0.9),
        ),
    )


def _given(value: float | None, published: float) -> float:
    return published if value is None else value


def check_baseline_config(config: BaselineConfig) -> None:
    """Refuse a configuration that cannot be run, with every problem at once.

    Args:
        config: With published numbers filled in.

    Raises:
        ConfigError: One line per problem, beginning with the flag.
    """
    problems = [*_numbers_out_of_range(config), *_level_problems(config)]
    if not (config.data.train_data_dir or config.data.pairs):
        problems.append(
            "--train-data-dir or --pairs is needed: a folder with *fg/ and bg/ (make one: bokehdiff data synthesize "
            "DIR), or LAYOUT:FOLDER of photographed pairs"
        )
    multiple = SIZE_MULTIPLES[config.network.model]
    if config.data.resolution % multiple or config.data.resolution < 2 * multiple:
        problems.append(
            f"--resolution must be a multiple of {multiple}, at least {2 * multiple}, for {config.network.model}; got "
            f"{config.data.resolution}"
        )
    if config.data.strength_max_px < config.data.strength_min_px:
        problems.append(
            f"--strength-max-px must not be below --strength-min-px; got {config.data.strength_max_px:g} "
            f"and {config.data.strength_min_px:g}"
        )
    if not 0 <= config.data.mirror <= 1:
        problems.append(f"--mirror must be in [0, 1]; got {config.data.mirror:g}")
    if problems:
        raise ConfigError(problems)


def _numbers_out_of_range(config: BaselineConfig) -> list[str]:
    run, data, optimizer = config.run, config.data, config.optimizer
    above_zero = {
        "--width": config.network.width,
        "--strength-min-px": data.strength_min_px,
        "--width-multiple": data.width_multiple,
        "--prefetch-batches": data.prefetch_batches,
        "--shuffle-buffer": data.shuffle_buffer,
        "--learning-rate": optimizer.learning_rate,
        "--critic-learning-rate": optimizer.critic_learning_rate,
        "--max-train-steps": run.max_train_steps,
        "--train-batch-size": run.train_batch_size,
        "--gradient-accumulation-steps": run.gradient_accumulation_steps,
        "--checkpointing-steps": run.checkpointing_steps,
        "--checkpoints-total-limit": run.checkpoints_total_limit,
        "--validation-samples": config.validation.validation_samples,
    }
    not_below_zero = {
        "--dataloader-num-workers": data.dataloader_num_workers,
        "--coarse-lambda-l1": config.levels.coarse_lambda_l1,
        "--lambda-l1": config.loss.lambda_l1,
        "--lambda-vgg": config.loss.lambda_vgg,
        "--lambda-ssim": config.loss.lambda_ssim,
        "--lambda-adversarial": config.loss.lambda_adversarial,
        "--lambda-penalty": config.loss.lambda_penalty,
        "--max-grad-norm": optimizer.max_grad_norm,
        "--lr-warmup-steps": optimizer.lr_warmup_steps,
        "--validation-steps": config.validation.validation_steps,
        "--preview-steps": run.preview_steps,
    }
    problems = [
        f"{flag} must be above 0; got {value:g}"
        for flag, value in above_zero.items()
        if value is not None and not value > 0
    ]
    return problems + [
        f"{flag} must be 0 or more; got {value:g}"
        for flag, value in not_below_zero.items()
        if value is not None and value < 0
    ]


def _level_problems(config: BaselineConfig) -> list[str]:
    levels = config.levels
    problems = []
    if not FINEST_LEVEL <= levels.last_level <= levels.first_level <= COARSEST_LEVEL:
        problems.append(
            f"--first-level and --last-level must fall within 7 ... 1; got {levels.first_level} and {levels.last_level}"
        )
    for flag, values in (("--level-steps", levels.level_steps), ("--level-batch-sizes", levels.level_batch_sizes)):
        if min(values) < 1:
            problems.append(f"{flag} must be at least 1 each; got {list(values)}")
    return problems
