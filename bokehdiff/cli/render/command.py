"""The run: find the photographs, render each, tell what failed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bokehdiff.cli.photographs import render_each
from bokehdiff.cli.render.options import RenderOptions, check_options
from bokehdiff.cli.render.places import Task, result_of, tasks_of
from bokehdiff.errors import at_fault

logger = logging.getLogger(__name__)


def run(options: RenderOptions) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others.

    Args:
        options: The command line.

    Returns:
        0 if all were rendered, else 1.
    """
    check_options(options)
    from bokehdiff.images import find_images

    with at_fault("--image"):
        tasks = tasks_of(find_images(options.image))
    wanted = [task for task in tasks if not (options.result.skip_existing and result_of(task, options).exists())]
    if len(wanted) < len(tasks):
        logger.info("%d of %d photographs have their result and are left alone", len(tasks) - len(wanted), len(tasks))
    return render_each(wanted, partial(_render, options=options), jobs=options.result.jobs or os.cpu_count() or 1)


def _render(task: Task, *, options: RenderOptions) -> Iterator[Path]:
    """In this process or in one of its own; torch is loaded where a photograph is rendered."""
    from bokehdiff.cli.render.picture import render_task

    return render_task(task, options)
