"""What attention needs to know of a scene, token by token: computed once per image and grid, shared by layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.attention.blocks import (
    BLOCK_HW,
    LOGIT_RANGE,
    BlockPairs,
    TokenBlocks,
    block_pairs,
    reach,
)
from bokehdiff.attention.given import GivenVisibility
from bokehdiff.attention.released import RELEASED_STEPS, released_occlusion
from bokehdiff.attention.thin_lens import LensOcclusion
from bokehdiff.attention.tracing import lens_points_seen
from bokehdiff.attention.visibility import (
    UNIT_PX,
    Convention,
    Occlusion,
    to_tokens,
    token_distance,
    token_positions,
)
from bokehdiff.errors import InputError
from bokehdiff.optics import circle_of_confusion

SOURCES_PER_CHUNK = 256  # bounds the memory of dense visibility; does not change the result
EVERYWHERE = 1e5  # in units of 10 px, a circle of confusion larger than any image
COC_MISFIT = 0.1  # a coc map this far from strength * defocus is another quantity, such as an unsigned one
RELEASED_LEAST_VISIBLE = 0.01  # the published training clamps occlusion to 0.99 ...
RELEASED_CLAMP_BELOW = math.log(1e6)  # ... while the disc is softer than this


@dataclass(frozen=True, eq=False)
class DenseOptics:
    """Distance and visibility of pairs of tokens, receiver first.

    Args:
        distance: Of receiver q from source k, in units of 10 px.
        visibility: Share of k's light on its way to q that nothing blocks, in [0, 1].
    """

    distance: Float[Tensor, "n s"]
    visibility: Float[Tensor, "b n s"]


@dataclass(frozen=True, eq=False)
class TokenOptics:
    """Blur, distance and occlusion of the tokens of a batch of images; made by `from_maps`.

    Args:
        coc: Radius of the circle of confusion of each token, 0 or more, in units of 10 px.
        grid_hw: Tokens down and across.
        pitch_px: Height and width of a token [px].
        convention: Spacing of tokens and kind of occlusion.
        occlusion: What blocks light between tokens.
    """

    coc: Float[Tensor, "b n"]
    grid_hw: tuple[int, int]
    pitch_px: tuple[float, float]
    convention: Convention
    occlusion: Occlusion
    _derived: dict[str, tuple[tuple[Any, ...], Any]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_maps(
        cls,
        disparity: Float[Tensor, "b h w"],
        coc_px: Float[Tensor, "b mh mw"],
        grid_hw: tuple[int, int],
        *,
        focus_disparity: float | Float[Tensor, " b"],
        convention: Convention = "thin_lens",
        strength_px: float | Float[Tensor, " b"] | None = None,
        released_steps: int = RELEASED_STEPS,
        n_jittered: int = 0,
        jitter_seed: int = 0,
    ) -> TokenOptics:
        """Reduce maps at image size to tokens, and trace what blocks the light between them.

        Gradients reach `coc` from `coc_px`; occlusion is a matter of yes and no, and has none.

        Args:
            disparity: Of the scene, in [0, 1], 1 nearest.
            coc_px: Signed circle of confusion [px] of the same pixels, positive in front of focus.
            grid_hw: Tokens down and across; a token may have any height and width in pixels.
            focus_disparity: Disparity in focus: a number, or [b].
            convention: "thin_lens" is physical, "released" what the published weights were trained with.
            strength_px: Radius of the circle of confusion at one unit of defocus [px], by which rays run in
                `thin_lens`; None to find it from `coc_px`, which must then be proportional to the defocus.
            released_steps: Looks along a ray in `released`: 7 in its inference, 5 in its training.
            n_jittered: Jittered copies averaged with the exact one in `released`.
            jitter_seed: What the jitter is drawn from.
        """
        _check_maps(disparity, coc_px, grid_hw)
        pitch_px = (disparity.shape[1] / grid_hw[0], disparity.shape[2] / grid_hw[1])
        scene = disparity.detach().float()
        occlusion: Occlusion
        if convention == "released":
            occlusion = released_occlusion(
                scene, grid_hw, n_steps=released_steps, n_jittered=n_jittered, jitter_seed=jitter_seed
            )
        else:
            signed_px = coc_px.detach().float()
            if strength_px is None:
                strength_px = _strength_px(scene, signed_px, focus_disparity)
            strength = torch.as_tensor(strength_px, dtype=scene.dtype, device=scene.device).expand(len(scene))
            sees = lens_points_seen(scene, to_tokens(scene, grid_hw), strength, grid_hw)
            occlusion = LensOcclusion(sees, to_tokens(signed_px, grid_hw), grid_hw, pitch_px)
        radius_px = coc_px.abs().to(torch.promote_types(coc_px.dtype, torch.float32))
        return cls(to_tokens(radius_px, grid_hw) / UNIT_PX, grid_hw, pitch_px, convention, occlusion)

    @property
    def n_tokens(self) -> int:
        """Tokens per image."""
        return self.grid_hw[0] * self.grid_hw[1]

    def dense(self) -> DenseOptics:
        """Distance and visibility of all pairs of tokens; computed at the first call, then kept."""
        return self._dense

    @cached_property
    def _dense(self) -> DenseOptics:
        chunks = [
            self.of_sources(slice(start, start + SOURCES_PER_CHUNK))
            for start in range(0, self.n_tokens, SOURCES_PER_CHUNK)
        ]
        return DenseOptics(
            distance=torch.cat([chunk.distance for chunk in chunks], dim=1),
            visibility=torch.cat([chunk.visibility for chunk in chunks], dim=2),
        )

    def of_sources(self, sources: slice) -> DenseOptics:
        """The columns of `dense` that belong to some sources, without the others.

        Args:
            sources: Which sources k.
        """
        distance = token_distance(
            self.grid_hw, self.pitch_px, convention=self.convention, sources=sources, device=self.coc.device
        )
        every = torch.arange(self.n_tokens, device=self.coc.device)
        images = torch.arange(len(self.coc), device=self.coc.device)
        image, source, receiver = torch.meshgrid(images, every[sources], every, indexing="ij")
        share = self.occlusion.between(image.flatten(), source.flatten(), receiver.flatten())
        return DenseOptics(distance, share.reshape(image.shape).transpose(1, 2))

    def least_visibility(self, hardness: float) -> float:
        """What visibility is raised to at least: 0, or 0.01 in `released` while the disc is as soft as in training.

        Args:
            hardness: h of the soft disc.
        """
        return RELEASED_LEAST_VISIBLE if self.convention == "released" and hardness < RELEASED_CLAMP_BELOW else 0.0

    @property
    def position(self) -> Float[Tensor, "n 2"]:
        """Where the tokens are, in units of 10 px, as `convention` spaces them."""
        return token_positions(self.grid_hw, self.pitch_px, convention=self.convention, device=self.coc.device)

    def blocks(self, block_hw: tuple[int, int] = BLOCK_HW) -> TokenBlocks:
        """The tokens in the order of 2-D blocks; computed at the first call, then kept.

        Args:
            block_hw: Tokens of a block down and across; changes speed, not the result.
        """
        return self.derived(
            "blocks", (block_hw,), lambda: TokenBlocks.of_grid(self.grid_hw, block_hw, device=self.coc.device)
        )

    def block_pairs(
        self, hardness: float, *, block_hw: tuple[int, int] = BLOCK_HW, logit_range: float = LOGIT_RANGE
    ) -> BlockPairs:
        """The pairs of blocks that light can cross; computed at the first call, then kept.

        Args:
            hardness: h of the soft disc.
            block_hw: Tokens of a block down and across; changes speed, not the result.
            logit_range: By how much the logits of one source exceed that of its own token at most, see `reach`;
                infinite to leave no pair out.
        """
        within = reach(self.coc.detach(), hardness=hardness, logit_range=logit_range)
        return self.derived(
            "pairs",
            (hardness, block_hw, logit_range),
            lambda: block_pairs(within, self.position, self.blocks(block_hw)),
        )

    def derived(self, name: str, parameters: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """What follows from the optics: computed when it is first asked for, then kept until other parameters come.

        Args:
            name: Of what is computed.
            parameters: What it depends on beside the optics.
            compute: Gives it.
        """
        # In a compiled graph a comparison would tie it to these numbers; `PisaInputs` sees to it that they agree.
        if name not in self._derived or not (torch.compiler.is_compiling() or self._derived[name][0] == parameters):
            self._derived[name] = parameters, compute()
        return self._derived[name][1]

    def with_own_memory(self) -> TokenOptics:
        """The same, knowing what was derived so far, but not what others will derive from these optics."""
        other = replace(self)
        other._derived.update(self._derived)
        return other

    def without_coc(self) -> TokenOptics:
        """The same with circles of confusion that cover everything: what attention does without them (an ablation)."""
        return replace(self, coc=torch.full_like(self.coc, EVERYWHERE))

    def without_occlusion(self) -> TokenOptics:
        """The same with nothing in the way of light (an ablation)."""
        clear = self.coc.new_ones(1, 1, 1).expand(len(self.coc), self.n_tokens, self.n_tokens)
        return replace(self, occlusion=GivenVisibility(clear))

    def to(self, device: torch.device | str) -> TokenOptics:
        """The same on another device."""
        return replace(self, coc=self.coc.to(device), occlusion=self.occlusion.to(device))


def _check_maps(disparity: Tensor, coc_px: Tensor, grid_hw: tuple[int, int]) -> None:
    if coc_px.shape != disparity.shape:
        raise InputError(
            f"coc_px must have the size of the disparity; got {list(coc_px.shape)} for {list(disparity.shape)}"
        )
    if min(grid_hw) < 1:
        raise InputError(f"grid_hw must be at least 1 x 1 tokens; got {grid_hw[0]} x {grid_hw[1]}")
    for name, values in (("disparity", disparity), ("coc_px", coc_px)):
        if not all(math.isfinite(limit) for limit in torch.aminmax(values.detach())):  # which pass NaN on
            raise InputError(f"{name} must be finite; got NaN or infinity")


def _strength_px(
    disparity: Float[Tensor, "b h w"], coc_px: Float[Tensor, "b h w"], focus_disparity: float | Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """The K of coc_px = K * (disparity - focus_disparity) by least squares, 0 where nothing is out of focus."""
    defocus = circle_of_confusion(disparity, focus_disparity, 1.0).flatten(1)
    circles, tiny = coc_px.flatten(1), torch.finfo(defocus.dtype).tiny
    power, common, whole = (
        torch.linalg.vecdot(a, b) for a, b in ((defocus, defocus), (circles, defocus), (circles,) * 2)
    )
    strength_px = common / power.clamp_min(tiny)
    misfit = (whole - strength_px * common).clamp_min(0).sqrt()  # |coc_px - strength_px * defocus|
    worst = float((misfit / whole.sqrt().clamp_min(tiny)).max())
    if worst > COC_MISFIT or bool((strength_px < 0).any()):
        raise InputError(
            "coc_px must be strength * (disparity - focus_disparity), positive in front of focus; "
            f"got a map that differs from it by {worst:.0%}: give it its sign, or pass strength_px"
        )
    return strength_px
