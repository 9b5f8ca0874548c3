from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.evaluation import judged, panel
from bokehdiff.metrics import ms_ssim
from tests.helpers import assert_close

CPU = torch.device("cpu")


def pictures(size_px=176):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=generator), size=(size_px, size_px))
    return smooth, (smooth + 0.1 * torch.rand(1, 3, size_px, size_px, generator=generator)).clamp(0, 1)


def slow_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Five scales by Wang et al. 2003: contrast and structure at each, brightness at the last; one channel."""
    from scipy.signal import convolve2d

    offsets = np.arange(11) - 5
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    kernel = np.outer(window, window) / window.sum() ** 2
    value = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            pooled = [image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2] for image in (x, y)]
            x, y = (image.reshape(len(image) // 2, 2, -1, 2).mean(axis=(1, 3)) for image in pooled)
        mean_x, mean_y = (convolve2d(image, kernel, mode="valid") for image in (x, y))
        var_x, var_y, cov = (
            convolve2d(a * b, kernel, mode="valid") - m * n
            for a, b, m, n in ((x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y))
        )
        structure = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
        if scale == 4:
            structure = structure * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        value *= max(structure.mean(), 0.0) ** weight
    return value


def test_ms_ssim_is_its_definition():
    image, reference = pictures()
    slow = [slow_ms_ssim(image[0, c].double().numpy(), reference[0, c].double().numpy()) for c in range(3)]
    assert_close(ms_ssim(image, reference), torch.tensor([np.mean(slow)]))
    assert_close(ms_ssim(image, image), torch.ones(1))


def test_ms_ssim_refuses_small_pictures():
    with pytest.raises(InputError, match="at least 161 px on each side; got 160 x 200"):
        ms_ssim(torch.zeros(1, 3, 160, 200), torch.zeros(1, 3, 160, 200))


def test_a_panel_says_whose_weights_are_missing(tmp_path):
    made = panel(["psnr", "lpips_alex", "dists"], device=CPU, hub_dir=tmp_path)
    assert [judge.name for judge in made.judges] == ["psnr"]
    assert "alexnet-owt-7be5be79.pth: download https://download.pytorch.org" in made.absent["lpips_alex"]
    assert "vgg16-397923af.pth" in made.absent["dists"]


def test_a_panel_refuses_unknown_names():
    with pytest.raises(InputError, match="must be of psnr, ssim, ms_ssim.*; got fid"):
        panel(["psnr", "fid"], device=CPU)


def test_what_cannot_be_told_of_a_small_picture_is_no_number():
    image, reference = pictures(size_px=36)
    numbers = judged(panel(["psnr", "ms_ssim"], device=CPU), image, reference)
    assert math.isnan(numbers["ms_ssim"])
    assert 15 < numbers["psnr"] < 35


def write_random_trunk(hub_dir, name, file):
    """A network of torchvision's with weights that have learned nothing, where LPIPS looks for the real one."""
    import torchvision

    torch.manual_seed(0)
    (hub_dir / "checkpoints").mkdir(exist_ok=True)
    torch.save(getattr(torchvision.models, name)(weights=None).state_dict(), hub_dir / "checkpoints" / file)


def test_lpips_reads_its_weights_from_a_folder_and_leaves_torchs_own_alone(tmp_path):
    write_random_trunk(tmp_path, "alexnet", "alexnet-owt-7be5be79.pth")
    before = torch.hub.get_dir()
    made = panel(["lpips_alex"], device=CPU, hub_dir=tmp_path)
    assert torch.hub.get_dir() == before
    image, reference = pictures(size_px=64)
    assert judged(made, image, image)["lpips_alex"] == 0.0
    assert judged(made, image, reference)["lpips_alex"] > 0.0


def test_a_damaged_weight_file_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"not weights")
    with pytest.raises(BokehDiffError, match="lpips_alex: its weights in .*checkpoints cannot be used"):
        panel(["lpips_alex"], device=CPU, hub_dir=tmp_path)
