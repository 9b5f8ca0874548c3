"""What samples are composed of: files as light, no larger than a sample can show, checked, shared between workers."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float, Float16
from torch import Tensor

from bokehdiff.data.cache import SharedCache
from bokehdiff.data.composition import Composition
from bokehdiff.data.folders import TrainingFolders, UsableFiles, load_background, load_foreground
from bokehdiff.images import resize, srgb_to_linear
from bokehdiff.renderers import recover_highlights

MOST_PIXELS = 4.0  # of a subject that is kept, over those of the composed image: at twice its width hair stays hair
MOST_LIGHT = 6e4  # half precision ends at 65504


def subject_light(rgba_srgb: Float[Tensor, "4 h w"], composition: Composition) -> Float[Tensor, "4 h2 w2"]:
    """A subject's premultiplied light, with at most four times the pixels of the composed image.

    Resizing averages premultiplied light, so that colours under transparency never bleed in; coverage is in [0, 1].

    Args:
        rgba_srgb: Display RGB with straight alpha, cut to its visible part.
        composition: Sizes and transfer.
    """
    alpha = rgba_srgb[3:].clamp(0.0, 1.0)
    light = torch.cat([srgb_to_linear(rgba_srgb[:3], transfer=composition.transfer) * alpha, alpha])
    height, width = light.shape[1:]
    factor = math.sqrt(MOST_PIXELS * composition.image_px**2 / (height * width))
    if factor >= 1:
        return _rounded(light)
    size_hw = (max(round(height * factor), 1), max(round(width * factor), 1))
    return _rounded(resize(light[None], size_hw)[0])


def scenery_light(image_srgb: Float[Tensor, "3 h w"], composition: Composition) -> Float[Tensor, "c h2 w2"]:
    """A background's light with its shorter side as long as the composed image's; never enlarged here.

    Where the composition brightens lights, three more channels hold how much light a gain of 2 adds to each pixel:
    small lights are clipped in the file's own pixels, so they are found before shrinking, and the gain of a sample,
    which is linear, follows after it: light(gain) = light + (gain - 1) * glow.

    Args:
        image_srgb: Display RGB.
        composition: Sizes, transfer, and whether lights are brightened.
    """
    light = srgb_to_linear(image_srgb, transfer=composition.transfer)
    if composition.camera.highlights:
        light = torch.cat([light, recover_highlights(light[None], 2.0)[0] - light])
    height, width = light.shape[1:]
    factor = composition.image_px / min(height, width)
    if factor >= 1:
        return _rounded(light)
    return _rounded(resize(light[None], (round(height * factor), round(width * factor)))[0])


def _rounded(light: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """To half precision and back, stored or not: 5e-4 of a value, an eighth of a step of 8 bits at white."""
    return light.clamp(0.0, MOST_LIGHT).half().float()


class Ingredients:
    """The light of foregrounds and backgrounds by number, in the order of their paths.

    Args:
        folders: Paths.
        composition: Sizes, transfer, and whether lights are brightened.
        cache_bytes: Bound of the memory for decoded images, of all forked processes together; changes speed only.
    """

    def __init__(self, folders: TrainingFolders, composition: Composition, *, cache_bytes: int = 0) -> None:
        self.composition = composition
        self.foregrounds = UsableFiles(folders.foregrounds, problems=folders.problems)
        self.backgrounds = UsableFiles(folders.backgrounds, problems=folders.problems)
        self.cache = SharedCache(cache_bytes, n_keys=len(self.foregrounds) + len(self.backgrounds))

    def subject(self, place: int) -> Float16[Tensor, "4 h w"]:
        """A foreground as `subject_light`; the next usable one if its file is not.

        Args:
            place: Place of its file, from 0.
        """
        return self.foregrounds.draw(place, self._subject)

    def scenery(self, place: int) -> Float16[Tensor, "c h w"]:
        """A background as `scenery_light`; the next usable one if its file is not.

        Args:
            place: Place of its file, from 0.
        """
        return self.backgrounds.draw(place, self._scenery)

    def _subject(self, place: int, path: Path) -> Float16[Tensor, "4 h w"]:
        return self.cache.get(place, lambda: subject_light(load_foreground(path), self.composition).half())

    def _scenery(self, place: int, path: Path) -> Float16[Tensor, "c h w"]:
        key = len(self.foregrounds) + place
        return self.cache.get(key, lambda: scenery_light(load_background(path), self.composition).half())
