"""A small training set that the tests of this folder share."""

from __future__ import annotations

import pytest

from bokehdiff.data import write_training_set


@pytest.fixture(scope="session")
def training_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    write_training_set(root, n_foregrounds=7, n_backgrounds=3, size_px=48, seed=11)
    return root
