"""What tests share: the tolerance table, the type checker, small scenes."""

from __future__ import annotations

from pathlib import Path

import torch
from beartype import BeartypeConf, beartype

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDED = REPOSITORY / "assets" / "tiny-sdxl"  # the tiny backbone whose weights are taught
SHARED = REPOSITORY.parent / "shared"  # data of the authors' own; a test that needs it skips without it

# One table by dtype, the same everywhere: change the data before the tolerance.
TOLERANCE = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-9},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in Python's own arithmetic


def assert_close(got: torch.Tensor, expected: torch.Tensor, *, dtype: torch.dtype | None = None) -> None:
    """Equal up to the tolerance table, by the dtype of `got` or a coarser one that the numbers went through."""
    torch.testing.assert_close(got, expected.to(got.dtype), **TOLERANCE[dtype or got.dtype])


def psnr(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Peak signal-to-noise ratio [dB] of images in [0, 1]."""
    error = (got.double() - expected.double()).square().mean().clamp_min(1e-20)
    return float(-10.0 * torch.log10(error))
