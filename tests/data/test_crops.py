from __future__ import annotations

import numpy as np
import pytest
import torch

from bokehdiff.data import EndlessCrops, write_pictures
from bokehdiff.data.procedural.crops import KINDS, picture
from bokehdiff.data.randomness import generator_for
from bokehdiff.errors import InputError

SIDE_PX = 48


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), n_pictures=3, size_px=SIDE_PX, seed=5)


@pytest.mark.parametrize("kind", sorted({kind.__name__ for kind in KINDS}))
def test_each_kind_is_a_picture_of_its_own_number(kind):
    (draw,) = {draw for draw in KINDS if draw.__name__ == kind}
    images = [draw(generator_for(3, n, purpose="picture"), 32) for n in (0, 0, 1)]
    for image in images:
        assert image.shape == (32, 32, 3)
        assert np.isfinite(image).all()
        assert image.min() > -1e-3
        assert image.max() < 1 + 1e-3
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_a_file_holds_the_pictures_by_number(pictures):
    stored = np.load(pictures)
    assert stored.shape == (3, SIDE_PX, SIDE_PX, 3)
    assert np.array_equal(stored[2], np.round(255 * picture(5, 2, size_px=SIDE_PX)).astype(np.uint8))


def test_a_set_is_drawn_once_and_anew_for_another_recipe(pictures):
    written = pictures.stat().st_mtime_ns
    assert write_pictures(pictures.parent, n_pictures=3, size_px=SIDE_PX, seed=5) == pictures
    assert pictures.stat().st_mtime_ns == written
    first = np.load(pictures)[0]
    folder = pictures.parent / "other"
    write_pictures(folder, n_pictures=1, size_px=SIDE_PX, seed=5)
    write_pictures(folder, n_pictures=1, size_px=SIDE_PX, seed=6)
    assert not np.array_equal(np.load(folder / "pictures.npy")[0], first)


def test_a_crop_is_a_function_of_seed_and_number(pictures):
    crops, again = (EndlessCrops(pictures, size_px=32, seed=1) for _ in range(2))
    other = EndlessCrops(pictures, size_px=32, seed=2)
    for n in (0, 7, 10**9):
        crop = crops[n]
        assert crop.shape == (3, 32, 32)
        assert crop.dtype == torch.float32
        assert float(crop.min()) >= 0
        assert float(crop.max()) <= 1
        assert torch.equal(crop, again[n])
        assert not torch.equal(crop, other[n])


def test_a_crop_may_be_the_whole_picture_and_no_more(pictures):
    assert EndlessCrops(pictures, size_px=SIDE_PX, seed=0)[0].shape == (3, SIDE_PX, SIDE_PX)
    with pytest.raises(InputError, match=f"1 ... {SIDE_PX} px.*got 49"):
        EndlessCrops(pictures, size_px=SIDE_PX + 1, seed=0)
    with pytest.raises(InputError, match="n_pictures must be at least 1; got 0"):
        write_pictures(pictures.parent, n_pictures=0, size_px=8, seed=0)
