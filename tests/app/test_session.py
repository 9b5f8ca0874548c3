from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bokehdiff.app import Cancelled, Controls, Equipment, Job, Limits, Pull, Session
from bokehdiff.app.results import eased
from bokehdiff.app.sizes import LEAST_PIXELS, PREVIEW_PIXELS
from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.images import load_disparity, load_photo
from tests.app.scenes import SIZE_HW, detail, picture_of, two_halves
from tests.helpers import psnr

WIDE = Controls(focus_disparity=1.0, strength_px=12.0)


def nothing(n_done: int, n_all: int) -> None:
    """A step that nobody watches."""


def test_a_click_focuses_there_and_the_sharp_plane_moves(opened):
    near, far = opened.focus_at(0.25, 0.5), opened.focus_at(0.75, 0.5)
    assert near == 1.0
    assert far == 0.0
    sharp = detail(opened.preview(Controls(strength_px=0.0)))
    for focus, is_sharp in ((near, (True, False)), (far, (False, True))):
        halves = detail(opened.preview(WIDE.focused_at(focus)))
        for measured, full, expected in zip(halves, sharp, is_sharp, strict=True):
            assert (measured > 0.9 * full) == expected
            assert (measured < 0.5 * full) != expected


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 1.0), (-0.2, 0.5), (0.5, 1.7)])
def test_a_click_at_or_beyond_the_border_counts_as_the_border(opened, x, y):
    assert 0.0 <= opened.focus_at(x, y) <= 1.0


def test_a_closed_lens_shows_the_photograph(opened):
    still = opened.preview(Controls(strength_px=0.0))
    assert psnr(picture_of(opened.sharp_view()), still) > 30.0  # the view is a JPEG


def test_previews_are_no_larger_than_a_megapixel(session, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(900, 1500))
    session.open(photograph, disparity=disparity)
    height, width = session.view_hw
    assert height * width <= PREVIEW_PIXELS
    assert session.size_hw == (900, 1500)
    assert abs(width / height - 1500 / 900) < 0.01


def test_previews_are_no_larger_than_the_screen_shows_them(session, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(900, 1500))
    session.open(photograph, disparity=disparity, screen_hw=(630.0, 1000.0))
    assert session.view_hw == (600, 1000)  # by the width
    assert session.preview(WIDE).shape[2:] == (600, 1000)
    session.open(photograph, disparity=disparity, screen_hw=(60.0, 100.0))
    height, width = session.view_hw
    assert 0.99 * LEAST_PIXELS < height * width <= LEAST_PIXELS
    for unknown in (None, (0.0, 900.0), (math.nan, 900.0)):
        session.open(photograph, disparity=disparity, screen_hw=unknown)
        assert session.view_hw[0] * session.view_hw[1] > 0.99 * PREVIEW_PIXELS


def test_what_is_looked_at_follows_the_screen_but_not_its_bars(session, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(900, 1500))
    session.open(photograph, disparity=disparity, screen_hw=(630.0, 1000.0))
    narrow = session.sharp_view()
    assert not session.fit((630.0, 1060.0))
    assert not session.fit(None)
    assert session.view_hw == (600, 1000)
    assert session.fit((1200.0, 1200.0))
    assert session.view_hw == (720, 1200)
    assert session.preview(WIDE).shape[2:] == session.depth(0.5).shape[2:] == (720, 1200)
    assert picture_of(session.sharp_view()).shape[2:] == (720, 1200)
    assert narrow.is_file()  # a browser may still be loading it
    assert session.focus_at(0.25, 0.5) == 1.0
    assert session.fit((630.0, 1000.0))
    assert session.view_hw == (600, 1000)


def test_what_is_rendered_while_the_screen_changes_is_kept(session, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(900, 1500))
    session.open(photograph, disparity=disparity, screen_hw=(630.0, 1000.0))
    result = session.render(WIDE, renderer="physical", step=lambda *_: session.fit((1200.0, 1200.0)))
    assert session.view_hw == (720, 1200)
    assert session.blurred_view(WIDE) == result.view


def test_a_preview_with_cats_eyes_is_coarser_and_shown_as_large(session, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(600, 900))
    session.open(photograph, disparity=disparity)
    sizes = [session.preview_hw(replace(WIDE, cat_eye=cat_eye)) for cat_eye in (0.0, 0.5, 1.0)]
    assert sizes[0] == session.view_hw
    assert sizes[0][0] > sizes[1][0] > sizes[2][0]
    plain, lemons = session.preview(WIDE), session.preview(replace(WIDE, cat_eye=0.5))
    assert lemons.shape == plain.shape
    centre = (..., slice(250, 350), slice(500, 600))  # where lemons are nearly discs
    assert psnr(lemons[centre], plain[centre]) > 30.0


def test_the_preview_of_a_large_photograph_blurs_as_the_result_does(session, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(1200, 1600))
    session.open(photograph, disparity=disparity)
    controls = Controls(focus_disparity=1.0, strength_px=6.0)
    preview = session.preview(controls)
    result = picture_of(session.render(controls, renderer="physical", step=nothing).view)
    height, width = session.view_hw
    assert (height, width) == tuple(preview.shape[2:])
    assert width < 1600
    far = (..., slice(5 * width // 8, width - 20))  # away from the edge, where renderers agree
    assert psnr(result[far], preview[far]) > 30.0


def test_the_result_keeps_exif_and_tells_how_it_was_made(session, tmp_path):
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(0x8769)[33437] = 4.0
    photograph, disparity = two_halves(tmp_path, exif=exif.tobytes())
    session.open(photograph, disparity=disparity)
    controls = Controls(focus_disparity=1.0, strength_px=9.0, blades=6, cat_eye=0.25, highlights=3.0)
    result = session.render(controls, renderer="physical", step=nothing)
    assert result.path.parent.name == "results"
    with Image.open(result.path) as picture:
        assert picture.size == SIZE_HW[::-1]
        assert picture.getexif()[271] == "Maker"
        said = yaml.safe_load(picture.info["comment"])
    assert said["strength_px"] == 9.0
    assert said["blades"] == 6
    assert said["cat_eye"] == 0.25
    assert said["highlights"] == 3.0
    assert said["disparity"] == "file: halves_disparity.png"
    assert load_photo(result.path).camera.f_number == 4.0


@pytest.mark.parametrize(("file_format", "bits"), [("jpg", 8), ("png", 16), ("tif", 16)])
def test_results_have_the_depth_of_their_format(opened, file_format, bits):
    result = opened.render(WIDE, renderer="physical", file_format=file_format, step=nothing)
    photo = load_photo(result.path)
    assert photo.bit_depth == bits
    left, right = detail(photo.image_srgb)
    assert left > 2 * right


def test_what_was_rendered_is_shown_until_the_lens_changes(opened):
    result = opened.render(WIDE, renderer="physical", step=nothing)
    assert opened.blurred_view(WIDE) == result.view
    assert opened.blurred_view(WIDE.focused_at(0.0)) != result.view


def test_results_of_one_name_do_not_replace_each_other(opened):
    first, second = (opened.render(WIDE, renderer="physical", step=nothing).path for _ in range(2))
    assert first != second
    assert first.is_file()
    assert second.is_file()


def test_cancelling_ends_the_rendering_and_writes_nothing(opened, places):
    def impatient(n_done: int, n_all: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled, match="cancelled"):
        opened.render(WIDE, renderer="physical", step=impatient)
    assert not list(places.results.iterdir())


def test_a_job_is_cancelled_between_two_tiles(session, places, tmp_path):
    photograph, disparity = two_halves(tmp_path, size_hw=(600, 700))
    session.open(photograph, disparity=disparity)
    seen = []

    def work(job: Job):
        def step(n_done: int, n_all: int) -> None:
            seen.append((n_done, n_all))
            if n_all > 1:
                job.cancel()
            job.step(n_done, n_all)

        return session.render(WIDE, renderer="physical", step=step)

    job = Job(work)
    job.begin()
    assert job.wait(60)
    with pytest.raises(Cancelled, match="cancelled"):
        job.result()
    assert seen == [(0, 1), (0, 4)]
    assert not list(places.results.iterdir())


@pytest.mark.parametrize("file_format", ["gif", "mp4"])
def test_a_focus_pull_goes_from_far_to_near_and_back(opened, file_format):
    if file_format == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    done = []
    result = opened.pull(
        WIDE, Pull(focuses=(0.0, 1.0), n_frames=3, fps=10.0, file_format=file_format),
        step=lambda n_done, n_all: done.append((n_done, n_all)),
    )  # fmt: skip
    assert done == [(0, 3), (1, 3), (2, 3)]
    if file_format == "gif":
        with Image.open(result.path) as film:
            assert film.n_frames == 4
            halves = []
            for i in (0, 2):
                film.seek(i)
                halves.append(detail(torch.from_numpy(np.array(film.convert("RGB"))).permute(2, 0, 1)[None] / 255.0))
        assert halves[0][1] > 1.5 * halves[0][0]
        assert halves[1][0] > 1.5 * halves[1][1]
    else:
        assert result.path.stat().st_size > 1000


def test_easing_begins_and_ends_slowly():
    values = eased((0.2, 0.8), 5)
    assert values[0] == pytest.approx(0.2)
    assert values[2] == pytest.approx(0.5)
    assert values[4] == pytest.approx(0.8)
    steps = np.diff(values)
    assert steps[0] < steps[1]
    assert steps[3] < steps[2]


@pytest.mark.parametrize("n_frames", [1, 121])
def test_a_pull_has_a_sensible_number_of_pictures(n_frames):
    with pytest.raises(InputError, match=f"takes 2 to 120 pictures; got {n_frames}"):
        Pull(focuses=(0.0, 1.0), n_frames=n_frames, fps=10.0, file_format="gif")


def test_depth_is_guessed_and_called_a_guess_without_a_model(session, tmp_path):
    session.open(two_halves(tmp_path)[0])
    assert session.origin == "guess"
    assert "guess" in session.source
    assert "guess: guess from position" in session.note(WIDE, "physical")


def test_a_model_predicts_depth_where_there_is_one(places, tmp_path):
    from bokehdiff.preparation import DisparityEstimate

    class Ramp:
        name = "ramp"

        def estimate(self, image_srgb):
            return DisparityEstimate(torch.linspace(3.0, 7.0, image_srgb.shape[3]).expand(1, *image_srgb.shape[2:]))

    session = Session(Equipment(places, model=Ramp()))
    session.open(two_halves(tmp_path)[0])
    assert session.origin == "model"
    assert session.source == "ramp"
    assert session.focus_at(0.0, 0.5) < 0.05
    assert session.focus_at(1.0, 0.5) > 0.95


def test_a_map_may_be_brought_later_and_turned_round(session, tmp_path):
    photograph, disparity = two_halves(tmp_path)
    session.open(photograph)
    session.take_disparity(disparity, name="mine.png", near_is_dark=True)
    assert session.origin == "file"
    assert session.source == "mine.png"
    assert session.focus_at(0.25, 0.5) == 0.0


def test_the_map_is_saved_as_it_is_used(opened):
    saved = load_disparity(opened.depth_file())
    assert float(saved[0, 80, 20]) == 1.0
    assert float(saved[0, 80, 220]) == 0.0


def test_the_picture_of_depth_is_brighter_where_it_is_near(opened):
    picture = opened.depth(0.5)
    assert picture[..., :60].mean() > picture[..., -60:].mean() + 0.3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (b"\xff\xd8\xff\xe0" + bytes(60), "is not an image that can be read"),
    ],
)
def test_a_broken_upload_is_a_sentence_and_costs_nothing(opened, tmp_path, content, message):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(content)
    kept = len(list(opened._folder.iterdir()))
    with pytest.raises(InputError, match=message) as caught:
        opened.open(broken, name="my photo.jpg")
    assert "my photo.jpg" in str(caught.value)
    assert str(opened._folder) not in str(caught.value)
    assert opened.name == "halves.png"
    assert len(list(opened._folder.iterdir())) == kept


def test_a_broken_map_leaves_the_one_before(opened, tmp_path):
    broken = tmp_path / "flat.png"
    Image.new("L", SIZE_HW[::-1], 7).save(broken)
    with pytest.raises(InputError, match=r"flat\.png holds one value everywhere"):
        opened.take_disparity(broken)
    Image.new("L", (50, 50), 7).save(broken)
    with pytest.raises(InputError, match="not the same view"):
        opened.take_disparity(broken)
    assert opened.focus_at(0.25, 0.5) == 1.0


def test_what_is_too_large_is_refused(places, tmp_path):
    photograph, disparity = two_halves(tmp_path)
    with pytest.raises(InputError, match=r"halves\.png: has 240 x 160 pixels, more than the limit of 1000"):
        Session(Equipment(places, limits=Limits(most_pixels=1000))).open(photograph, disparity=disparity)
    with pytest.raises(InputError, match="up to 0 MB are taken"):
        Session(Equipment(places, limits=Limits(most_bytes=100))).open(photograph, disparity=disparity)


def test_nothing_can_be_done_before_a_photo_is_open(session):
    with pytest.raises(InputError, match="open a photo first"):
        session.preview(WIDE)
    assert not session.is_open


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_networks_are_asked_for_where_there_are_none(opened, renderer):
    with pytest.raises(InputError, match="start the app with --pretrained-model-name-or-path"):
        opened.render(WIDE, renderer=renderer, step=nothing)


def test_unknown_renderers_and_formats_are_refused(opened):
    with pytest.raises(InputError, match="must be one of physical, hybrid, neural; got 'magic'"):
        opened.render(WIDE, renderer="magic", step=nothing)
    with pytest.raises(InputError, match="must be one of jpg, png, tif; got 'exe'"):
        opened.render(WIDE, renderer="physical", file_format="exe", step=nothing)


def test_old_views_are_removed(opened):
    views = [opened.blurred_view(WIDE.focused_at(i / 20)) for i in range(12)]
    assert not views[0].exists()
    assert all(view.exists() for view in views[-4:])


def test_closing_removes_what_was_kept_but_no_result(opened, places):
    result = opened.render(WIDE, renderer="physical", step=nothing)
    opened.close()
    assert result.path.is_file()
    assert not list(places.passing.iterdir())


def test_a_name_with_folders_in_it_stays_in_the_results(session, places, tmp_path):
    photograph, disparity = two_halves(tmp_path)
    session.open(photograph, name="../../etc/passwd .png", disparity=disparity)
    result = session.render(WIDE, renderer="physical", step=nothing)
    assert result.path.parent == places.results
    assert os.path.commonpath([result.path.resolve(), places.results]) == str(places.results)


def test_a_disk_that_is_full_leaves_no_empty_file(opened, places, monkeypatch):
    def full(*_args, **_keywords):
        raise BokehDiffError("no space left")

    monkeypatch.setattr("bokehdiff.app.results.save_image", full)
    with pytest.raises(BokehDiffError, match="no space left"):
        opened.render(WIDE, renderer="physical", step=nothing)
    assert not list(places.results.iterdir())
