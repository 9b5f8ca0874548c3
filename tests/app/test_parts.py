"""Controls, jobs, places and the studio, each alone."""

from __future__ import annotations

import threading

import pytest

from bokehdiff.app import Camera, Cancelled, Controls, Equipment, Job, Limits, Studio
from bokehdiff.app.jobs import UNFORESEEN
from bokehdiff.app.places import safe_stem
from bokehdiff.app.samples import find_samples, thumbnail
from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.images import load_photo
from bokehdiff.optics import CameraSettings
from tests.app.scenes import two_halves


def test_k_of_an_f_number_is_that_of_the_thin_lens():
    camera = Camera(focal_length_mm=50.0, image_width_px=3600.0, nearest_m=2.0)
    # 5000 px of focal length, 12.5 mm of radius, 1/2 m of disparity
    assert camera.strength_px(2.0) == pytest.approx(5000 * 0.0125 / 2)
    assert camera.strength_px(4.0) == pytest.approx(camera.strength_px(2.0) / 2)


@pytest.mark.parametrize("f_number", [0.95, 1.8, 5.6, 22.0])
def test_f_numbers_and_k_lead_back_to_each_other(f_number):
    camera = Camera(focal_length_mm=85.0, image_width_px=2000.0)
    assert camera.f_number(camera.strength_px(f_number)) == pytest.approx(f_number)


def test_the_f_number_stays_within_those_of_lenses():
    camera = Camera(focal_length_mm=50.0, image_width_px=1000.0)
    assert camera.f_number(0.0) == 22.0
    assert camera.f_number(1e-3) == 22.0
    assert camera.f_number(1e6) == 0.95


@pytest.mark.parametrize(
    ("settings", "focal_mm", "is_told"),
    [
        (CameraSettings(), 50.0, False),
        (CameraSettings(focal_length_mm=6.0), 50.0, False),
        (CameraSettings(focal_length_mm=6.0, sensor_width_mm=7.2), 30.0, True),
        (CameraSettings(focal_length_mm=6.0, focal_length_35mm_mm=26.0), 26.0, True),
    ],
)
def test_the_view_is_that_of_exif_where_it_is_told(settings, focal_mm, is_told):
    camera = Camera.of(settings, 4000)
    assert camera.focal_length_mm == pytest.approx(focal_mm)
    assert camera.is_told == is_told


def test_controls_refuse_what_no_lens_has():
    with pytest.raises(InputError, match=r"from 0 \(far\) to 1 \(near\); got 2"):
        Controls(focus_disparity=2.0)
    with pytest.raises(InputError, match=r"1 \(as they are\) or more; got 0.5"):
        Controls(highlights=0.5)
    with pytest.raises(InputError, match="strength_px must be 0 or more"):
        Controls(strength_px=-1.0).lens()


def test_a_job_tells_how_far_it_is_and_gives_its_result():
    going, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> str:
        job.step(1, 4)
        going.set()
        go_on.wait(10)
        return "done"

    job = Job(work)
    job.begin()
    going.wait(10)
    assert job.share == 0.25
    assert not job.wait(0.0)
    go_on.set()
    assert job.wait(10)
    assert job.result() == "done"
    assert job.seconds >= 0.0


def test_a_job_that_was_cancelled_while_it_waited_ends_at_once():
    def work(job: Job) -> str:
        job.step(0, 1)
        return "done"

    job = Job(work)
    job.cancel()
    job.begin()
    assert job.wait(10)
    with pytest.raises(Cancelled, match="cancelled"):
        job.result()


def test_a_job_that_breaks_says_so_in_a_sentence(caplog):
    def work(job: Job) -> str:
        raise ZeroDivisionError("secret")

    job = Job(work)
    job.begin()
    assert job.wait(10)
    with pytest.raises(BokehDiffError, match=UNFORESEEN):
        job.result()
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("beach", "beach"),
        ("../../etc/passwd", "passwd"),
        (r"C:\photos\beach 1", "beach_1"),
        (".hidden", "hidden"),
        ("...", "photo"),
        ("", "photo"),
        ("été", "été"),
        ("a" * 200, "a" * 60),
        ("a\x00b\n;rm -rf", "a_b_rm_-rf"),
    ],
)
def test_names_are_made_harmless(name, stem):
    assert safe_stem(name) == stem


def test_the_table_that_was_used_longest_ago_is_cleared(places, tmp_path):
    studio = Studio(Equipment(places, limits=Limits(most_sessions=2)))
    photograph, disparity = two_halves(tmp_path)
    first, second = studio.new_session(), studio.new_session()
    studio.session(first).open(photograph, disparity=disparity)
    third = studio.new_session()
    with pytest.raises(InputError, match="open it again"):
        studio.session(second)
    assert studio.session(first).is_open
    assert not studio.session(third).is_open
    assert len({first, second, third}) == 3
    studio.close(first)
    studio.close(first)
    studio.close(third)
    assert not list(places.passing.iterdir())


def test_samples_are_there_with_their_credit(tmp_path):
    samples = find_samples()
    assert {"Coffee", "Astronaut"} <= {sample.title for sample in samples}
    for sample in samples:
        assert sample.credit
        assert sample.disparity is None or sample.disparity.is_file()
    small = load_photo(thumbnail(samples[-1].photograph, tmp_path))
    assert min(small.size_hw) == 240
