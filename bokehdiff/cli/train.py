"""`bokehdiff train`, `python train_lora_otf.py`: one-step LoRA training on pairs made on the fly."""

from __future__ import annotations

from bokehdiff.cli.training import until_stopped
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
        print(_expectations(options))
        return 0
    from bokehdiff.training.loop import train

    return until_stopped(lambda: train(options), program="bokehdiff train")


def _expectations(options: TrainConfig) -> str:
    """What a run would take, as comments below its configuration."""
    from bokehdiff.training.build import estimate

    lines = ["GPU memory, estimated (beside the CUDA context, some 0.5 GiB, and the allocator's rounding):"]
    lines += estimate(options).as_text().splitlines()
    if options.run.push_to_hub:
        lines.append(f"the adapter and its card would be uploaded to {options.run.hub_model_id}")
    return "\n".join(f"# {line}" for line in lines)
