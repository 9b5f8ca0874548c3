"""Where to compute, by name."""

from __future__ import annotations

import torch

from bokehdiff.errors import InputError, first_line


def pick_device(name: str) -> torch.device:
    """The device of a name, tried out on one number.

    Args:
        name: "auto" for the best there is, or a name of torch's: cpu, cuda, cuda:1, mps.
    """
    if name == "auto":
        best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return best or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch's answers differ by kind of device
        raise InputError(f"{name!r} cannot be used here: {first_line(error)}") from None
    return device
