"""The diffusion renderer for the app: loaded once, one picture at a time, ended between two of its modules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.inference import BokehDiffPipeline, RenderSettings
from bokehdiff.optics import Lens
from bokehdiff.renderers import Step

# Shares of the time at which the parts begin, roughly: what a bar needs.
BEGINNINGS = {"encoder": 5, "unet": 30, "decoder": 70}
WHOLE = 100


class Networks:
    """BokehDiff's pipeline, loaded once for all.

    Args:
        base: SDXL base, as `BokehDiffPipeline.from_pretrained` takes it.
        adapter: Adapter; None for the base as it is.
        device: Where it runs.
        dtype: Of the UNet.
    """

    def __init__(
        self, base: str, *, adapter: str | None, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.base = base
        self.adapter = adapter
        self._pipeline = BokehDiffPipeline.from_pretrained(base, adapter=adapter, device=device, dtype=dtype)
        self._one_at_a_time = threading.Lock()

    @property
    def name(self) -> str:
        """Base and adapter, by the last of their names."""
        return Path(self.base).name + (f" with {Path(self.adapter).name}" if self.adapter else ", no adapter")

    def render(
        self,
        image_srgb: Float[Tensor, "1 3 h w"],
        disparity: Float[Tensor, "1 h w"],
        lens: Lens,
        *,
        renderer: str,
        step: Step,
    ) -> Float[Tensor, "1 3 h w"]:
        """One picture.

        Args:
            image_srgb: The photograph.
            disparity: In [0, 1].
            lens: At the size of the photograph; the network knows focus and strength, hybrid physics the opening too.
            renderer: "neural" or "hybrid".
            step: Told how far it is, in hundredths; what it raises ends the rendering.
        """
        with self._one_at_a_time:
            step(0, WHOLE)
            with _stepping(self._pipeline, step):
                settings = RenderSettings(renderer="hybrid" if renderer == "hybrid" else "neural")
                result = next(iter(self._pipeline.render_lenses(image_srgb, disparity, [lens], settings)))
        return result.images_srgb.cpu()


@contextmanager
def _stepping(pipeline: BokehDiffPipeline, step: Step) -> Iterator[None]:
    """Within this block, `step` is called before every module of the networks."""
    generator = pipeline.generator
    parts = {"encoder": generator.vae.encoder, "unet": generator.unet, "decoder": generator.vae.decoder}
    handles = []
    for name, part in parts.items():

        def tell(_module: Any, _inputs: Any, done: int = BEGINNINGS[name]) -> None:
            step(done, WHOLE)

        handles += [module.register_forward_pre_hook(tell) for module in part.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
