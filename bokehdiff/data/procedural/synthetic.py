"""A procedural training set: subjects with transparency and scenes to stand behind them, from (seed, n) alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from bokehdiff.data.procedural import backgrounds, foregrounds
from bokehdiff.data.procedural.textures import Rgb, dead_leaves
from bokehdiff.data.randomness import generator_for
from bokehdiff.errors import InputError
from bokehdiff.images import make_folder, save_image, write_atomically

logger = logging.getLogger(__name__)

VERSION = 1  # of the pictures: raised whenever the same (seed, n) gives another one
SMALLEST_SYNTHETIC_PX = 16  # below it the supersampled shapes are no shapes any more
MANIFEST = "synthetic.json"
FOREGROUND_KINDS = ("hair", "leaves", "lattice", "hair", "solids", "fur", "veil", "leaves")
BACKGROUND_KINDS: dict[str, Callable[[np.random.Generator, int], Rgb]] = {
    "dead_leaves": dead_leaves,
    "facade": backgrounds.facade,
    "lights": backgrounds.lights,
    "clouds": backgrounds.clouds,
}
PHOTOGRAPH_EVERY = 3  # with photographs, every third background is one


def synthetic_foreground(seed: int, n: int, *, size_px: int) -> Float[Tensor, "1 4 s s"]:
    """Subject `n`: display RGB with straight alpha, transparent at the border; kinds take turns.

    Args:
        seed: Seed of the set.
        n: Number of the subject.
        size_px: Side, at least 16 [px]; the content keeps its proportions.
    """
    _check_size(size_px)
    rng = generator_for(seed, n, purpose="foreground")
    kind = FOREGROUND_KINDS[n % len(FOREGROUND_KINDS)]
    image = (
        foregrounds.veil(rng, size_px)
        if kind == "veil"
        else foregrounds.drawn(getattr(foregrounds, kind), rng, size_px)
    )
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def synthetic_background(seed: int, n: int, *, size_px: int, photographs: bool = True) -> Float[Tensor, "1 3 s s"]:
    """Scene `n`, display RGB; kinds take turns.

    Args:
        seed: Seed of the set.
        n: Number of the scene.
        size_px: Side, at least 16 [px].
        photographs: Every third scene is a crop of a free photograph that scikit-image brings along.
    """
    _check_size(size_px)
    rng = generator_for(seed, n, purpose="background")
    if photographs and n % PHOTOGRAPH_EVERY == 1:
        image = backgrounds.photograph(rng, size_px)
    else:
        kinds = tuple(BACKGROUND_KINDS.values())
        turn = n - (n + 1) // PHOTOGRAPH_EVERY if photographs else n
        image = kinds[turn % len(kinds)](rng, size_px)
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def _check_size(size_px: int) -> None:
    if size_px < SMALLEST_SYNTHETIC_PX:
        raise InputError(f"size_px must be at least {SMALLEST_SYNTHETIC_PX}; got {size_px}")


def write_training_set(
    root: str | Path,
    *,
    n_foregrounds: int,
    n_backgrounds: int,
    size_px: int,
    seed: int,
    photographs: bool = True,
    progress: bool = False,
) -> None:
    """Write a procedural training set into `root`/fg (RGBA) and `root`/bg (RGB), as PNG.

    A set that is there already, made with the same arguments, is kept; one that was interrupted is continued; one of
    other arguments is replaced. Images that this function did not write are not touched. A manifest, synthetic.json, is
    written last.

    Args:
        root: Folder, made if missing.
        n_foregrounds: How many subjects, at least 1.
        n_backgrounds: How many scenes, at least 1.
        size_px: Side of each image [px].
        seed: The same seed gives the same set.
        photographs: Every third scene is a crop of a free photograph that scikit-image brings along.
        progress: Show a progress bar.
    """
    counts = {"n_foregrounds": n_foregrounds, "n_backgrounds": n_backgrounds}
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} must be at least 1; got {count}")
    _check_size(size_px)
    root = Path(root)
    recipe = {"version": VERSION, "seed": seed, "size_px": size_px, "photographs": photographs}
    files = [root / "fg" / f"synthetic_{n:05d}.png" for n in range(n_foregrounds)]
    files += [root / "bg" / f"synthetic_{n:05d}.png" for n in range(n_backgrounds)]
    if _is_complete(root, recipe | counts, files):
        logger.info("%s holds this training set already: kept", root)
        return
    _begin(root, recipe, kept=set(files))
    for path in tqdm(files, desc=f"synthesizing {root}", unit="image", disable=not progress):
        if not path.exists():
            n = int(path.stem.removeprefix("synthetic_"))
            if path.parent.name == "fg":
                save_image(path, synthetic_foreground(seed, n, size_px=size_px))
            else:
                save_image(path, synthetic_background(seed, n, size_px=size_px, photographs=photographs))
    _write_manifest(root, recipe | counts | {"complete": True})


def _is_complete(root: Path, expected: dict[str, int | bool], files: list[Path]) -> bool:
    found = _read_manifest(root)
    return found == expected | {"complete": True} and all(path.is_file() for path in files)


def _read_manifest(root: Path) -> dict[str, int | bool] | None:
    """What the manifest says; None where there is none that can be read."""
    try:
        content = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_manifest(root: Path, content: dict[str, int | bool]) -> None:
    with write_atomically(root / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _begin(root: Path, recipe: dict[str, int | bool], *, kept: set[Path]) -> None:
    """Make the folders, and clear away what an earlier set of another recipe or of more images left there."""
    for folder in (root / "fg", root / "bg"):
        make_folder(folder)
    found = _read_manifest(root)
    same = found is not None and all(found.get(key) == value for key, value in recipe.items())
    old = [path for folder in ("fg", "bg") for path in (root / folder).glob("synthetic_*.png")]
    stale = [path for path in old if not same or path not in kept]
    if stale:
        logger.info("%s: replacing %d images of an earlier synthetic set", root, len(stale))
    for path in stale:
        path.unlink()
    _write_manifest(root, recipe | {"complete": False})
