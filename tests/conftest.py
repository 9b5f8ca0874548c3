"""What every test runs under: checked shapes, poisoned memory, no network, one seed."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per core: more threads than cores wait for each other
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


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A tiny SDXL with random weights, as real ones lie on disk; written once per process."""
    from bokehdiff.models import write_tiny_sdxl

    os.environ["BOKEHDIFF_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return write_tiny_sdxl(tmp_path_factory.mktemp("base") / "tiny-sdxl")


@pytest.fixture(scope="session")
def training_set(tmp_path_factory):
    """A few procedural foregrounds and backgrounds."""
    from bokehdiff.data import write_training_set

    root = tmp_path_factory.mktemp("training_set")
    write_training_set(root, n_foregrounds=3, n_backgrounds=2, size_px=96, seed=0)
    return root
