"""What every test runs under: checked shapes, poisoned memory, no network, one seed."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton warns while it is unset

from jaxtyping import install_import_hook

import tests.helpers  # noqa: F401  the hook evaluates its checker by this name

install_import_hook("bokehdiff", "tests.helpers.checked")

import pytest
import torch

torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(autouse=True)
def _seeded_and_poisoned():
    """Tests start from one seed, and `torch.empty` is NaN: memory that nobody wrote shows itself."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
