from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bokehdiff.data.index import FolderIndex
from bokehdiff.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOKEHDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))


def settle(root):
    """Make folders look as if they had not changed for an hour."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (1e9, 1e9))


def names(index):
    return sorted(path.name for path in index.images())


def counting(asked):
    def check(path):
        asked.append(path.name)
        if path.name == "b.png":
            raise InputError(f"{path} is odd")

    return check


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.png", "deep/deeper/c.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"12")
    settle(tmp_path / "set")
    return tmp_path / "set"


def test_a_folder_that_did_not_change_is_not_listed_again(root, monkeypatch):
    index = FolderIndex.of(root)
    assert names(index) == ["a.png", "b.png", "c.JPG"]
    index.save()
    monkeypatch.setattr("bokehdiff.data.index._listed", lambda folder: pytest.fail(f"{folder} is listed again"))
    assert names(FolderIndex.of(root)) == ["a.png", "b.png", "c.JPG"]


def test_a_folder_that_changed_is(root):
    index = FolderIndex.of(root)
    names(index)
    index.save()
    (root / "deep" / "deeper" / "d.png").write_bytes(b"12")
    (root / "a.png").unlink()
    for _ in range(2):  # the second time within its clock's tick
        assert names(FolderIndex.of(root)) == ["b.png", "c.JPG", "d.png"]


def test_files_are_checked_once_as_long_as_they_stay_as_they_are(root):
    for expected in (["a.png", "b.png"], []):
        asked = []
        index = FolderIndex.of(root)
        problems = [index.problem(root / name, "fg", counting(asked)) for name in ("a.png", "b.png")]
        assert problems == ["", f"{root / 'b.png'} is odd"]
        assert asked == expected
        index.save()
    (root / "b.png").write_bytes(b"1234")
    asked = []
    FolderIndex.of(root).problem(root / "b.png", "fg", counting(asked))
    FolderIndex.of(root).problem(root / "a.png", "bg", counting(asked))
    assert asked == ["b.png", "a.png"]
    assert "cannot be read" in FolderIndex.of(root).problem(root / "gone.png", "fg", counting(asked))


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 0}', '{"version": 1, "root": "/elsewhere"}'])
def test_a_store_that_cannot_be_read_is_as_none(root, content):
    index = FolderIndex.of(root)
    index.save()
    (store,) = (Path(os.environ["BOKEHDIFF_CACHE"]) / "index").iterdir()
    store.write_text(content, encoding="utf-8")
    assert FolderIndex.of(root) == FolderIndex(root)


def test_where_nothing_can_be_kept_it_goes_without(root, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOKEHDIFF_CACHE", str(tmp_path / "file"))
    index = FolderIndex.of(root)
    assert names(index) == ["a.png", "b.png", "c.JPG"]
    index.save()
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)
