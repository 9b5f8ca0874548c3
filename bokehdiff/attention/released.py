"""Occlusion as the published code computes it, index slip and all: what the published weights were trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bokehdiff.attention.visibility import resized, to_tokens, token_centres
from bokehdiff.errors import InputError

RELEASED_STEPS = 7  # the published inference; its training takes 5
RELEASED_CELLS_PER_TOKEN = 3
RELEASED_FIRST, RELEASED_LAST = 0.1, 0.9  # where the published ray samples begin and end
RELEASED_SMALLEST = 1e-6  # keeps 1 - disparity above 0; farther off the grid than any lookup, as infinity was
RAYS_PER_CHUNK = 2**16  # bounds memory to some 2 MB; does not change the result


@dataclass(frozen=True, eq=False)
class ReleasedOcclusion:
    """Occlusion as the published code computes it, index slip and all; see `between`.

    Args:
        token_disparity: d of each token, in [0, 1].
        scene: Disparity at three cells per token.
        grid_hw: Tokens down and across.
        n_steps: Looks along a ray: 7 in the published inference, 5 in its training.
        jitter: Shift of each copy and receiver (x, y), in image coordinates [-1, 1]; the first copy is exact.
    """

    token_disparity: Float[Tensor, "b n"]
    scene: Float[Tensor, "b sh sw"]
    grid_hw: tuple[int, int]
    n_steps: int
    jitter: Float[Tensor, "copies n 2"]

    def between(
        self, image: Int[Tensor, " e"], source: Int[Tensor, " e"], receiver: Int[Tensor, " e"]
    ) -> Float[Tensor, " e"]:
        """Share of the jittered copies in which nothing blocks the way from source k to receiver q.

        Concretely, with p from 0.1 to 0.9 and d_p[i] = p d_i + 1 - p: blocked if scene(x_q + rho (x_k - x_q)) > d_p[k]
        at some p, where rho = (1 - d_p[q]) d_k / (d_p[q] (1 - d_k)). That d_p belongs to the receiver in rho and to the
        source in the comparison is the slip that the published weights were trained with.

        Args:
            image: Of each pair.
            source: k.
            receiver: q.
        """
        share = torch.empty(len(image), device=image.device)
        for each in range(len(self.scene)):
            for part in (image == each).nonzero().flatten().split(RAYS_PER_CHUNK):
                share[part] = self._clear(each, source[part], receiver[part])
        return share

    def _clear(self, image: int, source: Tensor, receiver: Tensor) -> Tensor:
        """The formula for pairs of one image."""
        unit_pitch = (2.0 / self.grid_hw[0], 2.0 / self.grid_hw[1])
        centres = token_centres(self.grid_hw, unit_pitch, device=self.scene.device) - 1.0  # in [-1, 1]
        d = self.token_disparity[image]
        d_q, d_k, toward_source = d[receiver], d[source], centres[source] - centres[receiver]
        n_clear = torch.zeros_like(d_k)
        for shift in self.jitter:
            here = (centres + shift)[receiver]
            clear = torch.ones_like(d_k, dtype=torch.bool)
            for p in torch.linspace(RELEASED_FIRST, RELEASED_LAST, self.n_steps, device=d.device):
                dp_q, dp_k = p * d_q + (1.0 - p), p * d_k + (1.0 - p)
                rho = (1.0 - dp_q) * d_k / (dp_q * (1.0 - d_k).clamp_min(RELEASED_SMALLEST))
                met = F.grid_sample(
                    self.scene[image, None, None],
                    (here + rho[:, None] * toward_source)[None, None],
                    mode="bilinear",
                    padding_mode="zeros",
                    align_corners=False,
                )
                clear &= met.flatten() <= dp_k
            n_clear += clear
        return n_clear / len(self.jitter)

    def to(self, device: torch.device | str) -> ReleasedOcclusion:
        """The same on another device."""
        return replace(
            self,
            token_disparity=self.token_disparity.to(device),
            scene=self.scene.to(device),
            jitter=self.jitter.to(device),
        )


def released_occlusion(
    disparity: Float[Tensor, "b h w"],
    grid_hw: tuple[int, int],
    *,
    n_steps: int = RELEASED_STEPS,
    n_jittered: int = 0,
    jitter_seed: int = 0,
) -> ReleasedOcclusion:
    """Prepare the published occlusion of a disparity map.

    Args:
        disparity: In [0, 1], 1 nearest.
        grid_hw: Tokens down and across.
        n_steps: Looks along a ray.
        n_jittered: Copies averaged with the exact one, each receiver shifted by up to half a token; the published code
            takes 3 or 4, unseeded. 0 makes the result exact.
        jitter_seed: What the shifts are drawn from.
    """
    if float(disparity.min()) < 0 or float(disparity.max()) > 1:
        raise InputError(
            "the released convention needs disparity in [0, 1]; "
            f"got {float(disparity.min()):g} ... {float(disparity.max()):g}: normalise it first"
        )
    rows, columns = grid_hw
    uniform = torch.rand(n_jittered, rows * columns, 2, generator=torch.Generator().manual_seed(jitter_seed))
    shifts = (uniform - 0.5) * torch.tensor([2.0 / columns, 2.0 / rows])
    return ReleasedOcclusion(
        token_disparity=to_tokens(disparity, grid_hw),
        scene=resized(disparity, (RELEASED_CELLS_PER_TOKEN * rows, RELEASED_CELLS_PER_TOKEN * columns)),
        grid_hw=grid_hw,
        n_steps=n_steps,
        jitter=torch.cat([torch.zeros(1, rows * columns, 2), shifts]).to(disparity.device),
    )
