"""What may differ between a checkpoint's configuration and the one that goes on from it: the written policy.

A field that is named nowhere here may not differ: what is forgotten is refused, not ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bokehdiff.errors import ConfigError

logger = logging.getLogger(__name__)

# Changes where, how fast or how often something is done or told, and no trained weight beyond rounding.
FREE = frozenset(
    {
        "model.gradient_checkpointing",
        "model.torch_compile",
        "model.enable_xformers_memory_efficient_attention",
        "data.dataloader_num_workers",
        "loss.lpips_weights",
        "loss.cv_weights",
        "validation.validation_data_dir",
        "validation.validation_steps",
        "validation.validation_samples",
        "run.preview_steps",
        "run.output_dir",
        "run.checkpointing_steps",
        "run.checkpoints_total_limit",
        "run.resume_from_checkpoint",
        "run.report_to",
        "run.push_to_hub",
        "run.hub_model_id",
        "run.hub_private",
        "run.dry_run",
    }
)

# Changes what is learned from here on, as people do on purpose: allowed, and told with before and after.
NOTED = frozenset(
    {
        "model.pretrained_model_name_or_path",  # a base that was moved is the same base
        "model.revision",
        "model.variant",
        "model.attention_dropout",
        "data.train_data_dir",
        "data.compose_on",
        "loss.lambda_mse",
        "loss.lpips",
        "loss.lambda_lpips",
        "loss.edge",
        "loss.lambda_edge",
        "loss.lambda_gan",
        "loss.gan_step",
        "loss.gan_loss_type",
        "optimizer.learning_rate",
        "optimizer.vae_learning_rate_scale",
        "optimizer.discriminator_learning_rate",
        "optimizer.adam_beta1",
        "optimizer.adam_beta2",
        "optimizer.adam_weight_decay",
        "optimizer.adam_epsilon",
        "optimizer.max_grad_norm",
        "optimizer.lr_scheduler",
        "optimizer.lr_warmup_steps",
        "optimizer.lr_num_cycles",
        "optimizer.ema_decay",
        "run.max_train_steps",
        "run.train_batch_size",
        "run.gradient_accumulation_steps",
        "run.mixed_precision",
        "run.allow_tf32",
    }
)


@dataclass(frozen=True)
class Policy:
    """Which fields of a configuration may differ from the checkpoint's; all others may not.

    Args:
        free: Those that change no trained weight beyond rounding.
        noted: Those that change what is learned from here on; told with before and after.
    """

    free: frozenset[str]
    noted: frozenset[str]


LORA_POLICY = Policy(FREE, NOTED)


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every field of a configuration.

    Args:
        config: The configuration as nested mappings.
        prefix: Of the names.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def compare_configs(stored: Mapping[str, Any], now: Mapping[str, Any], policy: Policy = LORA_POLICY) -> None:
    """Refuse to go on where the trained thing would be another; tell what will be done otherwise from here on.

    Args:
        stored: The checkpoint's configuration, as nested mappings.
        now: This run's.
        policy: What may differ.

    Raises:
        ConfigError: With every field that may not differ.
    """
    before, after = dict(flat_fields(stored)), dict(flat_fields(now))
    differing = [name for name in after if name in before and _plain(before[name]) != _plain(after[name])]
    fixed = [name for name in differing if name not in policy.free | policy.noted]
    if fixed:
        raise ConfigError(
            [f"{_flag(name)} was {before[name]} in the checkpoint and is {after[name]} now" for name in fixed]
            + ["pass what it was made with, or train into another --output-dir"]
        )
    for name in differing:
        if name in policy.noted:
            logger.warning(
                "From here on %s is %s; until the checkpoint it was %s", _flag(name), after[name], before[name]
            )


def _plain(value: Any) -> Any:
    """A tuple is a list once it has been through JSON."""
    return list(value) if isinstance(value, tuple) else value


def _flag(name: str) -> str:
    return "--" + name.rpartition(".")[2].replace("_", "-")
