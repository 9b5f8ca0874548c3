"""Crops of endless pictures, for teaching an autoencoder and a prior what images look like: nothing is blurred here.

Pictures are drawn once, by number, into a file that is read through the page cache; crop n is a function of (seed, n).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator
from torch import Tensor
from tqdm import tqdm

from bokehdiff.data.procedural import backgrounds
from bokehdiff.data.procedural.synthetic import synthetic_background, synthetic_foreground
from bokehdiff.data.procedural.textures import Rgb, dead_leaves, palette
from bokehdiff.data.randomness import generator_for
from bokehdiff.errors import InputError
from bokehdiff.images import make_folder, write_atomically

PICTURES_FILE = "pictures.npy"
RECIPE_FILE = "pictures.json"
VERSION = 1  # of the pictures: raised whenever the same (seed, n) gives another one
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
SUPERSAMPLE = 2


def lettering(rng: Generator, size_px: int) -> Rgb:
    """Lines of letters before a surface: signs, pages, labels."""
    side = SUPERSAMPLE * size_px
    image = cv2.resize(backgrounds.clouds(rng, size_px), (side, side), interpolation=cv2.INTER_CUBIC)
    canvas = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)  # the only depth that letters are drawn in
    colours = palette(rng, 3, lightness=(0.05, 0.98))
    y = 0.0
    while y < side:
        scale = float(rng.uniform(0.6, 4.0)) * side / 1024
        letters = "".join(chr(code) for code in rng.integers(ord("!"), ord("~") + 1, size=60))
        y += 36 * scale
        place = (int(rng.uniform(-0.2, 0.3) * side), int(y))
        colour = [int(255 * c) for c in colours[rng.integers(3)]]
        thickness = max(1, round(scale * rng.uniform(1.0, 4.0)))
        cv2.putText(canvas, letters, place, FONTS[rng.integers(len(FONTS))], scale, colour, thickness, cv2.LINE_AA)
    small = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def composite(rng: Generator, size_px: int) -> Rgb:
    """A subject with transparency before a scene, all in focus: what the compositor photographs."""
    number = int(rng.integers(2**32))
    rgba = synthetic_foreground(number, number, size_px=size_px)[0]
    scene = synthetic_background(number, number, size_px=size_px)[0]
    return (rgba[3:] * rgba[:3] + (1 - rgba[3:]) * scene).permute(1, 2, 0).numpy()


# What pictures are of, in turn; photographs most often, since they are what it is for.
KINDS: tuple[Callable[[Generator, int], Rgb], ...] = (
    backgrounds.photograph,
    dead_leaves,
    composite,
    backgrounds.photograph,
    backgrounds.facade,
    composite,
    backgrounds.photograph,
    dead_leaves,
    lettering,
    backgrounds.photograph,
    backgrounds.clouds,
    backgrounds.lights,
)


def picture(seed: int, n: int, *, size_px: int) -> Rgb:
    """Picture `n` of a set: kinds take turns.

    Args:
        seed: Seed of the set.
        n: Number of the picture.
        size_px: Side [px].
    """
    return KINDS[n % len(KINDS)](generator_for(seed, n, purpose="picture"), size_px)


def write_pictures(folder: Path, *, n_pictures: int, size_px: int, seed: int, progress: bool = False) -> Path:
    """Draw a set of pictures into one file of 8-bit display values; a set of the same recipe is kept.

    Args:
        folder: Where it goes; made if missing.
        n_pictures: How many, at least 1.
        size_px: Side of each [px].
        seed: The same seed gives the same set.
        progress: Show a bar.

    Returns:
        The file.
    """
    if n_pictures < 1:
        raise InputError(f"n_pictures must be at least 1; got {n_pictures}")
    make_folder(folder)
    recipe = {"version": VERSION, "n_pictures": n_pictures, "size_px": size_px, "seed": seed}
    path, note = folder / PICTURES_FILE, folder / RECIPE_FILE
    if path.is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")) == recipe:
        return path
    shape = (n_pictures, size_px, size_px, 3)
    with write_atomically(path) as partial:
        pictures = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        for n in tqdm(range(n_pictures), desc="drawing pictures", unit="picture", disable=not progress):
            pictures[n] = np.round(255 * picture(seed, n, size_px=size_px))
        pictures.flush()
    with write_atomically(note) as partial:
        partial.write_text(json.dumps(recipe) + "\n", encoding="utf-8")
    return path


class EndlessCrops:
    """Square crops of a set of pictures, each at a size, orientation and exposure of its own, its colours exchanged.

    With colours as they are, green against magenta varies a third as much as red against blue: the autoencoder leaves
    it out for thousands of steps.

    Args:
        path: A file of `write_pictures`.
        size_px: Side of a crop [px].
        seed: Seed of the crops.
        largest_scale: A crop is up to this many times larger in the picture than it is given out [1].
    """

    def __init__(self, path: Path, *, size_px: int, seed: int, largest_scale: float = 2.0) -> None:
        self.pictures = np.load(path, mmap_mode="r")
        side = self.pictures.shape[1]
        if not 0 < size_px <= side:
            raise InputError(f"crops must be of 1 ... {side} px, the side of the pictures; got {size_px}")
        self.size_px, self.seed = size_px, seed
        self.largest_scale = min(largest_scale, side / size_px)

    def __getitem__(self, n: int) -> Float[Tensor, "3 s s"]:
        """Crop `n`: display values in [0, 1]."""
        rng = generator_for(self.seed, n, purpose="crop")
        image = self.pictures[rng.integers(len(self.pictures))]
        window = round(self.size_px * self.largest_scale ** float(rng.uniform()))
        top, left = rng.integers(image.shape[0] - window + 1, size=2)
        crop = image[top : top + window, left : left + window].astype(np.float32) / 255
        if window != self.size_px:
            crop = cv2.resize(crop, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA)
        crop = np.rot90(crop, int(rng.integers(4)))[..., rng.permutation(3)]
        if rng.uniform() < 0.5:
            crop = crop[:, ::-1]
        exposed = np.clip(crop, 0, 1) ** rng.uniform(0.7, 1.5) * rng.uniform(0.6, 1.0)
        return torch.from_numpy(np.ascontiguousarray(exposed.transpose(2, 0, 1), dtype=np.float32))
