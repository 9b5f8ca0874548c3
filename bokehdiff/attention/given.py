"""Visibility that is known for every pair of tokens: of another tracer, or learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention.blocks import BlockPairs, VisibilityTiles


@dataclass(frozen=True, eq=False)
class GivenVisibility:
    """An `Occlusion` that is looked up, and that gradients reach by the back ends `reference` and `local`.

    Args:
        of_pairs: Share of the light from source (last) to receiver that nothing blocks, in [0, 1].
    """

    of_pairs: Float[Tensor, "b n n"]

    def visibility(self, sources: slice = slice(None)) -> Float[Tensor, "b n s"]:
        """Of some sources, to every receiver.

        Args:
            sources: Which.
        """
        return self.of_pairs[:, :, sources]

    def tiles(self, pairs: BlockPairs, dtype: torch.dtype = torch.float32) -> VisibilityTiles:
        """The same numbers, only for pairs of blocks that light can cross.

        Args:
            pairs: Which.
            dtype: What visibility is stored in, unless it is given in a finer one.
        """
        n_blocks = pairs.blocks.n_blocks
        token = pairs.blocks.order.clamp_min(0).reshape(n_blocks, -1)
        source, receiver = token[pairs.source % n_blocks], token[pairs.receiver % n_blocks]
        image = torch.div(pairs.source, n_blocks, rounding_mode="floor")[:, None, None]
        tiles = self.of_pairs[image, receiver[:, None, :], source[:, :, None]]
        chosen = torch.arange(pairs.n_pairs, device=tiles.device)
        return VisibilityTiles.compressed(pairs, chosen, tiles, torch.promote_types(dtype, tiles.dtype))

    def to(self, device: torch.device | str) -> GivenVisibility:
        """The same on another device."""
        return GivenVisibility(self.of_pairs.to(device))
