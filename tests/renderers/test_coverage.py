"""What layers leave open, rectangle by rectangle, against slow loops."""

from __future__ import annotations

import math

import numpy as np

from bokehdiff.renderers.raytraced.coverage import OPAQUE, coverage


def texels(first, last, length):
    """Indices that lookups from first to last read along an axis, those beyond the border being its repetition."""
    return sorted({min(max(i, 0), length - 1) for i in range(math.floor(first - 0.5), math.floor(last - 0.5) + 2)})


def test_rectangles_are_empty_or_hide_as_their_pixels_say():
    rng = np.random.default_rng(0)
    layer = np.zeros((13, 17, 4), np.float32)
    layer[2:9, 3:12] = 1.0
    layer[5, 10, 3] = 1.0 - 1e-3
    layer[10, 15, 0] = 0.2  # light without coverage, as of a flare, is not empty
    ends = np.sort(rng.uniform(-6, 23, (2000, 2, 2)), axis=1)
    ends[:, 1] = np.minimum(ends[:, 1], ends[:, 0] + rng.uniform(0, 9, (2000, 2)))
    empty, hides = coverage(layer).of(ends[:, 0], ends[:, 1])
    for (first, last), is_empty, is_hiding in zip(ends, empty, hides, strict=True):
        part = layer[np.ix_(texels(first[1], last[1], 13), texels(first[0], last[0], 17))]
        assert is_empty == (not part.any())
        assert is_hiding == bool((part[..., 3] >= OPAQUE).all())
    assert 0 < empty.sum() < 2000
    assert 0 < hides.sum() < 2000


def test_a_layer_of_one_pixel_goes_on_everywhere():
    far = np.array([[-50.0, 3.0], [40.0, -9.0]])
    empty, hides = coverage(np.ones((1, 1, 4), np.float32)).of(far, far + 1.0)
    assert hides.all()
    assert not empty.any()
