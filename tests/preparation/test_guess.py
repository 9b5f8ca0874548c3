from __future__ import annotations

import pytest
import torch

from bokehdiff.optics import normalise_disparity
from bokehdiff.preparation import DisparityModel, GuessedDisparity


def disc_on_a_floor(height: int = 120, width: int = 160):
    """A red disc in the middle of a grey picture."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2
    noise = 0.05 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    image = torch.where(inside, torch.tensor([0.8, 0.1, 0.1])[:, None, None], torch.tensor(0.4)) + noise
    return image, inside


def test_what_stands_out_in_the_middle_is_nearer_than_its_surroundings():
    image, inside = disc_on_a_floor()
    disparity = GuessedDisparity().estimate(image).disparity[0]
    assert disparity[inside].median() > disparity[~inside].quantile(0.9)


def test_without_a_subject_the_floor_recedes_upwards():
    plain = torch.full((1, 3, 60, 80), 0.5)
    rows = GuessedDisparity().estimate(plain).disparity[0].mean(dim=1)
    assert bool((rows.diff() > 0).all())


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (37, 3), (64, 64), (501, 333)])
def test_any_size_gives_finite_disparity_of_that_size(size_hw):
    image = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(1))
    disparity = GuessedDisparity().estimate(image).disparity
    assert disparity.shape == (1, *size_hw)
    assert float(disparity.min()) >= 0.0
    assert float(disparity.max()) <= 1.0
    assert bool(torch.isfinite(normalise_disparity(disparity)).all())


def test_the_guess_is_the_same_every_time():
    image, _ = disc_on_a_floor()
    first, second = (GuessedDisparity().estimate(image).disparity for _ in range(2))
    assert torch.equal(first, second)


def test_it_is_a_depth_model_that_says_what_it_is():
    guess = GuessedDisparity()
    assert isinstance(guess, DisparityModel)
    assert "guess" in guess.name
    assert "no depth model" in guess.name
