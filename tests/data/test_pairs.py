from __future__ import annotations

import json

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image

from bokehdiff.data import (
    MixedDataset,
    PairedDataset,
    TrainSample,
    collate,
    find_pairs,
    load_pair,
    mix_in,
    parse_sources,
)
from bokehdiff.errors import InputError
from bokehdiff.images import save_disparity, save_image, srgb_to_linear
from tests.helpers import assert_close


def photo(path, level=0.5, size_hw=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, torch.full((1, 3, *size_hw), level))


def twins(root, a, b, names, **size):
    for name in names:
        photo(root / a / f"{name}.png", 0.8, **size)
        photo(root / b / f"{name}.jpg", 0.4, **size)
    return root


def names(pairs):
    return [pair.name for pair in pairs]


@pytest.mark.parametrize("inside", [True, False])
def test_ebb_with_its_validation_ids_built_in(tmp_path, inside):
    ids = [0, 4399, 4400, 4693, 4694, 10, 9]
    place = tmp_path / "train" if inside else tmp_path
    twins(place, "original", "bokeh", ids)
    assert names(find_pairs(tmp_path, layout="ebb")) == ["0", "9", "10", "4399", "4694"]
    assert names(find_pairs(tmp_path, layout="ebb", split="val")) == ["4400", "4693"]
    assert len(find_pairs(tmp_path, layout="ebb", split="all")) == 7


def test_ebb_depth_is_optional_and_may_be_cut_to_a_multiple_of_32(tmp_path):
    twins(tmp_path / "train", "original", "bokeh", ["1", "2"], size_hw=(128, 200))
    depth = tmp_path / "train" / "original_depth"
    depth.mkdir()
    save_disparity(depth / "2.png", 0.5 * torch.linspace(0, 1, 64 * 96).reshape(1, 64, 96))
    without, with_map = (load_pair(pair) for pair in find_pairs(tmp_path, layout="ebb"))
    assert without.disparity is None
    assert with_map.disparity.shape == (128, 200)
    assert with_map.disparity.max() == pytest.approx(1.0, abs=0.02)
    assert with_map.lens is None
    assert float(with_map.image_srgb.mean()) == pytest.approx(0.8, abs=0.01)
    assert float(with_map.target_srgb.mean()) == pytest.approx(0.4, abs=0.01)


def test_photographs_are_cut_to_what_ebbs_maps_show(tmp_path):
    """A map of half the size is a multiple of 32 wide: with the photograph cut likewise, it fits without stretching."""
    twins(tmp_path / "train", "original", "bokeh", ["1"], size_hw=(128, 200))
    (tmp_path / "train" / "original_depth").mkdir()
    ramp = torch.linspace(0, 1, 96).expand(1, 64, 96)
    save_disparity(tmp_path / "train" / "original_depth" / "1.png", 0.2 + 0.6 * ramp)
    (paths,) = find_pairs(tmp_path, layout="ebb")
    pair = load_pair(paths, width_multiple=64)
    assert pair.image_srgb.shape == pair.target_srgb.shape == (3, 128, 192)
    columns = pair.disparity.mean(dim=0)
    assert_close(columns, ((torch.arange(192) + 0.5) / 2 - 0.5).clamp(0, 95) / 95, dtype=torch.bfloat16)
    whole = PairedDataset(tmp_path, layout="ebb", width_multiple=64)[0]
    assert whole.image_srgb.shape == (3, 128, 192)
    with pytest.raises(InputError, match="200 px wide: narrower than the multiple 256"):
        load_pair(paths, width_multiple=256)


def test_maps_of_the_whole_are_cut_with_the_photograph(tmp_path):
    twins(tmp_path, "a", "b", ["1"], size_hw=(24, 40))
    (tmp_path / "depth").mkdir()
    save_disparity(tmp_path / "depth" / "1.png", torch.linspace(0, 1, 40).expand(1, 24, 40))
    (paths,) = find_pairs(tmp_path, layout="folders")
    whole, cut = load_pair(paths), load_pair(paths, width_multiple=32)
    assert torch.equal(cut.disparity, whole.disparity[:, :32])


def test_pairs_are_shuffled_through_a_buffer_and_some_left_out(tmp_path):
    twins(tmp_path, "a", "b", range(8))
    source = PairedDataset(tmp_path, layout="folders", resolution_px=8, shuffle_buffer=2, n_left_out=2)
    assert [pair.name for pair in source.pairs] == [str(n) for n in range(6)]
    dealt = [source._place(n) for n in range(6)]
    assert sorted(dealt) == list(range(6))
    assert all(dealt.index(card) >= card - 1 for card in dealt)
    with pytest.raises(InputError, match="holds 8 pairs: none is left when 8 are kept apart"):
        PairedDataset(tmp_path, layout="folders", n_left_out=8)


def test_aim_and_plain_folders(tmp_path):
    twins(tmp_path / "aim" / "train", "input", "label", ["a", "b"])
    twins(tmp_path / "aim" / "val", "input", "label", ["c"])
    assert names(find_pairs(tmp_path / "aim", layout="aim")) == ["a", "b"]
    assert names(find_pairs(tmp_path / "aim", layout="aim", split="val")) == ["c"]
    twins(tmp_path / "plain", "a", "b", ["x"])
    assert names(find_pairs(tmp_path / "plain", layout="folders")) == ["x"]
    twins(tmp_path / "val294" / "validation", "in", "gt", ["y"])
    assert names(find_pairs(tmp_path / "val294", layout="folders", split="val")) == ["y"]


def realbokeh(root, **changes):
    place = root / "train"
    photo(place / "input" / "7_f22.png", 0.8)
    for f_number in ("2.0", "4.5"):
        photo(place / "gt" / f"7_f{f_number}.png", 0.3)
    scene = {
        "id": 7,
        "source_image": "input/7_f22.png",
        "target_images": ["gt/7_f2.0.png", "gt/7_f4.5.png"],
        "target_avs": [2.0, 4.5],
    }
    (place / "metadata").mkdir(exist_ok=True)
    (place / "metadata" / "7.json").write_text(json.dumps(scene | changes))
    return root


def test_realbokeh_tells_f_numbers_and_nothing_else_of_the_lens(tmp_path):
    pairs = find_pairs(realbokeh(tmp_path), layout="realbokeh")
    assert [(pair.name, pair.f_number) for pair in pairs] == [("7_f2.0", 2.0), ("7_f4.5", 4.5)]
    sample = PairedDataset(tmp_path, layout="realbokeh")[1]
    assert sample.f_number == 4.5
    assert sample.disparity is sample.coc_px is sample.focus_disparity is sample.strength_px is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_avs": [2.0]}, r"7.json: 2 target_images need as many target_avs; got 1"),
        ({"source_image": None}, r"7.json needs source_image \(str\)"),
        ({"source_image": "gone.png"}, r"7.json names gone.png, which is not in .*train"),
    ],
)
def test_realbokeh_metadata_that_is_wrong_is_named(tmp_path, changes, message):
    realbokeh(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        find_pairs(tmp_path, layout="realbokeh")


DEPTH = np.array([[2.0, 4.0, 65504.0], [2.0, 4.0, 8.0]], dtype=np.float32)


def exr(path, values):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"V" if values.ndim == 2 else "RGB": values.astype(np.float32)}).write(str(path))


def blb(root, *, depth=DEPTH, **changes):
    scene = root / "277"
    scene.mkdir(parents=True, exist_ok=True)
    light = np.full((*depth.shape, 3), 0.25)
    exr(scene / "image.exr", light)
    exr(scene / "depth.exr", depth)
    for i in range(2):
        for j in range(2):
            exr(scene / f"bokeh_{i:02d}_{j:02d}.exr", light * (5 if i else 0.5))
    photo(scene / "disparity_preview.jpg")
    info = {"focus_distances": [65504.0, 4.0], "blur_parameters": [10.0, 20.0]} | changes
    (scene / "info.json").write_text(json.dumps(info))
    return root


def test_blb_tells_the_whole_lens(tmp_path):
    dataset = PairedDataset(blb(tmp_path), layout="blb")
    assert dataset.knows_lens
    assert names(dataset.pairs) == ["277/bokeh_00_00", "277/bokeh_00_01", "277/bokeh_01_00", "277/bokeh_01_01"]
    metric = torch.from_numpy(1 / DEPTH)
    for sample, (strength, focus) in zip(dataset, ((10, 0), (10, 1 / 4), (20, 0), (20, 1 / 4)), strict=True):
        assert_close(sample.coc_px, strength * (metric - focus))
        assert_close(sample.coc_px, sample.strength_px * (sample.disparity - sample.focus_disparity))
        assert (sample.disparity.min(), sample.disparity.max()) == (0, 1)
    assert_close(srgb_to_linear(dataset[0].target_srgb), torch.full((3, 2, 3), 0.125))
    assert_close(dataset[2].target_srgb, torch.ones(3, 2, 3))  # light above white is clipped


def test_a_wall_that_faces_the_camera_serves(tmp_path):
    blb(tmp_path, depth=np.full((2, 3), 2.0, dtype=np.float32))
    sample = PairedDataset(tmp_path, layout="blb")[1]
    assert_close(sample.coc_px, torch.full((2, 3), 10 * (1 / 2 - 1 / 4)))


def test_blb_that_is_wrong_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is not in the layout 'blb': expected folders with info.json"):
        find_pairs(tmp_path, layout="blb")
    blb(tmp_path, focus_distances=[1.0])
    with pytest.raises(InputError, match="lists too few blur_parameters or focus_distances for bokeh_00_01"):
        find_pairs(tmp_path, layout="blb")
    blb(tmp_path, depth=-DEPTH)
    with pytest.raises(InputError, match=r"depth.exr: depth must be above 0; got -65504"):
        load_pair(find_pairs(tmp_path, layout="blb")[0])
    (tmp_path / "277" / "depth.exr").unlink()
    with pytest.raises(InputError, match="277 has info.json, but no depth beside it"):
        find_pairs(tmp_path, layout="blb")
    (tmp_path / "277" / "info.json").write_text("{")
    with pytest.raises(InputError, match=r"info.json cannot be read as JSON"):
        find_pairs(tmp_path, layout="blb")


def test_pairs_that_are_not_complete_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder: .*nowhere"):
        find_pairs(tmp_path / "nowhere", layout="ebb")
    with pytest.raises(InputError, match=r"is not in the layout 'ebb': expected original/ and bokeh/ in .*train"):
        find_pairs(tmp_path, layout="ebb")
    with pytest.raises(InputError, match=r"is not in the layout 'realbokeh': expected .*metadata/\*.json"):
        find_pairs(tmp_path, layout="realbokeh")
    twins(tmp_path, "a", "b", ["x", "y"])
    (tmp_path / "b" / "y.jpg").unlink()
    with pytest.raises(InputError, match=r"no target in .*b for 1 of 2 photographs: y"):
        find_pairs(tmp_path, layout="folders")
    photo(tmp_path / "b" / "y.jpg", size_hw=(20, 32))
    with pytest.raises(InputError, match=r"y.jpg has 32 x 20 pixels, .*y.png has 32 x 24: a pair needs the same size"):
        load_pair(find_pairs(tmp_path, layout="folders")[1])
    twins(tmp_path / "e", "original", "bokeh", ["5"])
    with pytest.raises(InputError, match="holds no pair of the split 'val' in the layout 'ebb'"):
        find_pairs(tmp_path / "e", layout="ebb", split="val")


def fields(sample):
    return [value for value in vars(sample).values() if isinstance(value, torch.Tensor)]


def noisy_twins(root, n):
    for folder in ("a", "b"):
        (root / folder).mkdir(parents=True)
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        for folder in ("a", "b"):
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root


def test_crops_are_a_function_of_seed_and_number_and_cut_alike(tmp_path):
    root = noisy_twins(tmp_path / "set", 5)
    dataset = PairedDataset(root, layout="folders", seed=3, resolution_px=8)
    again = PairedDataset(root, layout="folders", seed=3, resolution_px=8)
    seen = set()
    for n in range(10):
        sample = dataset[n]
        assert sample.image_srgb.shape == (3, 8, 8)
        assert torch.equal(sample.image_srgb, sample.target_srgb)
        assert all(torch.equal(a, b) for a, b in zip(fields(sample), fields(again[n]), strict=True))
        seen.add(float(sample.image_srgb.sum()))
    assert len(seen) == 10
    assert len(dataset) == 2**40
    whole = PairedDataset(root, layout="folders")
    assert len(whole) == len(list(whole)) == 5
    with pytest.raises(IndexError, match="sample 5 of 5"):
        whole[5]


def test_a_pair_that_cannot_be_used_is_passed_over(tmp_path):
    root = noisy_twins(tmp_path / "set", 12)
    (root / "b" / "4.png").write_bytes(b"broken")
    dataset = PairedDataset(root, layout="folders", resolution_px=8)
    for n in range(12):
        dataset[n]
    assert len(dataset.usable.problems) == 1
    with pytest.raises(InputError, match=r"files cannot be used.*has 30 x 20 pixels: too small for a crop of 21 px"):
        [PairedDataset(root, layout="folders", resolution_px=21)[n] for n in range(12)]


class Flat:
    """Samples of one value."""

    def __init__(self, value, length=2**40):
        self.value, self.length = value, length

    def __len__(self):
        return self.length

    def __getitem__(self, n):
        flat = torch.full((8, 8), self.value)
        return TrainSample(flat.expand(3, 8, 8), flat.expand(3, 8, 8), flat, flat, 0.5, 1.0, n)


def test_a_mixture_draws_by_weight_and_by_number():
    mixed = MixedDataset([Flat(0.1), Flat(0.2, length=5000)], [3.0, 1.0], seed=2)
    assert len(mixed) == 5000
    which = [mixed.which(n) for n in range(2000)]
    assert 0.22 < np.mean(which) < 0.28
    assert which == [MixedDataset(mixed.sources, [3.0, 1.0], seed=2).which(n) for n in range(2000)]
    assert float(mixed[7].image_srgb.mean()) == pytest.approx((0.1, 0.2)[which[7]])
    assert mixed[7].n == 7
    with pytest.raises(InputError, match=r"weights above 0; got 1 and \[0.0\]"):
        MixedDataset([Flat(0.1)], [0.0], seed=0)


def test_sources_are_named_in_one_line(tmp_path):
    one, other = parse_sources("ebb:/data/E@B@0.3, blb:C:/data")
    assert (one.layout, str(one.root), one.weight) == ("ebb", "/data/E@B", 0.3)
    assert (other.layout, str(other.root), other.weight) == ("blb", "C:/data", 1.0)
    assert parse_sources("") == ()
    for wrong in ("ebb", "ebb:", "foo:/data", "ebb:/data@x", "ebb:/data@0"):
        with pytest.raises(InputError, match=f"a source is LAYOUT:FOLDER@WEIGHT .*got '{wrong}'"):
            parse_sources(wrong)


def test_pairs_without_a_lens_are_refused_where_it_is_needed(tmp_path):
    root = noisy_twins(tmp_path / "set", 3)
    specs = parse_sources(f"folders:{root}@2")
    composed = Flat(0.5)
    assert mix_in(composed, (), seed=0, resolution_px=8, needs_lens=True) is composed
    with pytest.raises(InputError, match=r"set: pairs in the layout 'folders' tell neither focus nor strength"):
        mix_in(composed, specs, seed=0, resolution_px=8, needs_lens=True)
    mixed = mix_in(composed, specs, seed=0, resolution_px=8, needs_lens=False)
    assert 0.5 < np.mean([mixed.which(n) for n in range(300)]) < 0.8
    batch = collate([mixed[n] for n in range(8)])
    assert batch.known_coc_px is None
    lacks = {"coc_px": "circle of confusion", "disparity": "disparity", "focus_disparity": "focus"}
    for name, what in (lacks | {"strength_px": "strength"}).items():
        with pytest.raises(InputError, match=rf"samples \[0, 1, .* do not know their {what}, which is needed here: "):
            getattr(batch, name)
    assert collate([composed[0]]).f_number is None
    assert collate([composed[0]]).strength_px.tolist() == [1.0]
