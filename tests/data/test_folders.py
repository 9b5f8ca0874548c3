from __future__ import annotations

import logging

import pytest
import torch

from bokehdiff.data import OnTheFlyDataset, find_training_folders, load_background, load_foreground
from bokehdiff.data.folders import UsableFiles
from bokehdiff.errors import InputError
from bokehdiff.images import save_image


def subject(size_px=12):
    image = torch.rand(1, 4, size_px, size_px)
    image[:, 3, :, : size_px // 2] = 0.0
    return image


def fill(root, *, foregrounds=2, backgrounds=2):
    for folder, count, image in (("fg", foregrounds, subject()), ("bg", backgrounds, torch.rand(1, 3, 12, 12))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            save_image(root / folder / f"{i}.png", image)
    return root


def test_folders_are_found_at_any_depth_in_sorted_order(tmp_path):
    fill(tmp_path / "b")
    fill(tmp_path / "a" / "deep")
    (tmp_path / "a" / "deep" / "fg").rename(tmp_path / "a" / "deep" / "portrait_fg")
    (tmp_path / "b" / "fg" / "notes.txt").write_text("not an image")
    (tmp_path / "b" / "fg" / ".0.png").write_text("half written")
    folders = find_training_folders(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in folders.foregrounds]
    assert names == ["a/deep/portrait_fg/0.png", "a/deep/portrait_fg/1.png", "b/fg/0.png", "b/fg/1.png"]
    assert str(folders.backgrounds[0].relative_to(tmp_path)) == "a/deep/bg/0.png"


def test_folders_that_are_missing_or_empty_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder: .*nowhere"):
        find_training_folders(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no folder matching \*fg under .*: put images with transparency"):
        find_training_folders(tmp_path)
    (tmp_path / "fg").mkdir()
    with pytest.raises(InputError, match=r"no image in .*fg: put images with transparency"):
        find_training_folders(tmp_path)
    save_image(tmp_path / "fg" / "a.png", subject())
    with pytest.raises(InputError, match="no folder matching bg under"):
        OnTheFlyDataset(tmp_path, seed=0)


def test_a_foreground_is_cut_to_what_can_be_seen(tmp_path):
    image = torch.zeros(1, 4, 20, 30)
    image[:, :, 4:14, 7:19] = 0.5
    save_image(tmp_path / "a.png", image)
    assert load_foreground(tmp_path / "a.png").shape == (4, 10, 12)


def test_foregrounds_that_show_nothing_are_refused_by_name(tmp_path):
    cases = {
        "opaque": (torch.rand(1, 3, 12, 12), "no transparency"),
        "nothing": (torch.zeros(1, 4, 12, 12), "fully transparent"),
        "pixel": (torch.rand(1, 4, 1, 1) / 2, "too small for a foreground"),
    }
    for name, (image, message) in cases.items():
        save_image(tmp_path / f"{name}.png", image)
        with pytest.raises(InputError, match=f"{name}.png.*{message}"):
            load_foreground(tmp_path / f"{name}.png")


def test_backgrounds_that_do_not_cover_are_refused_by_name(tmp_path):
    save_image(tmp_path / "see.png", subject())
    save_image(tmp_path / "tiny.png", torch.rand(1, 3, 7, 40))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    for name, message in (("see.png", "has transparency"), ("tiny.png", "too small"), ("broken.jpg", "")):
        with pytest.raises(InputError, match=f"{name}.*{message}"):
            load_background(tmp_path / name)


def test_grey_backgrounds_serve(tmp_path):
    from PIL import Image

    Image.new("L", (9, 9), 77).save(tmp_path / "grey.png")
    assert load_background(tmp_path / "grey.png").shape == (3, 9, 9)


def test_a_few_unusable_files_are_named_and_passed_over_the_same_way_in_any_order(tmp_path, caplog):
    root = fill(tmp_path, foregrounds=6)
    (root / "fg" / "2.png").write_bytes(b"broken")
    dataset, other = OnTheFlyDataset(root, seed=0), OnTheFlyDataset(root, seed=0)
    with caplog.at_level(logging.WARNING):
        direct = dataset.foregrounds.draw(2)
        dataset.foregrounds.draw(2)
    assert caplog.text.count("passed over") == 1
    assert "2.png" in caplog.text
    other.foregrounds.draw(5)
    assert torch.equal(other.foregrounds.draw(2), direct)
    assert torch.equal(dataset.foregrounds.draw(3), direct)


def test_many_unusable_files_are_an_error_that_names_them(tmp_path):
    root = fill(tmp_path, foregrounds=5)
    for name in ("1.png", "2.png"):
        (root / "fg" / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"2 of 5 files cannot be used, more than the 1 passed over: .*1\.png.*2\.png"):
        OnTheFlyDataset(root, seed=0).foregrounds.draw(1)


def test_a_folder_of_unusable_files_is_an_error(tmp_path):
    root = fill(tmp_path, foregrounds=1)
    save_image(root / "fg" / "0.png", torch.rand(1, 3, 12, 12))
    dataset = OnTheFlyDataset(root, seed=0)
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of 1 files can be used; the first: .*0\.png has no transparency"):
            dataset[0]


def test_files_are_drawn_by_place(tmp_path):
    paths = fill(tmp_path, foregrounds=3)
    folders = find_training_folders(paths)
    files = UsableFiles(folders.foregrounds, load_foreground)
    assert len(files) == 3
    assert torch.equal(files.draw(1), load_foreground(folders.foregrounds[1]))
