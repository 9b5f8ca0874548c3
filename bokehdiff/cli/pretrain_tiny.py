"""`bokehdiff pretrain-tiny`: teaches the tiny SDXL that ships with the project, from nothing."""

from __future__ import annotations

from bokehdiff.training.pretraining.config import PretrainConfig

OPTIONS = PretrainConfig
POSITIONAL = ()


def run(options: PretrainConfig) -> int:
    """Teach it.

    Args:
        options: The resolved configuration.
    """
    from bokehdiff.training.pretraining.config import check_pretrain_config

    check_pretrain_config(options)
    from bokehdiff.training.pretraining.stages import pretrain

    print(pretrain(options))
    return 0
