"""`bokehdiff doctor`: what works on this machine, on one screen."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DoctorOptions:
    """Tell what works on this machine: devices, back ends, weights, packages, and what to install for the rest.

    Back ends are tried out on a few numbers. Nothing is downloaded, the hub is not asked, and the exit status is 0
    whatever is missing. What to do about it: docs/troubleshooting.md.

    Args:
        json: Print everything as one JSON object, for programs and reports of problems.
    """

    json: bool = False


OPTIONS = DoctorOptions
POSITIONAL = ()


def run(options: DoctorOptions) -> int:
    """Look around and print.

    Args:
        options: The command line.

    Returns:
        0.
    """
    logging.disable(logging.WARNING)  # what other packages tell of themselves while they are imported
    try:
        machine = _look_around()
    finally:
        logging.disable(logging.NOTSET)
    from bokehdiff.machine import report_lines

    print(json.dumps(asdict(machine), indent=2) if options.json else "\n".join(report_lines(machine)))
    return 0


def _look_around() -> Any:
    from bokehdiff.cli.demo import EMBEDDED, EMBEDDED_ADAPTER
    from bokehdiff.cli.infer.options import PUBLISHED_ADAPTER, PUBLISHED_BASE, ModelOptions
    from bokehdiff.machine import look_around, stored_weights
    from bokehdiff.training.config import LossConfig

    return look_around(
        stored_weights(
            tiny_base=EMBEDDED,
            tiny_adapter=EMBEDDED_ADAPTER,
            base=PUBLISHED_BASE,
            adapter=PUBLISHED_ADAPTER,
            adapter_variant=ModelOptions().variant,
            backbone=LossConfig().cv_type,
        )
    )
