from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from bokehdiff.data import find_scenes, load_scene
from bokehdiff.errors import InputError
from bokehdiff.images import save_disparity, save_image
from bokehdiff.optics import focus_from_mask
from tests.helpers import REPOSITORY, assert_close


def ramp(height, width):
    return torch.linspace(0, 1, height * width).reshape(1, height, width)


def put(root, name="a", *, size_hw=(6, 9), depth=None, mask=None, image_dirname="input"):
    for folder in (image_dirname, "depth", "mask"):
        (root / folder).mkdir(exist_ok=True)
    save_image(root / image_dirname / f"{name}.png", torch.rand(1, 3, *size_hw))
    save_disparity(root / "depth" / f"{name}_pred.npy", ramp(*size_hw) if depth is None else depth)
    if mask is not None:
        save_image(root / "mask" / f"{name}.png", mask.expand(1, 3, -1, -1))
    return root


def test_the_scenes_that_come_along_are_complete():
    scenes = [load_scene(paths) for paths in find_scenes(REPOSITORY / "test_data")]
    assert [scene.name for scene in scenes] == ["hair", "leaves", "motorcycle"]
    for scene in scenes:
        assert scene.disparity.shape == scene.mask.shape == scene.image_srgb.shape[:1] + scene.image_srgb.shape[2:]
        assert scene.disparity.min() >= 0
        assert scene.disparity.max() <= 1
        subject = float(focus_from_mask(scene.disparity, scene.mask))
        assert subject > float(scene.disparity[scene.mask < 0.1].median()), "the subject is nearer than the rest"
    size = sum(path.stat().st_size for path in (REPOSITORY / "test_data").rglob("*") if path.is_file())
    assert size < 1.5e6


@pytest.mark.parametrize("size_hw", [(1, 1), (6, 9), (3, 2)])
def test_a_scene_is_read_whole(tmp_path, size_hw):
    put(tmp_path, size_hw=size_hw, mask=torch.ones(1, 1, *size_hw))
    for where in (tmp_path, tmp_path / "input", str(tmp_path / "input" / "*"), tmp_path / "input" / "a.png"):
        (paths,) = find_scenes(where)
        scene = load_scene(paths)
        assert scene.name == "a"
        assert scene.path == tmp_path / "input" / "a.png"
        assert scene.image_srgb.shape == (1, 3, *size_hw)
        assert_close(scene.mask, torch.ones(1, *size_hw))
        assert scene.disparity.shape == (1, *size_hw)


def test_photographs_may_lie_in_any_folder_with_the_maps_beside_it(tmp_path):
    put(tmp_path, image_dirname="holiday")
    (tmp_path / "depth").rename(tmp_path / "near")
    (paths,) = find_scenes(tmp_path / "holiday", depth_dirname="near")
    assert paths.disparity == tmp_path.resolve() / "near" / "a_pred.npy"
    assert paths.mask is None


def test_folders_within_the_photographs_folder_have_their_maps_as_deep(tmp_path):
    put(tmp_path)
    for folder in ("input", "depth", "mask"):
        (tmp_path / folder / "summer" / "beach").mkdir(parents=True)
    save_image(tmp_path / "input" / "summer" / "beach" / "b.png", torch.rand(1, 3, 6, 9))
    save_image(tmp_path / "mask" / "summer" / "beach" / "b.png", torch.rand(1, 1, 6, 9).expand(1, 3, 6, 9))
    save_disparity(tmp_path / "depth" / "summer" / "beach" / "b_pred.npy", ramp(6, 9))
    paths = find_scenes(str(tmp_path / "input" / "**" / "*"))
    assert [each.disparity.relative_to(tmp_path.resolve()).as_posix() for each in paths] == [
        "depth/a_pred.npy", "depth/summer/beach/b_pred.npy",
    ]  # fmt: skip
    assert [each.mask is not None for each in paths] == [False, True]
    assert load_scene(paths[1]).disparity.shape == (1, 6, 9)


def test_the_seeds_name_comes_first_then_the_most_exact_format(tmp_path):
    put(tmp_path)
    depth = tmp_path / "depth"
    save_disparity(depth / "a.png", ramp(6, 9))
    save_disparity(depth / "a.npy", ramp(6, 9))
    assert find_scenes(tmp_path)[0].disparity.name == "a_pred.npy"
    assert find_scenes(tmp_path, organization="pngdepth")[0].disparity.name == "a.png"
    (depth / "a_pred.npy").unlink()
    assert find_scenes(tmp_path)[0].disparity.name == "a.npy"
    (depth / "a.npy").unlink()
    assert find_scenes(tmp_path)[0].disparity.name == "a.png"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_maps_of_either_depth_serve(tmp_path, dtype):
    put(tmp_path)
    top = np.iinfo(dtype).max
    Image.fromarray((ramp(6, 9)[0].numpy() * top).round().astype(dtype)).save(tmp_path / "depth" / "a.png")
    scene = load_scene(find_scenes(tmp_path, organization="pngdepth")[0], normalise=False)
    torch.testing.assert_close(scene.disparity, ramp(6, 9), atol=0.51 / top, rtol=0)


def test_the_ebb_layout_takes_maps_cut_to_a_multiple_of_32(tmp_path, caplog):
    for folder in ("original", "original_depth"):
        (tmp_path / folder).mkdir()
    save_image(tmp_path / "original" / "10.jpg", torch.rand(1, 3, 128, 200))
    save_disparity(tmp_path / "original_depth" / "10.png", ramp(64, 96))
    (paths,) = find_scenes(tmp_path, organization="EBB")
    with caplog.at_level(logging.INFO):
        assert load_scene(paths).disparity.shape == (1, 128, 200)
    assert "resized from 96 x 64 to 200 x 128" in caplog.text


def test_disparity_is_normalised_unless_it_is_wanted_as_it_is(tmp_path):
    put(tmp_path, depth=0.2 + 0.1 * ramp(6, 9))
    (paths,) = find_scenes(tmp_path)
    assert (load_scene(paths).disparity.min(), load_scene(paths).disparity.max()) == (0, 1)
    assert_close(load_scene(paths, normalise=False).disparity, 0.2 + 0.1 * ramp(6, 9))
    inverted = load_scene(paths, invert_disparity=True)
    assert inverted.disparity[0, 0, 0] == 1
    put(tmp_path, depth=30.0 * ramp(6, 9))
    assert load_scene(paths).disparity.max() == 1
    with pytest.raises(InputError, match=r"a_pred.npy: disparity must be in \[0, 1\].*got 0 to 30"):
        load_scene(paths, normalise=False)


def test_constant_disparity_serves(tmp_path):
    put(tmp_path, depth=torch.full((1, 6, 9), 0.7))
    assert_close(load_scene(find_scenes(tmp_path)[0]).disparity, torch.zeros(1, 6, 9))


def test_disparity_that_is_not_finite_is_refused_by_name(tmp_path):
    put(tmp_path)
    np.save(tmp_path / "depth" / "a_pred.npy", np.full((6, 9), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="a_pred.npy.*NaN"):
        load_scene(find_scenes(tmp_path)[0])


def test_maps_of_another_size_are_resized_with_a_line_or_refused(tmp_path, caplog):
    put(tmp_path, size_hw=(31, 47), depth=ramp(62, 95))
    (paths,) = find_scenes(tmp_path)
    with caplog.at_level(logging.INFO):
        assert load_scene(paths).disparity.shape == (1, 31, 47)
    assert "a_pred.npy: resized from 95 x 62 to 47 x 31" in caplog.text
    put(tmp_path, size_hw=(31, 47), depth=ramp(31, 31))
    with pytest.raises(
        InputError, match=r"a_pred.npy has 31 x 31 pixels, .*a\.png has 47 x 31: expected the same size"
    ):
        load_scene(paths)
    put(tmp_path, size_hw=(31, 47), mask=torch.ones(1, 1, 47, 31))
    with pytest.raises(InputError, match=r"mask/a\.png has 31 x 47 pixels"):
        load_scene(find_scenes(tmp_path)[0])


def test_a_mask_of_nothing_is_no_mask_and_says_so(tmp_path, caplog):
    put(tmp_path, mask=torch.full((1, 1, 6, 9), 0.3))
    with caplog.at_level(logging.INFO):
        assert load_scene(find_scenes(tmp_path)[0]).mask is None
    assert "a.png marks no subject" in caplog.text


def test_missing_parts_are_named(tmp_path):
    put(tmp_path)
    put(tmp_path, "b")
    (tmp_path / "depth" / "b_pred.npy").unlink()
    with pytest.raises(InputError, match=r"no disparity for 1 of 2 photographs: .*b\.png \(looked for .*b_pred\.npy\)"):
        find_scenes(tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        find_scenes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        find_scenes(tmp_path / "empty")


def test_photographs_of_one_name_are_refused(tmp_path):
    put(tmp_path)
    save_image(tmp_path / "input" / "a.jpg", torch.rand(1, 3, 6, 9))
    with pytest.raises(InputError, match=r"photographs must differ in name.*a\.jpg, .*a\.png"):
        find_scenes(tmp_path)
    with pytest.raises(InputError, match="organization must be one of folder, pngdepth, EBB; got 'csv'"):
        find_scenes(tmp_path, organization="csv")
