"""`bokehdiff train`, `python train_lora_otf.py`: one-step LoRA training on pairs made on the fly."""

from __future__ import annotations

from bokehdiff.training.config import TrainConfig

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
        return 0
    from bokehdiff.training.loop import train

    train(options)
    return 0
