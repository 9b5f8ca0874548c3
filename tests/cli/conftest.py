from __future__ import annotations

import numpy as np
import pytest
import torch

from bokehdiff import images


@pytest.fixture
def scene(tmp_path):
    """Two photographs of a bright square before stripes, and their disparity (0.75 before 0.25)."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "depth").mkdir()
    disparity = np.full((33, 47), 0.25, np.float32)
    disparity[10:22, 12:30] = 0.75
    image = (torch.arange(47) % 8 < 4).float().expand(1, 3, 33, 47).clone()
    image[..., 10:22, 12:30] = 0.9
    for name in ("a", "b"):
        images.save_image(tmp_path / "photos" / f"{name}.png", image)
        np.save(tmp_path / "depth" / f"{name}_pred.npy", disparity)
    return tmp_path
