"""Photographs one after the other, for the commands that render many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from bokehdiff.errors import BokehDiffError

logger = logging.getLogger(__name__)


@runtime_checkable
class Named(Protocol):
    """A photograph, by its file or by the files of its scene."""

    @property
    def name(self) -> str:
        """What messages call it."""


Photograph = TypeVar("Photograph", bound=Named)


def render_each(photographs: Sequence[Photograph], render: Callable[[Photograph], Iterable[Path]]) -> int:
    """Render every photograph; one that cannot be rendered stops none of the others, and is told at the end.

    Args:
        photographs: What to render.
        render: Renders one; gives the files it has written.

    Returns:
        Exit status: 0 if all were rendered, else 1.
    """
    from tqdm.auto import tqdm

    failures = []
    for photograph in tqdm(photographs, desc="rendering", unit="photo", disable=len(photographs) == 1):
        try:
            for written in render(photograph):
                logger.info("wrote %s", written)
        except BokehDiffError as error:
            failures.append(f"{photograph.name}: {error}")
            logger.error("%s", failures[-1])
    if failures:
        print(f"{len(photographs) - len(failures)} of {len(photographs)} photographs rendered; failed:")
        print("\n".join(failures))
    return 1 if failures else 0
