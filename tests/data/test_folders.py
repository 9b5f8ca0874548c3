from __future__ import annotations

import logging
import multiprocessing

import pytest
import torch

from bokehdiff.data import OnTheFlyDataset, find_training_folders, load_background, load_foreground
from bokehdiff.data.folders import UsableFiles, check_foreground
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


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOKEHDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))


def draw(files, place):
    return files.draw(place, lambda _, path: load_foreground(path))


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


def test_links_are_followed_once(tmp_path):
    root = fill(tmp_path / "set")
    (root / "fg" / "loop").symlink_to(root, target_is_directory=True)
    fill(tmp_path / "elsewhere")
    (root / "bg" / "more").symlink_to(tmp_path / "elsewhere" / "bg", target_is_directory=True)
    folders = find_training_folders(root)
    assert len(folders.foregrounds) == 2
    assert len(folders.backgrounds) == 4


def test_what_headers_tell_is_found_before_the_first_sample_in_one_report(tmp_path, caplog):
    root = fill(tmp_path, foregrounds=30)
    (root / "fg" / "3.png").write_bytes(b"broken")
    (root / "fg" / "4.png").write_bytes(b"")
    save_image(root / "fg" / "5.png", torch.rand(1, 3, 12, 12))
    with caplog.at_level(logging.WARNING):
        dataset = OnTheFlyDataset(root, seed=0)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("3 of 30 files cannot be used and are passed over: ")
    for part in ("3.png: is no image that can be read", "4.png: the file is empty", "5.png has no transparency"):
        assert part in line
    assert torch.equal(dataset.ingredients.subject(3), dataset.ingredients.subject(6))


def test_what_pixels_tell_is_passed_over_the_same_way_in_any_order(tmp_path, caplog):
    root = fill(tmp_path, foregrounds=6)
    save_image(root / "fg" / "2.png", torch.zeros(1, 4, 12, 12))
    files, other = (UsableFiles(find_training_folders(root).foregrounds) for _ in range(2))
    with caplog.at_level(logging.WARNING):
        direct = draw(files, 2)
        draw(files, 2)
    assert caplog.text.count("passed over") == 1
    assert "2.png is fully transparent" in caplog.text
    draw(other, 5)
    assert torch.equal(draw(other, 2), direct)
    assert torch.equal(draw(files, 3), direct)


def test_a_png_that_is_cut_short_is_passed_over(tmp_path):
    root = fill(tmp_path, foregrounds=3)
    whole = root / "fg" / "1.png"
    whole.write_bytes(whole.read_bytes()[:-40])
    files = UsableFiles(find_training_folders(root).foregrounds)
    assert torch.equal(draw(files, 1), load_foreground(root / "fg" / "2.png"))
    assert "1.png: is damaged or cut short" in files.problems[whole]


def test_what_a_worker_finds_unusable_all_processes_know(tmp_path):
    root = fill(tmp_path, foregrounds=12)
    save_image(root / "fg" / "0.png", torch.zeros(1, 4, 12, 12))
    files = UsableFiles(find_training_folders(root).foregrounds)
    worker = multiprocessing.get_context("fork").Process(target=draw, args=(files, 0))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    tried = []
    files.draw(0, lambda place, _: tried.append(place))
    assert tried == [1]


def test_many_unusable_files_are_an_error_that_names_them(tmp_path):
    root = fill(tmp_path, foregrounds=5)
    for name in ("1.png", "2.png"):
        (root / "fg" / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"2 of 5 files cannot be used, more than the 1 passed over: .*1\.png.*2\.png"):
        OnTheFlyDataset(root, seed=0)
    for name in ("1.png", "2.png"):
        save_image(root / "fg" / name, torch.zeros(1, 4, 12, 12))
    dataset = OnTheFlyDataset(root, seed=0)
    with pytest.raises(InputError, match=r"2 of 5 files cannot be used.* 1 passed over: .*1\.png.*2\.png"):
        dataset.ingredients.subject(1)


def test_a_folder_of_unusable_files_is_an_error(tmp_path):
    root = fill(tmp_path, foregrounds=1)
    save_image(root / "fg" / "0.png", torch.rand(1, 3, 12, 12))
    with pytest.raises(InputError, match=r"none of 1 files can be used: .*0\.png has no transparency"):
        OnTheFlyDataset(root, seed=0)
    save_image(root / "fg" / "0.png", torch.zeros(1, 4, 12, 12))
    dataset = OnTheFlyDataset(root, seed=0)
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of 1 files can be used: .*0\.png is fully transparent"):
            dataset[0]


def test_files_are_drawn_by_place(tmp_path):
    folders = find_training_folders(fill(tmp_path, foregrounds=3))
    files = UsableFiles(folders.foregrounds)
    assert len(files) == 3
    assert torch.equal(draw(files, 1), load_foreground(folders.foregrounds[1]))


def test_formats_that_only_decoding_tells_are_let_through(tmp_path):
    (tmp_path / "a.exr").write_bytes(b"v/1\x01")
    check_foreground(tmp_path / "a.exr")
