"""Training pairs on the fly: subjects, a background and a lens from (seed, n); one physics for both photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from bokehdiff.data.camera import exposed, mirrored, photographed
from bokehdiff.data.composition import Composition
from bokehdiff.data.folders import find_training_folders
from bokehdiff.data.ingredients import Ingredients
from bokehdiff.data.randomness import generator_for, shuffled
from bokehdiff.data.recipe import Recipe, draw_recipe
from bokehdiff.data.samples import TrainSample
from bokehdiff.data.staging import Window, largest_coc_px, stage
from bokehdiff.data.told import told_disparity
from bokehdiff.renderers import LayerStack, render_layers

SAMPLES_AT_REST = 16  # lens points where nothing is blurred much ...
SAMPLES_PER_PX = 1.5  # ... more for each pixel of blur ...
MOST_SAMPLES = 128  # ... up to 50 dB and more for images without highlights above white
MOST_SAMPLES_HDR = 256  # lights above white show single points of the lens
CACHE_BYTES = 512 * 2**20  # of decoded files, of all workers together
LEAST_COVERAGE = 1e-3  # what is seen of an opaque background is far above it


@dataclass(frozen=True)
class Uncomposed:
    """What a sample is made of, before it is: small to hand from a worker to the device that renders.

    Args:
        recipe: What to do.
        subjects: Light of each subject in half precision; see `subject_light`.
        scenery: Light of the background in half precision; see `scenery_light`.
        composition: Sizes and transfer.
        n: Number of the sample.
    """

    recipe: Recipe
    subjects: tuple[Float16[Tensor, "4 _ _"], ...]
    scenery: Float16[Tensor, "c h w"]
    composition: Composition
    n: int

    def composed(self, device: torch.device | str = "cpu") -> TrainSample:
        """The sample, composed and photographed on a device.

        Args:
            device: Where to.
        """
        subjects = [light.to(device, non_blocking=True).float() for light in self.subjects]
        scenery = self.scenery.to(device, non_blocking=True).float()
        return compose(self.recipe, subjects, scenery, composition=self.composition, n=self.n)

    def pin_memory(self) -> Uncomposed:
        """The same in memory that a GPU can copy from by itself; PyTorch's loader asks for it."""
        subjects = tuple(light.pin_memory() for light in self.subjects)
        return replace(self, subjects=subjects, scenery=self.scenery.pin_memory())


def compose(
    recipe: Recipe,
    subjects: Sequence[Float[Tensor, "4 _ _"]],
    scenery: Float[Tensor, "c bh bw"],
    *,
    composition: Composition,
    n: int = 0,
    wider_px: int = 0,
) -> TrainSample:
    """Compose and photograph one sample, on the device of its light.

    Only what the lens can see is composed: the crop, and around it the largest circle of confusion that occurs. The
    photograph all in focus and the one through the lens come from the same layers in the same linear light.

    Args:
        recipe: What to do.
        subjects: Light of each subject; see `subject_light`.
        scenery: Light of the background; see `scenery_light`.
        composition: Sizes and transfer.
        n: Number of the sample, for the record.
        wider_px: Compose this much more around the crop than needed [px]; does not change the result.
    """
    image_px, transfer, shot = composition.image_px, composition.transfer, recipe.shot
    window = Window.around(recipe, image_px=image_px, crop_px=composition.resolution_px, wider_px=wider_px)
    stack = stage(recipe, subjects, scenery, window)
    n_samples = composition.n_samples or samples_for(largest_coc_px(recipe, image_px), hdr=shot.highlight_gain > 1)
    backend = {"cpu": "cpu"}.get(scenery.device.type, "auto")
    blurred = window.crop(render_layers(stack, recipe.lens, n_samples=n_samples, backend=backend)[0])
    seen = _seen(stack, window)
    disparity = mirrored(_disparity(seen), shot)
    image_srgb, target_srgb = photographed(
        exposed(_colour(seen.composite()[0]), shot, transfer=transfer),
        exposed(_colour(blurred), shot, transfer=transfer),
        recipe.lens.coc_px(disparity[None])[0],
        shot,
        transfer=transfer,
    )
    scale, shift = recipe.told.squeeze
    focus_disparity = scale * float(recipe.lens.focus_disparity) + shift
    strength_px = float(recipe.lens.strength_px) / scale
    disparity = told_disparity(disparity, recipe.told)
    return TrainSample(
        image_srgb=image_srgb,
        target_srgb=target_srgb,
        disparity=disparity,
        coc_px=recipe.told.jitter * strength_px * (disparity - focus_disparity),
        focus_disparity=focus_disparity,
        strength_px=strength_px,
        n=n,
    )


def samples_for(radius_px: float, *, hdr: bool = False) -> int:
    """Lens points that show a blur of this radius to about 50 dB.

    Args:
        radius_px: Largest circle of confusion [px].
        hdr: There are highlights above white, which need twice as many.
    """
    n_samples = math.ceil(SAMPLES_AT_REST + SAMPLES_PER_PX * radius_px)
    return min(2 * n_samples, MOST_SAMPLES_HDR) if hdr else min(n_samples, MOST_SAMPLES)


def _seen(stack: LayerStack, window: Window) -> LayerStack:
    """The layers without the margin."""
    c0, cx, cy = stack.planes.unbind(dim=-1)
    planes = torch.stack([c0 + (cx + cy) * window.margin_px, cx, cy], dim=-1)
    return LayerStack(window.crop(stack.rgba_linear), planes)


def _disparity(seen: LayerStack) -> Float[Tensor, "h w"]:
    """Disparity of what is seen, mixed by coverage where a pixel shows several layers: the composite of d * alpha."""
    alpha = seen.rgba_linear[:, :, 3:]
    depths = torch.cat([(seen.disparity()[:, :, None] * alpha).expand(-1, -1, 3, -1, -1), alpha], dim=2)
    return LayerStack(depths, seen.planes).composite()[0, 0].clamp(0.0, 1.0)


def _colour(rgba_linear: Float[Tensor, "4 h w"]) -> Float[Tensor, "3 h w"]:
    """Light of a picture that is covered everywhere, but for rounding where pieces of the background meet."""
    return rgba_linear[:3] / rgba_linear[3:].clamp_min(LEAST_COVERAGE)


class OnTheFlyDataset:
    """Training samples by number, composed when asked for: sample n is a function of (seed, n) and the files.

    Every pair of a foreground and a background comes once in each round of n_foregrounds * n_backgrounds samples, in an
    order that no memory holds (see `shuffled`).

    Args:
        root: Folder with foregrounds (*fg/) and backgrounds (bg/), anywhere below it.
        seed: The same seed gives the same samples.
        composition: What to draw from; None for the published distribution.
        length: How many samples there are said to be; a sample costs nothing until it is asked for.
        cache_bytes: Bound of the memory for decoded files, of all forked workers together; changes speed only.
    """

    def __init__(
        self, root: str | Path, *, seed: int, composition: Composition | None = None, length: int = 2**40,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.composition = composition or Composition()
        self.length = length
        self.ingredients = Ingredients(find_training_folders(root), self.composition, cache_bytes=cache_bytes)

    def __len__(self) -> int:
        return self.length

    def recipe(self, n: int) -> Recipe:
        """What sample n is made of.

        Args:
            n: Number of the sample, from 0.
        """
        n_foregrounds, n_backgrounds = len(self.ingredients.foregrounds), len(self.ingredients.backgrounds)
        foreground, background = divmod(shuffled(n, n_foregrounds * n_backgrounds, seed=self.seed), n_backgrounds)
        return draw_recipe(
            generator_for(self.seed, n),
            self.composition,
            files=(foreground, background),
            n_foregrounds=n_foregrounds,
        )

    def uncomposed(self, n: int) -> Uncomposed:
        """What sample n is made of, read and brought to light, but not composed yet.

        Args:
            n: Number of the sample, from 0.
        """
        if not 0 <= n < self.length:
            raise IndexError(f"sample {n} of {self.length}")
        recipe = self.recipe(n)
        subjects = tuple(self.ingredients.subject(subject.file) for subject in recipe.subjects)
        return Uncomposed(recipe, subjects, self.ingredients.scenery(recipe.ground.file), self.composition, n)

    def __getitem__(self, n: int) -> TrainSample:
        return self.uncomposed(n).composed()
