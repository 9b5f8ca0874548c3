from __future__ import annotations

import pytest

from bokehdiff.cli.main import main
from bokehdiff.images import load_photo


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
    assert width > 4 * 16
    assert height > 2 * 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synthesize", "ROOT", "--size", "3"], "--size: must be at least 16; got 3"),
        (["synthesize", "ROOT", "--n-foregrounds", "0"], "--n-foregrounds: must be at least 1; got 0"),
        (["preview", "ROOT", "--n", "0"], "--n: must be 1 to 64; got 0"),
        (["preview", "ROOT"], "--root: no such folder"),
        (["preview", "ROOT", "--resolution", "0"], "--resolution: resolution_px and image_to_crop must be at least 1"),
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
