"""A photograph that is open: read from what a user brings, or refused; small in memory, and whole on disk."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from bokehdiff.app.controls import Camera
from bokehdiff.app.depth import Depth, depth_from_file, depth_of
from bokehdiff.app.equipment import MEBI, Equipment, Limits
from bokehdiff.app.places import safe_stem
from bokehdiff.app.sizes import view_size
from bokehdiff.errors import BokehDiffError, InputError
from bokehdiff.images import Photo, load_disparity, load_photo, resize, save_disparity, save_image

VIEW_QUALITY = 90  # of JPEGs for the browser
Read = TypeVar("Read")


@dataclass(frozen=True, eq=False)
class Opened:
    """What is kept of a photograph in memory: it at the size that is looked at. The rest is in files, read when needed.

    Args:
        file: A copy of what the user brought, in a folder of its own.
        name: What the user calls it.
        size_hw: Height and width of the photograph [px].
        exif: Its EXIF as bytes.
        camera: What f-numbers mean for it.
        small_srgb: The photograph, as large as it is looked at.
        sharp_view: The same as a file for a browser.
        disparity_file: Its disparity, whole.
        small_disparity: Its disparity, as large as it is looked at, in [0, 1].
        origin: Where the disparity is from: "file", "model" or "guess".
        source: The same in words.
    """

    file: Path
    name: str
    size_hw: tuple[int, int]
    exif: bytes
    camera: Camera
    small_srgb: Float[Tensor, "1 3 h w"]
    sharp_view: Path
    disparity_file: Path
    small_disparity: Float[Tensor, "1 h w"]
    origin: str
    source: str

    def is_same(self, other: Opened) -> bool:
        """Whether it is the same photograph with the same disparity, however large it is looked at.

        Args:
            other: What may be the same.
        """
        return (self.file, self.disparity_file) == (other.file, other.disparity_file)

    @property
    def stem(self) -> str:
        """Of the names of results."""
        return Path(self.name).stem

    @property
    def view_hw(self) -> tuple[int, int]:
        """Height and width of everything that is looked at [px]."""
        return self.small_srgb.shape[2], self.small_srgb.shape[3]


def open_photo(
    path: Path,
    name: str,
    *,
    disparity: Path | None,
    folder: Path,
    equipment: Equipment,
    screen_hw: tuple[float, float] | None,
) -> Opened:
    """Read a photograph and get it its disparity; nothing stays where that fails.

    Args:
        path: File; it is copied.
        name: What the user calls it.
        disparity: Its map; None for the model's, or a guess.
        folder: Where it gets a folder of its own.
        equipment: Limits, and the depth model.
        screen_hw: What the screen has for it [px]; None if that is unknown.
    """
    own = folder / secrets.token_hex(4)
    own.mkdir()
    try:
        file = own / f"{safe_stem(Path(name).stem)}{path.suffix.lower()}"
        refuse_large(path, equipment.limits)
        shutil.copyfile(path, file)
        photo = _named(file, name, lambda: load_photo(file, max_pixels=equipment.limits.most_pixels))
        if disparity is None:
            depth = depth_of(photo.image_srgb.clamp(0.0, 1.0), equipment.model)
        else:
            depth = brought(disparity, disparity.name, photo.size_hw, near_is_dark=False, limits=equipment.limits)
        return _kept(own, file, name, photo, depth, view_size(photo.size_hw, screen_hw))
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise


def _kept(folder: Path, file: Path, name: str, photo: Photo, depth: Depth, view_hw: tuple[int, int]) -> Opened:
    map_file, sharp_view = folder / "disparity.npy", folder / "sharp.jpg"
    save_disparity(map_file, depth.disparity)
    small_srgb = resize(photo.image_srgb.clamp(0.0, 1.0), view_hw)
    save_image(sharp_view, small_srgb, quality=VIEW_QUALITY)
    return Opened(
        file=file,
        name=name,
        size_hw=photo.size_hw,
        exif=photo.exif,
        camera=Camera.of(photo.camera, photo.sensor_width_px),
        small_srgb=small_srgb,
        sharp_view=sharp_view,
        disparity_file=map_file,
        small_disparity=resize(depth.disparity[None], view_hw)[0],
        origin=depth.origin,
        source=depth.source,
    )


def for_screen(opened: Opened, view_hw: tuple[int, int], limits: Limits) -> Opened:
    """The same photograph, looked at in another size; it is read again.

    Args:
        opened: The photograph.
        view_hw: Height and width of what is looked at [px].
        limits: How large it may be.
    """
    small_srgb = resize(load_photo(opened.file, max_pixels=limits.most_pixels).image_srgb.clamp(0.0, 1.0), view_hw)
    sharp_view = opened.file.with_name(f"sharp-{secrets.token_hex(4)}.jpg")
    save_image(sharp_view, small_srgb, quality=VIEW_QUALITY)
    small_disparity = resize(load_disparity(opened.disparity_file)[None], view_hw)[0]
    return replace(opened, small_srgb=small_srgb, sharp_view=sharp_view, small_disparity=small_disparity)


def with_depth(opened: Opened, depth: Depth) -> Opened:
    """The same photograph with other disparity.

    Args:
        opened: The photograph; what is being rendered of it still reads its disparity.
        depth: Of the photograph's size.
    """
    map_file = opened.file.with_name(f"disparity-{secrets.token_hex(4)}.npy")
    save_disparity(map_file, depth.disparity)
    small = resize(depth.disparity[None], opened.view_hw)[0]
    return replace(opened, disparity_file=map_file, small_disparity=small, origin=depth.origin, source=depth.source)


def brought(path: Path, name: str, size_hw: tuple[int, int], *, near_is_dark: bool, limits: Limits) -> Depth:
    """Disparity from a file that a user brings.

    Args:
        path: The map.
        name: What the user calls it.
        size_hw: Height and width of the photograph [px].
        near_is_dark: It holds small values where things are near, as depth does.
        limits: How large it may be.
    """
    refuse_large(path, limits)
    return _named(
        path,
        name,
        lambda: depth_from_file(path, name, size_hw, near_is_dark=near_is_dark, max_pixels=limits.most_pixels),
    )


def refuse_large(path: Path, limits: Limits) -> None:
    """Raise where a file has more bytes than are taken.

    Args:
        path: The file.
        limits: How large it may be.
    """
    size, most = path.stat().st_size, limits.most_bytes
    if size > most:
        raise InputError(f"the file has {size / MEBI:.0f} MB; up to {most / MEBI:.0f} MB are taken")


def _named(path: Path, name: str, read: Callable[[], Read]) -> Read:
    """What `read` gives; its errors call the file what the user calls it."""
    try:
        return read()
    except BokehDiffError as error:
        raise InputError(error.message.replace(str(path), name)) from error
