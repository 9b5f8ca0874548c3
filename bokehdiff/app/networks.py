"""The diffusion renderer for the app: loaded once, one picture at a time, and its end at any time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bokehdiff.inference import BokehDiffPipeline, RenderSettings
from bokehdiff.optics import Lens
from bokehdiff.renderers import Step

# Where the parts begin, in hundredths of the time that the small network in the clone takes for a megapixel.
BEGINNINGS = {
    "neural": {"encoder": 0, "unet": 15, "decoder": 72, "end": 100},
    "hybrid": {"encoder": 0, "unet": 10, "decoder": 47, "physics": 66, "made up": 83, "end": 100},
}
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
            step: Told how far it is, in hundredths; what it raises ends the rendering, between any two operations.
        """
        settings = RenderSettings(renderer="hybrid" if renderer == "hybrid" else "neural")
        progress = _Progress(BEGINNINGS[settings.renderer], step)
        with self._one_at_a_time:
            progress.tell("encoder", 0, 1)
            with _told_of_modules(self._pipeline, progress), _Interruptible(progress):
                rendered = self._pipeline.render_lenses(
                    image_srgb, disparity, [lens], settings,
                    step=lambda n_done, n_all: progress.tell("physics", n_done + 1, n_all),
                )  # fmt: skip
                result = next(iter(rendered))
        return result.images_srgb.cpu()


class _Progress:
    """How far a rendering is; never goes back.

    Args:
        beginnings: Of its parts, in hundredths, in their order; where each ends the next begins.
        step: Is told.
    """

    def __init__(self, beginnings: dict[str, int], step: Step) -> None:
        self._spans = dict(zip(beginnings, pairwise(beginnings.values()), strict=False))
        self._step = step
        self._done = 0

    def tell(self, part: str, n_done: int, n_all: int) -> None:
        """A part has come so far."""
        first, last = self._spans[part]
        self._done = max(self._done, first + (last - first) * n_done // n_all)
        self.again()

    def again(self) -> None:
        """Nothing new; raises where `step` does."""
        self._step(self._done, WHOLE)


class _Interruptible(TorchFunctionMode):
    """Within this block progress is told at every call of torch on this thread, and so can end the work there.

    One module of a network may work for minutes: attention does over a photograph of some megapixels.

    Args:
        progress: Is told.
    """

    def __init__(self, progress: _Progress) -> None:
        super().__init__()
        self._progress = progress

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ != "__get__":  # a tensor was asked for its shape or the like, maybe by a type checker
            self._progress.again()
        return func(*args, **(kwargs or {}))


@contextmanager
def _told_of_modules(pipeline: BokehDiffPipeline, progress: _Progress) -> Iterator[None]:
    """Within this block, progress is told before every module of the networks."""
    generator = pipeline.generator
    parts = {"encoder": generator.vae.encoder, "unet": generator.unet, "decoder": generator.vae.decoder}
    handles = []
    for name, part in parts.items():
        modules = list(part.modules())
        begun: set[int] = set()

        def tell(module: Any, _: Any, part: str = name, begun: set[int] = begun, n: int = len(modules)) -> None:
            begun.add(id(module))
            progress.tell(part, len(begun), n)

        handles += [module.register_forward_pre_hook(tell) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
