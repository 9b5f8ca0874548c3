"""Occlusion as the published code computes it, index slip and all: what the published weights were trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention.blocks import BlockPairs, VisibilityTiles
from bokehdiff.attention.visibility import resized, to_tokens, token_centres
from bokehdiff.errors import InputError

RELEASED_STEPS = 7  # the published inference; its training takes 5
RELEASED_CELLS_PER_TOKEN = 3
RELEASED_FIRST, RELEASED_LAST = 0.1, 0.9  # where the published ray samples begin and end
RELEASED_SMALLEST = 1e-6  # keeps 1 - disparity above 0; farther off the grid than any lookup, as infinity was
RAYS_PER_CHUNK = 2**20  # bounds memory to some 20 MB; does not change the result


@dataclass(frozen=True, eq=False)
class ReleasedOcclusion:
    """Occlusion as the published code computes it, index slip and all; see `visibility`.

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

    def visibility(self, sources: slice = slice(None)) -> Float[Tensor, "b n s"]:
        """Share of the jittered copies in which nothing blocks the way from source k to receiver q.

        Concretely, with p from 0.1 to 0.9 and d_p[i] = p d_i + 1 - p: blocked if scene(x_q + rho (x_k - x_q)) > d_p[k]
        at some p, where rho = (1 - d_p[q]) d_k / (d_p[q] (1 - d_k)). That d_p belongs to the receiver in rho and to the
        source in the comparison is the slip that the published weights were trained with.

        Args:
            sources: Which sources k; all by default.
        """
        centres = self._centres()
        every = torch.arange(len(centres), device=centres.device)
        shares = [self._clear(image, every[:, None], every[None, sources], centres) for image in range(len(self.scene))]
        return torch.stack(shares)

    def tiles(self, pairs: BlockPairs, dtype: torch.dtype = torch.float32) -> VisibilityTiles:
        """The same numbers, only for pairs of blocks that light can cross.

        Args:
            pairs: Which.
            dtype: What visibility is stored in.
        """
        blocks, centres = pairs.blocks, self._centres()
        token = blocks.order.clamp_min(0).long().reshape(blocks.n_blocks, blocks.tokens_per_block)
        found, chosen = [], []
        for image in range(len(self.scene)):
            start, stop = pairs.source_starts[[image * blocks.n_blocks, (image + 1) * blocks.n_blocks]].tolist()
            some = max(1, RAYS_PER_CHUNK // blocks.tokens_per_block**2)
            for first in range(start, stop, some):
                part = slice(first, min(first + some, stop))
                source = token[pairs.source[part] % blocks.n_blocks]
                receiver = token[pairs.receiver[part] % blocks.n_blocks]
                share = self._clear(image, receiver[:, None, :], source[:, :, None], centres)
                blocked = (share < 1).flatten(1).any(dim=1).nonzero().flatten()
                found.append(share[blocked])
                chosen.append(blocked + first)
        return VisibilityTiles.compressed(pairs, torch.cat(chosen), torch.cat(found), dtype)

    def _centres(self) -> Float[Tensor, "n 2"]:
        """Of the tokens, in image coordinates [-1, 1]."""
        unit_pitch = (2.0 / self.grid_hw[0], 2.0 / self.grid_hw[1])
        return token_centres(self.grid_hw, unit_pitch, device=self.scene.device) - 1.0

    def _clear(self, image: int, receiver: Tensor, source: Tensor, centres: Tensor) -> Tensor:
        """The formula of `visibility` for tokens of an image that are broadcast against each other."""
        d_q, d_k = self.token_disparity[image, receiver], self.token_disparity[image, source]
        toward_source = centres[source] - centres[receiver]
        share = torch.zeros(toward_source.shape[:-1], device=centres.device)
        for shift in self.jitter:
            clear = torch.ones_like(share, dtype=torch.bool)
            for p in torch.linspace(RELEASED_FIRST, RELEASED_LAST, self.n_steps, device=centres.device):
                dp_q, dp_k = p * d_q + (1.0 - p), p * d_k + (1.0 - p)
                rho = (1.0 - dp_q) * d_k / (dp_q * (1.0 - d_k).clamp_min(RELEASED_SMALLEST))
                position = (centres + shift)[receiver] + rho[..., None] * toward_source
                met = F.grid_sample(
                    self.scene[image, None, None],
                    position.flatten(0, -3)[None],
                    mode="bilinear",
                    padding_mode="zeros",
                    align_corners=False,
                )
                clear &= met.reshape(share.shape) <= dp_k
            share += clear
        return share / len(self.jitter)

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
