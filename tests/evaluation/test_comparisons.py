from __future__ import annotations

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.evaluation import Framing, match_folders
from bokehdiff.evaluation.comparisons import load_comparison
from bokehdiff.images import save_image


def write(folder, *names, size_hw=(6, 8)):
    folder.mkdir(exist_ok=True)
    for name in names:
        save_image(folder / name, torch.rand(1, 3, *size_hw))
    return folder


def test_pictures_are_matched_by_name_or_by_what_infer_adds_to_it(tmp_path):
    predictions = write(tmp_path / "p", "a.png", "b_20_0.350.jpg", "other.png")
    references = write(tmp_path / "r", "a.jpg", "b.png")
    pairs = match_folders(predictions, references)
    assert [(pair.name, pair.prediction.name) for pair in pairs] == [("a", "a.png"), ("b", "b_20_0.350.jpg")]


def test_an_exact_name_comes_before_longer_ones(tmp_path):
    predictions = write(tmp_path / "p", "a.png", "a_b.png")
    references = write(tmp_path / "r", "a.png", "a_b.png")
    assert [pair.prediction.name for pair in match_folders(predictions, references)] == ["a.png", "a_b.png"]


def test_what_is_missing_or_ambiguous_is_named(tmp_path):
    predictions = write(tmp_path / "p", "a_1.png", "a_2.png", "c.png")
    references = write(tmp_path / "r", "a.png", "b.png", "c.png")
    with pytest.raises(InputError, match=r"a\.png has more than one picture in .*a_1\.png, a_2\.png"):
        match_folders(predictions, references)
    (predictions / "a_2.png").unlink()
    with pytest.raises(InputError, match=r"1 references have no picture in .*b\.png"):
        match_folders(predictions, references)
    assert [pair.name for pair in match_folders(predictions, references, allow_missing=True)] == ["a", "c"]


def test_sizes_must_agree(tmp_path):
    predictions, references = write(tmp_path / "p", "a.png"), write(tmp_path / "r", "a.png", size_hw=(6, 9))
    (pair,) = match_folders(predictions, references)
    with pytest.raises(InputError, match="has 8 x 6 px, its reference .* 9 x 6: expected the same"):
        load_comparison(pair, Framing())


def test_framing_cuts_the_middle():
    image = torch.arange(11.0).expand(1, 3, 9, 11)
    cut = Framing(border_px=1, multiple=4).cut(image)
    assert cut.shape == (1, 3, 4, 8)
    assert cut[0, 0, 0].tolist() == list(range(1, 9))


def test_framing_refuses_what_leaves_nothing():
    with pytest.raises(InputError, match="border_px must be 0 or more and multiple at least 1; got -1 and 1"):
        Framing(border_px=-1)
    with pytest.raises(InputError, match="11 x 9 px has nothing left within a border of 4 px and a multiple of 2"):
        Framing(border_px=4, multiple=2).cut(torch.zeros(1, 3, 9, 11))
