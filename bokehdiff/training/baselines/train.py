"""The story of a baseline's training: the Double V-Net in one run, PyNET level by level, coarse to fine."""

from __future__ import annotations

import logging
from pathlib import Path

from bokehdiff.models import load_baseline
from bokehdiff.training.baselines.build import build_run, level_folder
from bokehdiff.training.baselines.config import COARSEST_LEVEL, BaselineConfig, check_baseline_config, with_published
from bokehdiff.training.baselines.pyramid import RESULT_FOLDER
from bokehdiff.training.endings import memory_errors_told
from bokehdiff.training.loop import train_run

logger = logging.getLogger(__name__)


def train_baseline(config: BaselineConfig) -> Path:
    """Train a baseline. The same command again goes on from the newest whole checkpoint.

    Args:
        config: What to train, on what, how long; published numbers are filled in where none are given.

    Returns:
        The folder with the weights, `model/` of the run or of PyNET's last level.

    Raises:
        Stopped: If SIGTERM or Ctrl-C asked for it; a checkpoint was saved first.
    """
    config = with_published(config)
    check_baseline_config(config)
    with memory_errors_told():
        if config.network.model == "double-vnet":
            return train_run(build_run(config)) / RESULT_FOLDER
        levels = range(config.levels.first_level, config.levels.last_level - 1, -1)
        for level in levels:
            if _is_done(config, level):
                logger.info("Level %d is trained already: %s", level, level_folder(config, level))
            else:
                logger.info("Level %d", level)
                train_run(build_run(config, level))
    return level_folder(config, config.levels.last_level) / RESULT_FOLDER


def _is_done(config: BaselineConfig, level: int) -> bool:
    """Whether a level has left its weights after as many steps as it is asked for."""
    folder = level_folder(config, level) / RESULT_FOLDER
    if config.run.resume_from_checkpoint is None or not folder.is_dir():
        return False
    n_steps = int(load_baseline(folder).about.get("n_steps", 0))
    return n_steps >= config.levels.level_steps[COARSEST_LEVEL - level]
