from __future__ import annotations

import math

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.metrics import psnr, ssim
from tests.helpers import assert_close


def test_psnr_is_minus_ten_log_of_the_mean_square():
    reference = torch.rand(2, 3, 5, 7) * 0.5
    image = reference.clone()
    image[0] += 0.1
    assert_close(psnr(image, reference), torch.tensor([20.0, math.inf]))
    assert_close(psnr(reference[:, :, :1, :1], reference[:, :, :1, :1] + 1.0), torch.zeros(2))


def test_ssim_is_scikit_images():
    from skimage.metrics import structural_similarity

    image, reference = torch.rand(2, 3, 23, 31), torch.rand(2, 3, 23, 31)
    reference[1] = 0.8 * image[1] + 0.1
    expected = [
        structural_similarity(
            a.numpy(),
            b.numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(image, reference, strict=True)
    ]
    assert_close(ssim(image, reference), torch.tensor(expected))


def test_ssim_of_equals_is_one_at_any_size():
    for size_hw in ((11, 11), (11, 40), (300, 520)):
        image = torch.rand(1, 3, *size_hw)
        assert_close(ssim(image, image), torch.ones(1))


def test_metrics_refuse_what_they_cannot_compare():
    image = torch.rand(1, 3, 12, 12)
    with pytest.raises(InputError, match=r"one shape; got \[1, 3, 12, 12\] and \[1, 3, 12, 11\]"):
        psnr(image, image[..., :11])
    with pytest.raises(InputError, match="one shape"):
        ssim(image, image[:, :2])
    with pytest.raises(InputError, match="at least 11 px on each side; got 12 x 10"):
        ssim(image[..., :10], image[..., :10])
