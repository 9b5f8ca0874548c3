from __future__ import annotations

from functools import cache

import pytest
import torch
from PIL import Image

from bokehdiff.cli.main import main
from bokehdiff.data import OnTheFlyDataset, preset, synthetic_background, synthetic_foreground
from bokehdiff.images import linear_to_srgb, load_photo, load_rgba, save_image, srgb_to_linear
from bokehdiff.preparation import CutoutLimits, UnusableSubjectError, cut_out, unmix
from tests.helpers import assert_close

ANY = CutoutLimits(smallest_px=1, least_share=0.0)
KINDS = {"hair": 0, "leaves": 1, "solids": 4, "fur": 5}


@cache
def photographed(n, size_px=128):
    """A procedural subject before a procedural background: display RGB, coverage, and the subject's own light."""
    subject = synthetic_foreground(1, n, size_px=size_px)
    behind = srgb_to_linear(synthetic_background(2, n, size_px=size_px))
    alpha, own = subject[:, 3], srgb_to_linear(subject[:, :3])
    return linear_to_srgb(alpha[:, None] * own + (1 - alpha[:, None]) * behind), alpha, own


def rim_error(light, own, alpha):
    """Mean error of a subject's light where it is partly transparent."""
    rim = ((alpha > 0.05) & (alpha < 0.95))[:, None].expand_as(own)
    return float((light - own)[rim].abs().mean())


def box_before_grey(size_hw=(100, 120), box=(20, 80, 30, 90)):
    """A red box before grey and its mask."""
    top, bottom, left, right = box
    mask = torch.zeros(1, *size_hw)
    mask[:, top:bottom, left:right] = 1.0
    red = torch.tensor([0.8, 0.1, 0.1])[None, :, None, None]
    return 0.5 * (1 - mask[:, None]) + red * mask[:, None], mask


@pytest.mark.parametrize(("kind", "share"), [("hair", 0.6), ("leaves", 0.35), ("solids", 0.45), ("fur", 0.35)])
def test_at_the_rim_the_subjects_own_colour_is_found(kind, share):
    """The photograph's colour there is wrong by how much shines through; what is found is wrong by a part of that."""
    image_srgb, alpha, own = photographed(KINDS[kind])
    light = srgb_to_linear(image_srgb)
    found = unmix(light, alpha)
    naive, decontaminated = (rim_error(each, own, alpha) for each in (light, found.near))
    print(f"{kind}: {naive:.4f} as photographed, {decontaminated:.4f} decontaminated")
    assert decontaminated < share * naive
    mixed = alpha[:, None] * found.near + (1 - alpha[:, None]) * found.far
    assert float((mixed - light).abs().mean()) < 0.01


def test_where_only_one_shows_its_colour_is_the_photographs():
    image_srgb, alpha, _ = photographed(KINDS["leaves"])
    light = srgb_to_linear(image_srgb)
    found = unmix(light, alpha)
    for colour, inside in ((found.near, alpha == 1), (found.far, alpha == 0)):
        chosen = inside[:, None].expand_as(light)
        assert chosen.any()
        assert float((colour - light)[chosen].abs().mean()) < 1e-3
        assert float((colour - light)[chosen].abs().max()) < 0.05  # beside the rim, where the neighbours pull


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (2, 3), (33, 7)])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_any_size_and_coverage_has_colours(size_hw, level):
    found = unmix(torch.rand(1, 3, *size_hw), torch.full((1, *size_hw), level))
    for colour in (found.near, found.far):
        assert colour.shape == (1, 3, *size_hw)
        assert 0 <= colour.min() <= colour.max() <= 1


def test_two_flat_colours_are_told_apart():
    """A soft disc of one colour before another: both colours everywhere, up to what sweeps leave."""
    axis = torch.linspace(-1, 1, 65)
    alpha = ((1 - torch.hypot(axis[:, None], axis[None]) * 1.3) * 4).clamp(0, 1)[None]
    near, far = torch.tensor([0.6, 0.1, 0.05]), torch.tensor([0.05, 0.2, 0.7])
    light = alpha[:, None] * near[None, :, None, None] + (1 - alpha[:, None]) * far[None, :, None, None]
    found = unmix(light, alpha)
    rim = (alpha > 0.02) & (alpha < 0.98)
    for colour, expected in ((found.near, near), (found.far, far)):
        assert float((colour - expected[None, :, None, None]).abs().amax(dim=1)[rim].mean()) < 0.01


def test_before_another_background_a_cut_out_looks_as_if_it_had_stood_there():
    image_srgb, alpha, own = photographed(KINDS["leaves"])
    grey = torch.full_like(own, 0.2)

    def before_grey(light):
        return linear_to_srgb(alpha[:, None] * light + (1 - alpha[:, None]) * grey)

    rgba = cut_out(image_srgb, alpha, limits=ANY)
    rows, columns = (alpha[0] > 0.021).any(dim=1).nonzero()[:, 0], (alpha[0] > 0.021).any(dim=0).nonzero()[:, 0]
    box = (..., slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    cut = torch.zeros_like(own)
    cut[box] = srgb_to_linear(rgba[:, :3, 1:-1, 1:-1])
    rim = ((alpha > 0.05) & (alpha < 0.95))[:, None].expand_as(own)
    error = [
        float((before_grey(each) - before_grey(own))[rim].abs().mean()) for each in (srgb_to_linear(image_srgb), cut)
    ]
    assert error[1] < 0.5 * error[0]


def test_a_cut_out_is_its_box_with_a_transparent_rim():
    image_srgb, mask = box_before_grey()
    rgba = cut_out(image_srgb, mask, limits=ANY)
    assert rgba.shape == (1, 4, 62, 62)
    assert not torch.cat([rgba[0, 3, 0], rgba[0, 3, -1], rgba[0, 3, :, 0], rgba[0, 3, :, -1]]).any()
    assert bool((rgba[0, 3, 1:-1, 1:-1] == 1).all())
    assert_close(rgba[0, :3, 1:-1, 1:-1], torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(3, 60, 60))


def test_haze_and_specks_are_no_subject():
    image_srgb, mask = box_before_grey()
    dirty = mask.clamp(min=0.015)
    dirty[:, 5:8, 110:113] = 1.0
    dirty[:, 90:98, 5:100] = 0.4
    assert torch.equal(cut_out(image_srgb, dirty, limits=ANY), cut_out(image_srgb, mask, limits=ANY))


def test_large_cut_outs_are_shrunk():
    image_srgb, mask = box_before_grey((100, 120), (10, 50, 10, 90))
    rgba = cut_out(image_srgb, mask, limits=CutoutLimits(smallest_px=1, longest_px=40))
    assert 38 <= rgba.shape[3] <= 40
    assert 19 <= rgba.shape[2] <= 22
    assert_close(rgba[0, 3, 6:-6, 6:-6], torch.ones_like(rgba[0, 3, 6:-6, 6:-6]))


@pytest.mark.parametrize(
    ("mask", "limits", "message"),
    [
        (torch.zeros(1, 100, 120), ANY, "the mask marks nothing"),
        (torch.full((1, 100, 120), 0.4), ANY, "the mask marks nothing: it is 0.4 at most"),
        (box_before_grey()[1], CutoutLimits(), "too small: 60 x 60 px, 30.0% of the photograph; at least 64 px"),
        (box_before_grey(box=(5, 9, 5, 9))[1], CutoutLimits(smallest_px=1), "at least 1 px and 0.5% needed"),
        (torch.ones(1, 100, 120), CutoutLimits(), "cuts the subject off on all sides"),
        (box_before_grey(box=(0, 80, 0, 90))[1], CutoutLimits(most_cut_sides=1), "off at the left and top .90 x 80 px"),
    ],
)
def test_subjects_that_make_no_foreground_are_refused(mask, limits, message):
    with pytest.raises(UnusableSubjectError, match=message):
        cut_out(torch.rand(1, 3, *mask.shape[1:]), mask, limits=limits)


@pytest.fixture
def root(tmp_path):
    """Photographs with masks: a subject, one in a folder, one that is nothing, one that is cut off everywhere."""
    for name, subject in (("a", 1), ("deep/b.c", 5), ("nothing", None), ("wall", None)):
        image_srgb, mask = (torch.rand(1, 3, 128, 128), torch.full((1, 128, 128), float(name == "wall")))
        if subject is not None:
            image_srgb, mask, _ = photographed(subject)
        for folder, image in (("input", image_srgb), ("mask", mask[:, None].expand(1, 3, -1, -1))):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, image)
    (tmp_path / "bg").mkdir()
    save_image(tmp_path / "bg" / "wall.png", torch.rand(1, 3, 64, 64))
    return tmp_path


FOREGROUNDS = ("--foregrounds", "--disparity-model", "none")


def test_photographs_with_masks_become_a_training_set(root, capsys):
    assert main(["prepare", "--root", str(root), *FOREGROUNDS]) == 0
    report = capsys.readouterr().out.splitlines()
    assert report[0].startswith("4 of 4 photographs")
    assert "  disparity: 4 none" in report
    assert "  foregrounds: 2 cut out, 2 unusable" in report
    assert "no foreground: nothing.png: the mask marks nothing" in report
    assert any(
        line.startswith("no foreground: wall.png: the photograph cuts the subject off on all") for line in report
    )
    assert report[-2].startswith(f"2 foregrounds in {root / 'fg'}")
    assert sorted(path.relative_to(root / "fg").as_posix() for path in (root / "fg").rglob("*.png")) == [
        "a.png", "deep/b.c.png",
    ]  # fmt: skip
    dataset = OnTheFlyDataset(root, seed=0, composition=preset("bokehdiff", resolution_px=24))
    assert len(dataset.ingredients.foregrounds) == 2
    assert dataset[0].image_srgb.shape == (3, 24, 24)
    assert main(["data", "check", str(root)]) == 0


def test_what_is_cut_out_is_kept_and_what_is_not_ours_stays(root, capsys):
    assert main(["prepare", "--root", str(root), *FOREGROUNDS]) == 0
    ours, own = root / "fg" / "deep" / "b.c.png", root / "fg" / "a.png"
    save_image(own, torch.rand(1, 4, 90, 90))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (ours, own)}
    capsys.readouterr()
    assert main(["prepare", "--root", str(root), *FOREGROUNDS]) == 0
    assert "foregrounds: 2 kept, 2 unusable" in capsys.readouterr().out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (ours, own)} == before
    assert main(["prepare", "--root", str(root), *FOREGROUNDS, "--overwrite"]) == 0
    assert own.read_bytes() == before[own][0]
    assert ours.stat().st_mtime_ns > before[ours][1]
    assert ours.read_bytes() == before[ours][0]
    with Image.open(ours) as picture:
        assert picture.info["Comment"] == "bokehdiff prepare: cut out of deep/b.c.png"


def test_without_masks_they_come_from_disparity_or_are_missed(root, capsys):
    (root / "mask" / "a.png").unlink()
    words = ["prepare", "--root", str(root), *FOREGROUNDS]
    assert main(words) == 1
    assert "failed: a.png: without disparity the heuristic finds no subject" in capsys.readouterr().out
    assert main([*words, "--mask-model", "none"]) == 1
    assert "failed: a.png: there is no mask to cut a foreground out by: put a.png into" in capsys.readouterr().out
    (root / "depth").mkdir()
    alpha = photographed(KINDS["leaves"])[1]
    save_image(root / "depth" / "a.png", (0.1 + 0.8 * alpha)[:, None].expand(1, 3, -1, -1))
    assert main(words) == 0
    assert load_rgba(root / "fg" / "a.png")[:, 3].mean() > 0.1


def test_the_longest_side_and_the_cut_sides_are_asked_for(root, capsys):
    assert main(["prepare", "--root", str(root), *FOREGROUNDS, "--foreground-max-side", "70", "--cut-sides", "4"]) == 0
    assert 66 <= max(load_photo(root / "fg" / "a.png").size_hw) <= 70
    assert load_rgba(root / "fg" / "wall.png")[:, 3].mean() > 0.9
    for words, message in (
        (["--cut-sides", "5"], "--cut-sides: must be 0 to 4; got 5"),
        (["--foreground-max-side", "3"], "--foreground-max-side: must be at least 64; got 3"),
        (["--foreground-dirname", "subjects"], "--foreground-dirname: the folder of foregrounds must end in fg"),
    ):
        assert main(["prepare", "--root", str(root), *FOREGROUNDS, *words]) == 1
        assert message in capsys.readouterr().err


def test_no_foreground_at_all_is_no_success(root):
    for name in ("a.png", "deep/b.c.png"):
        (root / "input" / name).unlink()
    assert main(["prepare", "--root", str(root), *FOREGROUNDS]) == 1
