from __future__ import annotations

import shutil

import pytest
import torch

from bokehdiff.cli.main import main
from bokehdiff.images import load_photo, save_disparity, save_image


def test_a_training_set_is_written_and_shown(tmp_path, capsys):
    root = tmp_path / "set"
    words = ["--n-foregrounds", "2", "--n_backgrounds", "2", "--size", "24", "--seed", "3", "--no-photographs"]
    assert main(["data", "synthesize", str(root), *words]) == 0
    assert len(list(root.rglob("*.png"))) == 4
    sheet = tmp_path / "new" / "sheet.png"
    shown = ["data", "preview", str(root), "--n", "2", "--resolution", "16", "--output", str(sheet)]
    assert main(shown) == 0
    assert str(sheet) in capsys.readouterr().out
    height, width = load_photo(sheet).size_hw
    assert width > 5 * 16
    assert height > 2 * 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synthesize", "ROOT", "--size", "3"], "--size: must be at least 16; got 3"),
        (["synthesize", "ROOT", "--n-foregrounds", "0"], "--n-foregrounds: must be at least 1; got 0"),
        (["preview", "ROOT", "--n", "0"], "--n: must be 1 to 64; got 0"),
        (["preview", "ROOT"], "--root: no such folder"),
        (["preview", "ROOT", "--resolution", "0"], "--resolution: must be at least 1; got 0"),
        (["check", "ROOT"], "--root: no such folder"),
        (["check", "ROOT", "--workers", "0"], "--workers: must be at least 1; got 0"),
        (["check", "ROOT", "--layout", "blb"], "--root: no such folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, capsys, words, message):
    root = str(tmp_path / "set")
    assert main(["data", *[root if word == "ROOT" else word for word in words]]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_folders_that_cannot_be_made_are_named(training_set, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["data", "synthesize", str(tmp_path / "file")]) == 1
    assert "--root: cannot make the folder" in capsys.readouterr().err
    words = ["--n", "1", "--resolution", "16", "--output", str(tmp_path / "file" / "sheet.png")]
    assert main(["data", "preview", str(training_set), *words]) == 1
    assert "--output: cannot make the folder" in capsys.readouterr().err


def test_samples_of_either_distribution_are_shown(training_set, tmp_path):
    sheets = []
    for name in ("published", "bokehdiff"):
        output = tmp_path / f"{name}.png"
        words = ["--n", "3", "--resolution", "16", "--composition", name, "--output", str(output)]
        assert main(["data", "preview", str(training_set), *words]) == 0
        sheets.append(output.read_bytes())
    assert sheets[0] != sheets[1]


@pytest.fixture
def pairs(tmp_path):
    for name in ("1", "2"):
        for folder in ("original", "bokeh"):
            (tmp_path / "pairs" / "train" / folder).mkdir(parents=True, exist_ok=True)
            save_image(tmp_path / "pairs" / "train" / folder / f"{name}.jpg", torch.rand(1, 3, 20, 30))
    return tmp_path / "pairs"


def test_pairs_are_shown_with_what_they_know(pairs, tmp_path):
    sheet = tmp_path / "sheet.png"
    words = ["--layout", "ebb", "--n", "2", "--resolution", "16", "--output", str(sheet)]
    assert main(["data", "preview", str(pairs), *words]) == 0
    assert load_photo(sheet).size_hw[1] == 3 * 16 + 2 * 4  # neither disparity nor circle of confusion


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_training_folder_is_checked_file_by_file(training_set, tmp_path, capsys, workers):
    root = tmp_path / "set"
    shutil.copytree(training_set, root)
    assert main(["data", "check", str(root), "--workers", workers]) == 0
    out = capsys.readouterr().out
    assert f"3 of 3 foregrounds in {root} can be used" in out
    assert f"2 of 2 backgrounds in {root} can be used" in out
    assert "shorter side 96 to 96 px, median 96" in out
    assert "partly transparent: " in out
    hard = torch.zeros(1, 4, 200, 200)
    hard[:, :, 50:150, 50:150] = 1.0
    save_image(root / "fg" / "hard.png", hard)
    save_image(root / "fg" / "nothing.png", torch.zeros(1, 4, 20, 20))
    save_image(root / "bg" / "tiny.png", torch.zeros(1, 3, 4, 20))
    assert main(["data", "check", str(root), "--workers", workers]) == 1
    out = capsys.readouterr().out
    assert "4 of 5 foregrounds" in out
    assert "1 have a hard outline" in out
    assert "nothing.png is fully transparent" in out
    assert "tiny.png is too small for a background: 20 x 4 px" in out


def test_pairs_are_checked_pair_by_pair(pairs, capsys):
    assert main(["data", "check", str(pairs), "--layout", "ebb"]) == 0
    assert f"2 of 2 pairs in {pairs} can be used" in capsys.readouterr().out
    depth = pairs / "train" / "original_depth"
    depth.mkdir()
    save_disparity(depth / "1.png", torch.rand(1, 20, 30))
    save_image(pairs / "train" / "bokeh" / "2.jpg", torch.rand(1, 3, 20, 40))
    assert main(["data", "check", str(pairs), "--layout", "ebb"]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 pairs" in out
    assert "1 know their disparity" in out
    assert "2.jpg has 40 x 20 pixels" in out
