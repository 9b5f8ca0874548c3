"""`bokehdiff defocus` writes what `bokehdiff render` reads, and blames the right flag."""

from __future__ import annotations

import re

import pytest
import torch

from bokehdiff.cli.main import main
from bokehdiff.images import load_disparity, load_photo, save_image
from bokehdiff.optics import Lens
from tests.preparation.defocused import median_error, view


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sharp photograph and two defocused ones, focused on the nearest and on the farthest point."""
    root = tmp_path_factory.mktemp("defocus")
    seen = view(48, [Lens(1.0, 6.0), Lens(0.0, 6.0)])
    save_image(root / "sharp.png", seen.sharp_srgb, bit_depth=16)
    (root / "blurred").mkdir()
    for name, image in zip(("1", "2"), seen.blurred_srgb, strict=True):
        save_image(root / "blurred" / f"{name}.png", image[None], bit_depth=16)
    return root, seen


def defocus(root, *words, blurred="blurred"):
    return main(["defocus", str(root / "sharp.png"), str(root / blurred), "--output-dir", str(root / "out"), *words])


def test_disparity_is_written_for_programs_and_for_people(folder, capsys):
    root, seen = folder
    assert defocus(root, "--K", "6", "--focus", "1,0", "--n-steps", "1") == 0
    stored = load_disparity(root / "out" / "sharp_pred.npy")
    assert median_error(stored, seen) < 0.03
    assert (load_disparity(root / "out" / "sharp_pred.png") - stored).abs().max() < 1e-4
    assert load_photo(root / "out" / "sharp_sheet.png").size_hw[0] > 48
    printed = capsys.readouterr().out
    before, after = (
        float(n) for n in re.search(r"1\.png: focus 1.*PSNR (\S+) dB.* (\S+) dB \(found\)", printed).groups()
    )
    assert after > before + 8
    assert main(["render", str(root / "sharp.png"), str(root / "out"), "--output-dir", str(root / "again")]) == 0


def test_large_photographs_are_worked_on_smaller(folder, capsys, caplog):
    root, _ = folder
    caplog.set_level("INFO", logger="bokehdiff")
    one = str(root / "blurred" / "1.png")
    words = ["--K", "6", "--focus", "1", "--max-side", "24", "--n-steps", "0", "--output-dir", str(root / "small")]
    assert main(["defocus", str(root / "sharp.png"), one, *words]) == 0
    assert load_disparity(root / "small" / "sharp_pred.npy").shape == (1, 48, 48)
    assert "worked on at 0.5 of the size" in caplog.text
    assert "1.png: focus 1.000, K 6.00 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--first-focus: defocused images of unknown focus do not tell near from far"),
        (["--K", "6,6,6"], "--K: expected 2, one per defocused photograph; got 3"),
        (["--focus", "1,x"], "--focus: expected numbers with commas between them; got '1,x'"),
        (["--focus", "0.5,0.5"], "--focus: images focused alike, at 0.5"),
        (["--max-side", "0"], "--max-side: must be 1 px or more; got 0"),
    ],
)
def test_each_failure_is_one_line_with_its_flag(folder, words, message, capsys):
    assert defocus(folder[0], *words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_sizes_and_missing_files_are_named(folder, capsys, caplog):
    root, _ = folder
    save_image(root / "other.png", torch.rand(1, 3, 20, 30))
    assert defocus(root, "--first-focus", "nearest", blurred="other.png") == 1
    assert (
        "other.png and the sharp photograph must have one size; got 30 x 20 and 48 x 48 px" in capsys.readouterr().err
    )
    assert defocus(root, blurred="nowhere.png") == 1
    assert "--blurred: " in capsys.readouterr().err
    save_image(root / "clear.png", torch.rand(1, 4, 48, 48))
    defocus(root, "--first-focus", "nearest", "--n-steps", "0", blurred="clear.png")
    assert "clear.png: its transparency is not used" in caplog.text
