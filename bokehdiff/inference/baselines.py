"""PyNET and the Double V-Net on photographs of any size."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.models import (
    BaselineName,
    BaselineSpec,
    LoadedBaseline,
    defocus_guide,
    load_baseline,
    whole_picture,
)
from bokehdiff.optics import Lens, normalise_disparity


class BaselineRenderer:
    """A trained baseline: `renderer(image_srgb, disparity=..., lens=...)`, of which it takes what it was trained with.

    Args:
        loaded: From `models.load_baseline`.
        device: Where to compute.
    """

    def __init__(self, loaded: LoadedBaseline, *, device: torch.device | str = "cpu") -> None:
        self.network = loaded.network.to(device)
        self.spec: BaselineSpec = loaded.spec
        self.about = loaded.about
        self.device = torch.device(device)

    @classmethod
    def from_weights(
        cls, source: str | Path, *, model: BaselineName | None = None, device: torch.device | str = "cpu"
    ) -> BaselineRenderer:
        """Read a network; see `models.load_baseline`.

        Args:
            source: Folder or file that training wrote, or an .npz of TensorFlow's arrays.
            model: Which network is expected; an .npz needs it.
            device: Where to compute.
        """
        return cls(load_baseline(source, model=model), device=device)

    @torch.no_grad()
    def __call__(
        self,
        image_srgb: Float[Tensor, "b 3 h w"],
        *,
        disparity: Float[Tensor, "b h w"] | None = None,
        lens: Lens | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Pictures of the photographs' size, display values in [0, 1].

        Args:
            image_srgb: Sharp display images in [0, 1], of any size.
            disparity: For PyNET; what reaches beyond [0, 1] is stretched to it, where no lens refers to it.
            lens: For PyNET with --guide coc, in the units of the disparity and at the size of the photographs.
        """
        guide = self._guide(disparity, lens)
        told = None if guide is None else guide.to(self.device)
        return whole_picture(self.network, self.spec, image_srgb.to(self.device), told)

    def _guide(self, disparity: Tensor | None, lens: Lens | None) -> Float[Tensor, "b h w"] | None:
        if not self.spec.needs_disparity:
            return None
        if disparity is None:
            raise InputError("this PyNET was trained with disparity: give it one")
        if not self.spec.needs_lens:
            within = float(disparity.min()) >= 0 and float(disparity.max()) <= 1
            return disparity if within else normalise_disparity(disparity)
        if lens is None:
            raise InputError("this PyNET was trained to know the lens (--guide coc): give it one")
        return defocus_guide(lens.coc_px(disparity))
