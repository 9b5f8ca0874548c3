"""`bokehdiff render` over many photographs: which are meant, where results go, several at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bokehdiff import images
from bokehdiff.cli.main import main
from bokehdiff.cli.processes import in_processes
from bokehdiff.cli.render.places import tasks_of
from bokehdiff.errors import InputError
from tests.helpers import REPOSITORY


def write_photo(path: Path, *, seed: int = 0, size_hw: tuple[int, int] = (20, 30)) -> torch.Tensor:
    image = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save_image(path, image)
    return image


def write_map(path: Path, value: float | None = None, *, size_hw: tuple[int, int] = (20, 30)) -> None:
    """A ramp, or one value everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0.0, 1.0, size_hw[1], dtype=np.float32) if value is None else np.float32(value)
    np.save(path, np.broadcast_to(ramp, size_hw))


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def render(*words: object) -> int:
    return main(["render", *(str(word) for word in words)])


def test_subfolders_are_kept_and_maps_are_looked_for_in_theirs(tmp_path):
    for name, focus in (("x/a", 0.0), ("y/a", 1.0), ("y/b", 1.0)):
        write_photo(tmp_path / "in" / f"{name}.png")
        write_map(tmp_path / "maps" / f"{name}_pred.npy", focus)
    assert render(tmp_path / "in/**/*.png", tmp_path / "maps", "--output-dir", tmp_path / "out", "--focus", 1) == 0
    assert written(tmp_path / "out") == ["x/a.png", "y/a.png", "y/b.png"]
    sharp = images.load_photo(tmp_path / "in/y/a.png").image_srgb
    assert images.load_photo(tmp_path / "out/y/a.png").image_srgb.equal(sharp)
    assert not images.load_photo(tmp_path / "out/x/a.png").image_srgb.equal(sharp), "its own map was taken"


def test_a_map_that_could_belong_to_two_photographs_is_refused(tmp_path, capsys):
    for name in ("x/a", "y/a", "y/b"):
        write_photo(tmp_path / "in" / f"{name}.png")
    for name in ("a", "b"):
        write_map(tmp_path / "maps" / f"{name}.npy")
    assert render(tmp_path / "in/*/*.png", tmp_path / "maps", "--output-dir", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "holds no map for x/a.png, such as x/a_pred.npy" in printed
    assert written(tmp_path / "out") == ["y/b.png"]


def test_photographs_that_differ_by_suffix_do_not_overwrite_each_other(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("a.png", "a.jpg", "b.png"):
        write_photo(tmp_path / "in" / name)
    for name in ("a", "b"):
        write_map(tmp_path / "maps" / f"{name}.npy")
    assert render(tmp_path / "in", tmp_path / "maps", "--output-dir", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["a_jpg.png", "a_png.png", "b.png"]
    assert "a is the name of several photographs" in caplog.text


def test_names_that_cannot_be_told_apart_are_refused():
    with pytest.raises(InputError, match="several photographs would give the result a_png: rename"):
        tasks_of([Path("a.png"), Path("a.jpg"), Path("a_png.jpg")])


def test_maps_beside_photographs_are_found_and_not_taken_for_photographs(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, ending in (("a", "_depth"), ("b", "_disparity"), ("c", "_pred")):
        write_photo(tmp_path / "in" / f"{name}.jpg")
        images.save_disparity(tmp_path / "in" / f"{name}{ending}.png", torch.rand(1, 20, 30))
    write_photo(tmp_path / "in" / "a_mask.png")
    write_photo(tmp_path / "in" / "the_depth.png")
    write_map(tmp_path / "depth" / "the_depth_pred.npy")
    assert render(tmp_path / "in", "--output-dir", tmp_path / "out") == 0
    assert written(tmp_path / "out") == ["a.png", "b.png", "c.png", "the_depth.png"]
    assert "4 files are maps of photographs by their names" in caplog.text


def test_no_map_at_all_says_how_to_get_one(tmp_path, capsys):
    write_photo(tmp_path / "in" / "a.jpg")
    assert render(tmp_path / "in" / "a.jpg", "--output-dir", tmp_path / "out") == 1
    assert "--disparity: is needed: no a_depth.png or the like lies beside a.jpg" in capsys.readouterr().out


def test_results_are_replaced_or_left_alone_as_asked(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("a", "b"):
        write_photo(tmp_path / f"{name}.png")
        write_map(tmp_path / f"{name}_depth.npy")
    out = tmp_path / "out"
    words = (tmp_path / "*.png", "--output-dir", out)
    out.mkdir()
    (out / "a.png").write_bytes(b"older")
    assert render(*words, "--skip-existing") == 0
    assert (out / "a.png").read_bytes() == b"older"
    assert "1 of 2 photographs have their result and are left alone" in caplog.text
    assert render(*words) == 0
    assert images.load_photo(out / "a.png").size_hw == (20, 30)


def test_one_result_file_is_for_one_photograph(tmp_path, capsys):
    for name in ("a", "b"):
        write_photo(tmp_path / f"{name}.png")
        write_map(tmp_path / f"{name}_depth.npy")
    assert render(tmp_path / "*.png", "--output", tmp_path / "out.png") == 1
    assert "--output: is one file for several photographs" in capsys.readouterr().out
    assert render(tmp_path / "a.png", "--output", tmp_path / "deep" / "out.jpg") == 0
    assert images.load_photo(tmp_path / "deep" / "out.jpg").size_hw == (20, 30)


def test_several_at_a_time_write_the_same_bytes_and_a_bad_one_costs_no_other(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    for seed, name in enumerate(("a", "b", "c")):
        write_photo(tmp_path / "in" / f"{name}.png", seed=seed, size_hw=(90, 120))
        images.save_disparity(tmp_path / "in" / f"{name}_depth.png", torch.rand(1, 9, 12))
    (tmp_path / "in" / "bad.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:200])
    threads = torch.get_num_threads()
    told = {}
    for jobs in (1, 2):
        torch.set_num_threads(3 - jobs)  # the other processes share out the cores, too
        caplog.clear()
        words = (tmp_path / "in", "--output-dir", tmp_path / f"out{jobs}", "--K", 25, "--blades", 6, "--jobs", jobs)
        assert render(*words) == 1
        assert "3 of 4 photographs rendered; failed:\nbad.png: --image: " in capsys.readouterr().out
        told[jobs] = sorted(record.getMessage().replace(f"out{jobs}", "out") for record in caplog.records)
    torch.set_num_threads(threads)
    assert written(tmp_path / "out2") == ["a.png", "b.png", "c.png"]
    for name in written(tmp_path / "out2"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    assert told[1] == told[2], "what other processes log is told too"


@dataclass(frozen=True)
class DiesOf:
    """Ends its process the hard way on some items."""

    deadly: tuple[int, ...]

    def __call__(self, item: int) -> int:
        if item in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return item * item


@pytest.mark.slow
def test_a_killed_process_costs_its_own_item_only():
    done = dict(in_processes([1, 2, 3, 4, 5], DiesOf((2, 4)), jobs=2))
    assert done == {1: 1, 2: None, 3: 9, 4: None, 5: 25}


def broken(item: int) -> int:
    raise ZeroDivisionError(item)


@pytest.mark.slow
def test_a_mistake_of_ours_in_another_process_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(in_processes([1, 2, 3], broken, jobs=2))


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def hear_interrupts() -> None:
    """A shell lets what runs in its background not hear them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupting_ends_all_processes_and_leaves_no_half_file(tmp_path, jobs):
    for name in "abcdefghijklmnopqrst":
        write_photo(tmp_path / "in" / f"{name}.png", size_hw=(300, 400))
        images.save_disparity(tmp_path / "in" / f"{name}_depth.png", torch.rand(1, 30, 40))
    words = ["render", tmp_path / "in", "--output-dir", tmp_path / "out", "--jobs", jobs, "--K", 40]
    process = subprocess.Popen(
        [sys.executable, "-m", "bokehdiff", *map(str, words)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    try:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("out/*.png")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.rstrip().endswith("bokehdiff render: interrupted")
    assert len(written(tmp_path / "out")) < 20, "it was interrupted before its end"
    assert not [name for name in written(tmp_path / "out") if name.startswith(".")]
    deadline = time.monotonic() + 20
    while group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)  # Python's own tracker of shared resources ends when it sees that the others have
    assert not group_lives(process.pid)
