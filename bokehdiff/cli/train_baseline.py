"""`bokehdiff train-baseline`: PyNET level by level, or the Double V-Net against its critics."""

from __future__ import annotations

from bokehdiff.cli.training import until_stopped
from bokehdiff.training.baselines.config import BaselineConfig

OPTIONS = BaselineConfig
POSITIONAL = ()


def run(options: BaselineConfig) -> int:
    """Train, or with --dry-run print what would be done.

    Args:
        options: The resolved configuration.
    """
    from bokehdiff.cli.options import to_yaml
    from bokehdiff.training.baselines.config import check_baseline_config, with_published

    options = with_published(options)
    check_baseline_config(options)
    if options.run.dry_run:
        print(to_yaml(options), end="")
        return 0

    def train() -> None:
        from bokehdiff.training.baselines.train import train_baseline

        print(train_baseline(options))

    return until_stopped(train, program="bokehdiff train-baseline")
