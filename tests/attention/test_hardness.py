from __future__ import annotations

import math

import pytest

from bokehdiff.attention import INFERENCE_HARDNESS, training_hardness
from bokehdiff.errors import InputError


def test_training_hardness_is_the_published_counter():
    hard = 3
    for n_samples_seen in range(50):
        assert training_hardness(n_samples_seen) == pytest.approx(math.log(hard))
        hard += 2  # two calls per step
    assert training_hardness(120_000) == pytest.approx(12.4, abs=0.05)


def test_training_hardness_never_exceeds_that_of_inference():
    assert training_hardness(10**9) == INFERENCE_HARDNESS == pytest.approx(16.118, abs=1e-3)


def test_training_hardness_refuses_negative_progress():
    with pytest.raises(InputError, match="n_samples_seen must be 0 or more; got -1"):
        training_hardness(-1)
