"""PyNET's method: one level's picture against the target at that level's size, by plain regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.data import TrainBatch, turned
from bokehdiff.metrics import SSIM_WINDOW_PX, psnr, ssim
from bokehdiff.models import (
    BaselineSpec,
    PyNet,
    defocus_guide,
    network_picture,
    padded_for,
    shrunk,
    write_baseline,
)
from bokehdiff.pictures import colour_disparity
from bokehdiff.training.baselines.fidelity import Fidelity, fidelity_losses
from bokehdiff.training.checkpoint import Progress
from bokehdiff.training.network import Network
from bokehdiff.training.records import Tally
from bokehdiff.training.run import Judge

RESULT_FOLDER = "model"


@dataclass(frozen=True)
class PyramidMethod:
    """See `run.Method`.

    Args:
        pynet: PyNET; of its weights those train that the level depends on.
        spec: What it is built from, with the level.
        fidelity: What the level is asked for.
        resolution_px: Side of training's crops [px].
        turn_seed: Turn crops by quarters, as a function of this and their numbers; None leaves them.
    """

    pynet: Network[PyNet]
    spec: BaselineSpec
    fidelity: Fidelity
    resolution_px: int
    turn_seed: int | None = None

    @property
    def main(self) -> Network[PyNet]:
        """See `run.Method`."""
        return self.pynet

    @property
    def networks(self) -> dict[str, Network[PyNet]]:
        """See `run.Method`."""
        return {"pynet": self.pynet}

    @property
    def accumulated(self) -> list[nn.Module]:
        """See `run.Method`."""
        return [self.pynet.module]

    @property
    def judges(self) -> dict[str, Judge]:
        """PSNR [dB] and, where pictures are large enough for it, SSIM."""
        judges: dict[str, Judge] = {"psnr": psnr}
        return judges | ({"ssim": ssim} if self.resolution_px // self.spec.shrinks >= SSIM_WINDOW_PX else {})

    @property
    def result_name(self) -> str:
        """See `run.Method`."""
        return RESULT_FOLDER

    def step(self, batch: TrainBatch, progress: Progress, accelerator: Accelerator, tally: Tally) -> None:
        """See `run.Method`."""
        if self.turn_seed is not None:
            batch = turned(batch, seed=self.turn_seed)
        prediction_srgb = network_picture(self.pynet.module, self.spec, batch.image_srgb, _guide(batch, self.spec))
        losses = fidelity_losses(prediction_srgb.float(), shrunk(batch.target_srgb, self.spec.shrinks), self.fidelity)
        self.pynet.gradients.follow(accelerator, losses["loss"])
        told = {name: loss.detach() for name, loss in losses.items()}
        tally.add(batch, told, pynet=self.pynet.step(accelerator))

    def picture(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """At the level's size; see `run.Method`."""
        guide = _guide(batch, self.spec)
        told = None if guide is None else padded_for(self.spec, guide[:, None]).image[:, 0]
        image_srgb = padded_for(self.spec, batch.image_srgb).image
        whole = network_picture(self.pynet.bare, self.spec, image_srgb, told).float()
        return self._cropped(whole, batch).clamp(0.0, 1.0)

    def target(self, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        """At the level's size; see `run.Method`."""
        return self._at_level(batch.target_srgb, batch)

    def shown(self, batch: TrainBatch) -> dict[str, Float[Tensor, "b 3 h w"]]:
        """See `run.Method`."""
        columns = {"input": self._at_level(batch.image_srgb, batch)}
        guide = _guide(batch, self.spec)
        if guide is not None:
            columns[self.spec.guide] = self._at_level(colour_disparity(guide).to(batch.image_srgb), batch)
        return columns

    def handed_over(self) -> dict[str, Tensor]:
        """See `run.Method`."""
        return self.pynet.copied()

    def write(
        self,
        folder: Path,
        tensors: Mapping[str, Tensor],
        told: Mapping[str, str],
        scores: Mapping[str, float] | None,
        *,
        name: str,
    ) -> None:
        """See `run.Method`."""
        write_baseline(folder, tensors, self.spec, told)

    def _at_level(self, image_srgb: Tensor, batch: TrainBatch) -> Float[Tensor, "b 3 h w"]:
        return self._cropped(shrunk(padded_for(self.spec, image_srgb).image, self.spec.shrinks), batch)

    def _cropped(self, picture: Tensor, batch: TrainBatch) -> Tensor:
        """Without what was padded; the last pixel may be partly of it."""
        height, width = (-(-side // self.spec.shrinks) for side in batch.image_srgb.shape[-2:])
        return picture[..., :height, :width]


def _guide(batch: TrainBatch, spec: BaselineSpec) -> Float[Tensor, "b h w"] | None:
    """What a network is told of a batch beside the colours."""
    if spec.guide == "none":
        return None
    return batch.disparity if spec.guide == "disparity" else defocus_guide(batch.coc_px)
