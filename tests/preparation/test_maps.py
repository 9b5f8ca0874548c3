from __future__ import annotations

import numpy as np
import pytest
import torch

from bokehdiff.preparation import fill_holes


def filled_by_loops(disparity, measured):
    """Walk from each hole to both sides until something is measured."""

    def along(values, known):
        result = values.copy()
        for y, x in zip(*np.nonzero(~known), strict=True):
            left = next((values[y, i] for i in range(x - 1, -1, -1) if known[y, i]), np.inf)
            right = next((values[y, i] for i in range(x + 1, values.shape[1]) if known[y, i]), np.inf)
            result[y, x] = min(left, right)
        return result

    rows = along(disparity, measured)
    return along(rows.T, np.isfinite(rows).T).T


@pytest.mark.parametrize("size_hw", [(1, 2), (5, 1), (7, 11), (16, 16)])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_holes_are_filled_from_their_farther_side(size_hw, share):
    generator = np.random.default_rng(1)
    disparity = generator.random(size_hw, dtype=np.float32)
    measured = generator.random(size_hw) > share
    measured[0, 0] = True
    holed = np.where(measured, disparity, np.nan).astype(np.float32)
    got = fill_holes(torch.from_numpy(holed)[None], torch.from_numpy(measured)[None])[0].numpy()
    np.testing.assert_array_equal(got, filled_by_loops(holed, measured))
    np.testing.assert_array_equal(got[measured], disparity[measured])
    assert np.isfinite(got).all()
