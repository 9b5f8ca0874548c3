from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bokehdiff.data import synthetic_background, synthetic_foreground, write_training_set
from bokehdiff.data.procedural import synthetic
from bokehdiff.data.procedural.textures import dead_leaves
from bokehdiff.data.randomness import generator_for
from bokehdiff.errors import InputError
from bokehdiff.images import load_rgba

N_KINDS = len(synthetic.FOREGROUND_KINDS)


@pytest.mark.parametrize("n", range(N_KINDS))
def test_foregrounds_are_soft_whole_and_a_function_of_seed_and_number(n):
    image = synthetic_foreground(3, n, size_px=96)
    alpha = image[0, 3]
    assert image.shape == (1, 4, 96, 96)
    assert image.min() >= 0
    assert image.max() <= 1
    border = torch.cat([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert border.max() == 0, "cut off at the border"
    assert ((alpha > 0.02) & (alpha < 0.98)).any(), "no soft edge"
    assert alpha.mean() > 0.02
    assert torch.equal(image, synthetic_foreground(3, n, size_px=96))
    assert not torch.equal(image, synthetic_foreground(4, n, size_px=96))
    assert not torch.equal(image, synthetic_foreground(3, n + N_KINDS, size_px=96))


@pytest.mark.parametrize("size_px", [16, 61])
@pytest.mark.parametrize("photographs", [True, False])
def test_backgrounds_are_a_function_of_seed_and_number(size_px, photographs):
    images = [synthetic_background(3, n, size_px=size_px, photographs=photographs) for n in range(6)]
    for n, image in enumerate(images):
        assert image.shape == (1, 3, size_px, size_px)
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.std() > 0.005
        again = synthetic_background(3, n, size_px=size_px, photographs=photographs)
        assert torch.equal(image, again)


def test_every_kind_of_background_takes_its_turn(monkeypatch):
    seen = []

    def noted(name):
        return lambda rng, size: seen.append(name) or np.zeros((size, size, 3), dtype=np.float32)

    kinds = {name: noted(name) for name in "abcd"}
    monkeypatch.setattr(synthetic, "BACKGROUND_KINDS", kinds)
    for n in range(12):
        synthetic_background(0, n, size_px=16, photographs=False)
    assert seen == list("abcd" * 3)
    seen.clear()
    for n in [0, 2, 3, 5, 6, 8, 9, 11]:  # 1, 4, 7, 10 are photographs
        synthetic_background(0, n, size_px=16)
    assert seen == list("abcd" * 2)


def test_dead_leaves_have_the_power_law_of_natural_images():
    """Amplitude falls about as 1 / frequency between coarse and fine structure."""
    image = torch.from_numpy(dead_leaves(generator_for(0, 0), 128)).mean(dim=2)
    spectrum = torch.fft.fft2(image - image.mean()).abs().square()
    frequency = torch.hypot(torch.fft.fftfreq(128)[:, None] * 128, torch.fft.fftfreq(128)[None] * 128)
    coarse = spectrum[(frequency >= 2) & (frequency < 4)].mean()
    fine = spectrum[(frequency >= 16) & (frequency < 32)].mean()
    slope = -0.5 * torch.log(fine / coarse) / torch.log(torch.tensor(8.0))
    assert 0.5 < slope < 1.6


def test_a_training_set_is_kept_continued_and_replaced(tmp_path):
    arguments = {"n_foregrounds": 2, "n_backgrounds": 2, "size_px": 24, "seed": 5}
    write_training_set(tmp_path, **arguments)
    files = sorted(tmp_path.rglob("*.png"))
    assert [path.parent.name for path in files] == ["bg", "bg", "fg", "fg"]
    content = {path: path.read_bytes() for path in files}
    times = {path: path.stat().st_mtime_ns for path in files}
    own = tmp_path / "fg" / "own.png"
    own.write_bytes(b"mine")
    assert load_rgba(files[2]).shape == (1, 4, 24, 24)

    write_training_set(tmp_path, **arguments)
    assert {path: path.stat().st_mtime_ns for path in files} == times

    files[0].unlink()
    write_training_set(tmp_path, **arguments)
    assert {path: path.read_bytes() for path in files} == content
    assert files[1].stat().st_mtime_ns == times[files[1]]

    write_training_set(tmp_path, **(arguments | {"seed": 6, "n_backgrounds": 1}))
    assert sorted(path.name for path in (tmp_path / "bg").iterdir()) == ["synthetic_00000.png"]
    assert files[2].read_bytes() != content[files[2]]
    assert own.read_bytes() == b"mine"


def test_an_interrupted_or_unreadable_manifest_does_not_count_as_complete(tmp_path):
    arguments = {"n_foregrounds": 1, "n_backgrounds": 1, "size_px": 16, "seed": 5}
    write_training_set(tmp_path, **arguments)
    manifest = tmp_path / synthetic.MANIFEST
    manifest.write_text("{")
    write_training_set(tmp_path, **arguments, progress=True)
    assert json.loads(manifest.read_text())["complete"] is True


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_foregrounds": 0}, "n_foregrounds must be at least 1; got 0"),
        ({"n_backgrounds": 0}, "n_backgrounds must be at least 1; got 0"),
        ({"size_px": 15}, "size_px must be at least 16; got 15"),
        ({"seed": -1}, r"seed must be in \[0, 2\^64\); got -1"),
    ],
)
def test_a_training_set_that_cannot_be_is_refused(tmp_path, changed, message):
    arguments = {"n_foregrounds": 1, "n_backgrounds": 1, "size_px": 16, "seed": 0} | changed
    with pytest.raises(InputError, match=message):
        write_training_set(tmp_path / "new", **arguments)
