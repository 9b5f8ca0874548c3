from __future__ import annotations

import logging
import os
import stat

import numpy as np
import pytest
import torch
from PIL import Image

from bokehdiff import images
from bokehdiff.errors import InputError
from bokehdiff.images.exif import EXIF_HEADER
from tests.helpers import psnr


def _litter(folder) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 6), (7, 1), (35, 50)])
@pytest.mark.parametrize("n_channels", [3, 4])
@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_what_is_written_is_read_again_to_half_a_step(tmp_path, size_hw, n_channels, bit_depth, suffix):
    image = torch.rand(1, n_channels, *size_hw)
    path = tmp_path / f"a{suffix}"
    images.save_image(path, image, bit_depth=bit_depth)
    steps = 2**bit_depth - 1
    again = images.load_rgba(path)[:, :n_channels]
    assert (again - image).abs().max() * steps <= 0.5 + 1e-2
    images.save_image(path, again, bit_depth=bit_depth)
    assert torch.equal(images.load_rgba(path)[:, :n_channels], again)
    assert images.load_photo(path).bit_depth == bit_depth
    assert not _litter(tmp_path)


@pytest.mark.parametrize(("suffix", "n_channels"), [(".jpg", 3), (".jpeg", 3), (".webp", 3), (".webp", 4)])
def test_lossy_formats_come_close_and_obey_quality(tmp_path, suffix, n_channels):
    smooth = images.resize(torch.rand(1, n_channels, 6, 8), (60, 80))
    errors, sizes = [], []
    for quality in (20, 95):
        path = tmp_path / f"a{quality}{suffix}"
        images.save_image(path, smooth, quality=quality)
        errors.append(psnr(images.load_rgba(path)[:, :3], smooth[:, :3]))
        sizes.append(path.stat().st_size)
    assert errors[1] > max(errors[0], 35.0)
    assert sizes[1] > sizes[0]


def test_values_are_clamped_and_rounded_to_the_nearest(tmp_path):
    image = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 7.0]).expand(1, 3, 1, 5)
    images.save_image(tmp_path / "a.png", image)
    assert np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_the_note_is_where_programs_look_for_it(tmp_path, bit_depth):
    note = "focus 0.4, strength 20 px, Ø 3 mm\nsecond line"
    image = torch.rand(1, 3, 4, 5)
    for name in ("a.png", "a.tif"):
        images.save_image(tmp_path / name, image, bit_depth=bit_depth, text=note)
    images.save_image(tmp_path / "a.jpg", image, text=note)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert picture.text["Comment"] == note
    with Image.open(tmp_path / "a.tif") as picture:
        stored = picture.tag_v2[270]
        assert stored.encode("latin1").decode() == note
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.info["comment"].decode() == note


def test_webp_says_that_it_holds_no_note(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        images.save_image(tmp_path / "a.webp", torch.rand(1, 3, 4, 5), text="focus 0.4")
    assert "WebP has no place for a note" in caplog.text


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("a.jpg", (1, 3, 2, 2), {"bit_depth": 16}, r"a\.jpg: \.jpg holds 8 bits per channel; got 16"),
        ("a.webp", (1, 3, 2, 2), {"bit_depth": 16}, r"a\.webp: \.webp holds 8 bits per channel; got 16"),
        ("a.png", (1, 3, 2, 2), {"bit_depth": 12}, r"a\.png: \.png holds 8 or 16 bits per channel; got 12"),
        ("a.xyz", (1, 3, 2, 2), {}, r"a\.xyz: images are written as .*; got '\.xyz'"),
        ("a", (1, 3, 2, 2), {}, r"a: images are written as .*; got 'no suffix'"),
        ("a.jpg", (1, 4, 2, 2), {}, r"a\.jpg: \.jpg holds no transparency; write \.png"),
        ("a.png", (1, 2, 2, 2), {}, r"a\.png: expected an image of shape \[1, 3 or 4, h, w\]; got \[1, 2, 2, 2\]"),
        ("a.png", (1, 3, 0, 2), {}, r"a\.png: expected an image of shape"),
        ("a.jpg", (1, 3, 2, 2), {"quality": 0}, r"a\.jpg: quality must be 1 to 100; got 0"),
        ("a.jpg", (1, 3, 2, 2), {"text": "x" * 70000}, r"a\.jpg: a JPEG comment holds 65533 bytes; got 70000"),
        ("a.webp", (1, 3, 1, 17000), {}, r"a\.webp: cannot be encoded: .*; \.png and \.tif hold any size"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_lost(tmp_path, name, shape, options, message):
    (tmp_path / name).write_bytes(b"the older file")
    with pytest.raises(InputError, match=message):
        images.save_image(tmp_path / name, torch.zeros(shape), **options)
    assert (tmp_path / name).read_bytes() == b"the older file"
    assert not _litter(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_written(tmp_path, bad):
    with pytest.raises(InputError, match=r"a\.png: not written, the image holds values that are NaN or infinite"):
        images.save_image(tmp_path / "a.png", torch.full((1, 3, 2, 2), bad))
    with pytest.raises(InputError, match=r"a\.npy: not written, the disparity holds values"):
        images.save_disparity(tmp_path / "a.npy", torch.full((1, 2, 2), bad))
    assert list(tmp_path.iterdir()) == []


def test_exif_that_cannot_be_carried_over_is_dropped_with_a_word(tmp_path, caplog):
    broken = (
        EXIF_HEADER
        + b"II*\x00"
        + b"\x08\x00\x00\x00"
        + b"\x01\x00"
        + b"\x69\x87\x04\x00\x01\x00\x00\x00\xff\xff\xff\x7f"
    )
    with caplog.at_level(logging.WARNING):
        images.save_image(tmp_path / "a.tif", torch.rand(1, 3, 2, 2), exif=broken + b"\x00" * 4)
        images.save_image(tmp_path / "b.tif", torch.rand(1, 3, 2, 2), exif=b"no EXIF at all")
    assert "not carried over" in caplog.text
    assert images.load_photo(tmp_path / "a.tif").size_hw == (2, 2)


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 9)])
def test_disparity_is_written_and_read(tmp_path, size_hw):
    disparity = torch.rand(1, *size_hw)
    images.save_disparity(tmp_path / "a.npy", disparity * 9 - 4)
    assert torch.equal(images.load_disparity(tmp_path / "a.npy"), disparity * 9 - 4)
    images.save_disparity(tmp_path / "b.NPY", disparity)
    assert torch.equal(images.load_disparity(tmp_path / "b.NPY"), disparity)
    assert np.load(tmp_path / "a.npy").shape == size_hw
    assert np.load(tmp_path / "a.npy").dtype == np.float32
    images.save_disparity(tmp_path / "a.png", disparity)
    assert (images.load_disparity(tmp_path / "a.png") - disparity).abs().max() * 65535 <= 0.5 + 1e-2
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "I;16"


def test_disparity_that_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a 16-bit PNG holds disparity in \[0, 1\]; got -1 to 2; write \.npy"):
        images.save_disparity(tmp_path / "a.png", torch.tensor([[[-1.0, 2.0]]]))
    with pytest.raises(InputError, match=r"a\.jpg: disparity is written as \.npy or \.png; got '\.jpg'"):
        images.save_disparity(tmp_path / "a.jpg", torch.zeros(1, 2, 2))
    with pytest.raises(InputError, match=r"a\.npy: not written, the disparity is empty, of shape \[1, 0, 2\]"):
        images.save_disparity(tmp_path / "a.npy", torch.zeros(1, 0, 2))
    assert list(tmp_path.iterdir()) == []


# --- atomic


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fails():
        with images.write_atomically(path) as temporary:
            temporary.write_text("half of the n")
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".txt"
            raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        fails()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupted():
        with images.write_atomically(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_or_the_new_file_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with images.write_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_new_files_have_the_rights_that_files_have(tmp_path):
    previous = os.umask(0o022)
    try:
        images.save_image(tmp_path / "a.png", torch.rand(1, 3, 2, 2))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o644


def test_long_names_leave_room_for_the_temporary_one(tmp_path):
    images.save_image(tmp_path / f"{'x' * 250}.png", torch.rand(1, 3, 2, 2))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with images.write_atomically(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_places_that_cannot_be_written_are_refused_by_name(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, message in ((tmp_path / "folder", "folder: is a folder"), (tmp_path / "no" / "a.png", "does not exist")):
        with pytest.raises(InputError, match=message), images.write_atomically(path):
            pass
    with (
        pytest.raises(InputError, match=r"a\.txt: cannot be written: No space left"),
        images.write_atomically(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    with (
        pytest.raises(InputError, match=r"never\.txt: cannot be written"),
        images.write_atomically(tmp_path / "never.txt"),
    ):
        pass  # nothing was written to the temporary path
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_a_folder_is_made_once(tmp_path):
    folder = tmp_path / "new" / "deep"
    assert images.make_folder(str(folder)) == folder == images.make_folder(folder)
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"cannot make the folder {tmp_path / name}: .*; choose another"):
        images.make_folder(tmp_path / name)
