from __future__ import annotations

import builtins
import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bokehdiff import images
from bokehdiff.errors import InputError, MissingDependencyError
from tests.helpers import psnr


def moving_spot(n_frames: int, size_hw: tuple[int, int] = (33, 47)) -> list[torch.Tensor]:
    """A smooth coloured picture that stays, with a dark square that walks over its upper half."""
    y, x = torch.meshgrid(*(torch.linspace(0.0, 1.0, n) for n in size_hw), indexing="ij")
    still = torch.stack([x, y, 1.0 - x])[None]
    frames = []
    for i in range(n_frames):
        frame = still.clone()
        frame[..., 4:12, 3 + 4 * i : 11 + 4 * i] = 0.1
        frames.append(frame)
    return frames


def gif_frames(path) -> list[np.ndarray]:
    with Image.open(path) as picture:
        shown = []
        for i in range(picture.n_frames):
            picture.seek(i)
            shown.append(np.asarray(picture.convert("RGB")))
        return shown


def mp4_frames(path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames


def difference(shown: np.ndarray, frame: torch.Tensor) -> float:
    height, width = frame.shape[2:]
    return psnr(torch.from_numpy(shown[:height, :width].copy()).permute(2, 0, 1)[None] / 255, frame)


def test_a_gif_has_every_picture_its_size_its_time_and_its_note(tmp_path):
    frames = moving_spot(6)
    images.save_animation(tmp_path / "a.gif", iter(frames), fps=7, text="K 12\nfocus 0.4")
    with Image.open(tmp_path / "a.gif") as picture:
        assert (picture.n_frames, picture.size) == (6, (47, 33))
        assert picture.info["loop"] == 0
        assert picture.info["comment"] == b"K 12\nfocus 0.4"
        durations = []
        for i in range(6):
            picture.seek(i)
            durations.append(picture.info["duration"])
    assert sum(durations) == 860, "six sevenths of a second, to a hundredth"
    assert max(durations) - min(durations) <= 10
    for shown, frame in zip(gif_frames(tmp_path / "a.gif"), frames, strict=True):
        assert difference(shown, frame) > 30


def test_what_stands_still_in_a_gif_does_not_flicker(tmp_path):
    images.save_animation(tmp_path / "a.gif", moving_spot(6))
    first, *others = gif_frames(tmp_path / "a.gif")
    for frame in others:
        assert (frame[16:] == first[16:]).all()


def test_a_gif_of_few_colours_has_them_exactly(tmp_path):
    frames = [torch.zeros(1, 3, 9, 9), torch.ones(1, 3, 9, 9)]
    frames[0][:, 0, 3:] = 0.2
    images.save_animation(tmp_path / "a.gif", frames)
    assert [len(np.unique(frame.reshape(-1, 3), axis=0)) for frame in gif_frames(tmp_path / "a.gif")] == [2, 1]
    assert gif_frames(tmp_path / "a.gif")[0][5, 5].tolist() == [51, 0, 0]


def test_a_gif_may_stop_at_its_end(tmp_path):
    images.save_animation(tmp_path / "a.gif", moving_spot(3), loop=False)
    with Image.open(tmp_path / "a.gif") as picture:
        assert "loop" not in picture.info


@pytest.mark.parametrize(("size_hw", "written_wh"), [((32, 48), (48, 32)), ((33, 47), (48, 34)), ((1, 1), (2, 2))])
def test_an_mp4_has_every_picture_even_sides_and_its_speed(tmp_path, caplog, size_hw, written_wh):
    frames = moving_spot(6, size_hw) if size_hw != (1, 1) else [torch.full((1, 3, 1, 1), 0.5)] * 6
    with caplog.at_level(logging.INFO):
        images.save_animation(tmp_path / "a.mp4", iter(frames), fps=7.5)
    video = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(7.5)
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)) == written_wh
    assert ("to even sides" in caplog.text) == (size_hw != (32, 48))
    shown = mp4_frames(tmp_path / "a.mp4")
    assert len(shown) == 6
    for picture, frame in zip(shown, frames, strict=True):
        assert difference(picture, frame) > 28, "4:2:0 has half the colours' sharpness"


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_colours_are_kept(tmp_path, suffix):
    patches = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])
    frame = patches.T[None, :, None, :].repeat_interleave(32, dim=2).repeat_interleave(32, dim=3)
    images.save_animation(tmp_path / f"a{suffix}", [frame, frame.flip(3)])
    shown = (gif_frames if suffix == ".gif" else mp4_frames)(tmp_path / f"a{suffix}")[0]
    for i, patch in enumerate(patches):
        got = shown[10:20, 32 * i + 10 : 32 * i + 20].reshape(-1, 3).mean(axis=0) / 255
        assert np.abs(got - patch.numpy()).max() < 0.02


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_back_and_forth_shows_the_inner_pictures_twice(tmp_path, suffix):
    frames = moving_spot(4)
    images.save_animation(tmp_path / f"a{suffix}", frames, back_and_forth=True)
    shown = (gif_frames if suffix == ".gif" else mp4_frames)(tmp_path / f"a{suffix}")
    assert len(shown) == 6
    for picture, frame in zip(shown, [*frames, frames[2], frames[1]], strict=True):
        assert difference(picture, frame) > 28


@pytest.mark.parametrize(
    ("name", "frames", "options", "message"),
    [
        ("a.webm", moving_spot(2), {}, r"a\.webm: animations are written as \.gif, \.mp4; got '\.webm'"),
        ("a.gif", [], {}, "there are no pictures"),
        ("a.mp4", [], {}, "there are no pictures"),
        ("a.gif", moving_spot(2), {"fps": 0.0}, "fps must be above 0; got 0"),
        ("a.gif", moving_spot(2), {"fps": 60.0}, "a GIF shows up to 50 pictures per second; got 60: write .mp4"),
        ("a.mp4", [torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5)], {}, r"one size; got \(4, 5\) after \(4, 4\)"),
        ("a.gif", [torch.full((1, 3, 4, 4), float("nan"))], {}, "NaN or infinite"),
        ("b/a.gif", moving_spot(1), {}, "its folder .* does not exist"),
        ("b/a.mp4", moving_spot(1), {}, "its folder .* does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, name, frames, options, message):
    with pytest.raises(InputError, match=message):
        images.save_animation(tmp_path / name, frames, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_failure_half_way_leaves_the_older_animation(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"older")

    def breaking():
        yield from moving_spot(2)
        raise InputError("the third cannot be rendered")

    with pytest.raises(InputError, match="the third cannot be rendered"):
        images.save_animation(path, breaking())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"older"


def test_without_its_package_an_mp4_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "imageio_ffmpeg":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bokehdiff\[video\]', or write \.gif"):
        images.save_animation(tmp_path / "a.mp4", moving_spot(2))


@pytest.mark.parametrize(("suffix", "options"), [(".gif", {}), (".mp4", {"back_and_forth": True})])
def test_more_than_fits_into_memory_is_refused_at_the_first_picture(tmp_path, monkeypatch, suffix, options):
    monkeypatch.setattr("bokehdiff.images.animation.MOST_KEPT_BYTES", 4 * 3 * 8 * 10)
    taken = []

    def frames(n):
        for i in range(n):
            taken.append(i)
            yield torch.rand(1, 3, 8, 10)

    with pytest.raises(InputError, match="5 pictures of 10 x 8 px take .* GiB of memory, more than .*fewer or smaller"):
        images.save_animation(tmp_path / f"a{suffix}", frames(9), n_frames=5, **options)
    assert taken == [0]
    with pytest.raises(InputError, match="5 pictures of 10 x 8 px"):
        images.save_animation(tmp_path / f"a{suffix}", frames(9), **options)
    assert not list(tmp_path.iterdir())
    images.save_animation(tmp_path / f"a{suffix}", frames(4), n_frames=4, **options)
