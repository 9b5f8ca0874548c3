"""`bokehdiff train`, `python train_lora_otf.py`: one-step LoRA training on pairs made on the fly."""

from __future__ import annotations

import sys

from bokehdiff.training.config import TrainConfig

SIGNAL_STATUS = 128  # as a shell tells that a signal ended a program: 130 after Ctrl-C, 143 after SIGTERM

OPTIONS = TrainConfig
POSITIONAL = ()


def run(options: TrainConfig) -> int:
    """Train, or with --dry-run print what would be done.

    Args:
        options: The resolved configuration.
    """
    from bokehdiff.cli.options import to_yaml
    from bokehdiff.training.config import check_config

    check_config(options)
    if options.run.dry_run:
        print(to_yaml(options), end="")
        print(_expectations(options))
        return 0
    from bokehdiff.training.endings import Stopped
    from bokehdiff.training.loop import train

    try:
        train(options)
    except Stopped as asked:
        print(f"bokehdiff train: {asked}", file=sys.stderr)
        return SIGNAL_STATUS + asked.signal_number
    return 0


def _expectations(options: TrainConfig) -> str:
    """What a run would take, as comments below its configuration."""
    from bokehdiff.training.build import estimate

    lines = ["GPU memory, estimated (beside the CUDA context, some 0.5 GiB, and the allocator's rounding):"]
    lines += estimate(options).as_text().splitlines()
    if options.run.push_to_hub:
        lines.append(f"the adapter and its card would be uploaded to {options.run.hub_model_id}")
    return "\n".join(f"# {line}" for line in lines)
