"""Reading photographs, disparity maps, masks and foregrounds."""

from __future__ import annotations

import logging
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images.decode import FLOAT, Decoded, decode, require_file
from bokehdiff.images.exif import camera_settings
from bokehdiff.images.light import linear_to_srgb
from bokehdiff.optics import CameraSettings

logger = logging.getLogger(__name__)

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
# A grey map that went through a JPEG in colour comes back with its channels this far apart at most.
GREY_TOLERANCE = 4.0 / 255.0


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph, upright and in sRGB.

    Args:
        image_srgb: Display values in [0, 1]; a float or OpenEXR file may go above 1.
        alpha: Straight opacity in [0, 1]; None for a photograph without transparency (or opaque everywhere).
        path: Where it came from.
        exif: EXIF block as stored, its orientation included; empty if there is none.
        bit_depth: Bits per channel in the file: 8, 16, or 32 for floats.
        is_linear: The file holds light, which the curve "gamma22" brought to display values and takes back.
    """

    image_srgb: Float[Tensor, "1 3 h w"]
    alpha: Float[Tensor, "1 h w"] | None
    path: Path
    exif: bytes
    bit_depth: int
    is_linear: bool = False

    @property
    def camera(self) -> CameraSettings:
        """Camera settings that the EXIF block tells; see `bokehdiff.optics.CameraSettings`."""
        return camera_settings(self.exif)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the upright photograph [px]."""
        return self.image_srgb.shape[2], self.image_srgb.shape[3]

    @property
    def sensor_width_px(self) -> int:
        """Pixels along the sensor's width: the longer side, since a sensor lies although its photograph may stand."""
        return max(self.size_hw)


def load_photo(path: str | Path, *, max_pixels: int | None = None) -> Photo:
    """Read a photograph: EXIF orientation applied, colours converted to sRGB by the embedded profile.

    8 and 16-bit values are divided by 255 and 65535. Float TIFFs are taken as display values; OpenEXR and Radiance
    files hold light and go through `linear_to_srgb`. Transparency goes to `alpha`; the colours under it stay as stored.

    Args:
        path: Image file.
        max_pixels: Largest number of pixels that is read; None for Pillow's limit against decompression bombs
            (PIL.Image.MAX_IMAGE_PIXELS).
    """
    photo = _read_photo(Path(path), max_pixels)
    if photo.alpha is not None:
        logger.info("%s: has transparency; it is kept as alpha, the colours are used as stored", path)
    return photo


def _read_photo(path: Path, max_pixels: int | None) -> Photo:
    decoded = decode(path, managed=True, max_pixels=max_pixels)
    is_linear = decoded.is_linear
    if decoded.bit_depth == FLOAT:
        decoded = _display_values(path, decoded)
    colour, alpha = _split_alpha(decoded.values)
    image_srgb = _tensor(np.broadcast_to(colour, (*colour.shape[:2], 3))).permute(2, 0, 1)[None].contiguous()
    alpha_map = None if alpha is None else _tensor(alpha)[None]
    return Photo(image_srgb, alpha_map, path, decoded.exif, decoded.bit_depth, is_linear=is_linear)


def _display_values(path: Path, decoded: Decoded) -> Decoded:
    """Floats as display values: finite, not below 0, light brought through the transfer curve."""
    _require_finite(path, decoded.values)
    values = decoded.values.copy()
    colour = values[..., :3] if values.shape[2] > 2 else values[..., :1]
    if float(colour.min()) < 0.0:
        logger.warning("%s: holds values below 0 (down to %g); they become 0", path, colour.min())
    if decoded.is_linear:
        logger.info("%s: holds light; it is brought to display values by the curve 'gamma22'", path)
        colour[...] = linear_to_srgb(torch.from_numpy(np.ascontiguousarray(colour))).numpy()
    else:
        logger.info("%s: floats are taken as display values, %g to %g", path, colour.min(), colour.max())
        np.maximum(colour, 0.0, out=colour)
    return Decoded(values, decoded.bit_depth, decoded.exif)


def _split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour [h w 1 or 3] and alpha [h w]; None when nothing is transparent."""
    if values.shape[2] in {1, 3}:
        return values, None
    colour, alpha = values[..., :-1], values[..., -1]
    return colour, (alpha if bool((alpha < 1.0).any()) else None)


def load_rgba(path: str | Path, *, max_pixels: int | None = None) -> Float[Tensor, "1 4 h w"]:
    """Read a foreground: display RGB with straight alpha; opaque everywhere where the file has no transparency.

    Args:
        path: Image file; see `load_photo`.
        max_pixels: As in `load_photo`.
    """
    photo = _read_photo(Path(path), max_pixels)
    alpha = photo.alpha
    if alpha is None:
        logger.info("%s: has no transparency and counts as opaque everywhere", path)
        alpha = torch.ones_like(photo.image_srgb[:, 0])
    return torch.cat([photo.image_srgb, alpha[:, None].clamp(0.0, 1.0)], dim=1)


def load_disparity(
    path: str | Path,
    *,
    invert: bool = False,
    key: str | None = None,
    holes: bool = False,
    max_pixels: int | None = None,
) -> Float[Tensor, "1 h w"]:
    """Read a disparity map as it is stored: nothing is normalised or resized.

    Concretely, 8-bit values are divided by 255, 16-bit values by 65535, floats stay; `invert` then gives
    1 - disparity for maps in which near is dark. NaN and infinity are refused, unless `holes` are expected.

    Args:
        path: Grey image, .npy, or .npz.
        invert: The file has near dark (0): turn it round. Needs values in [0, 1].
        key: Name of the array in a .npz; None if it holds one only.
        holes: Let NaN and infinity through, as they mark what was not measured.
        max_pixels: As in `load_photo`, for images.
    """
    path = Path(path)
    disparity = _load_map(path, key, what="disparity", holes=holes, max_pixels=max_pixels)
    if not invert:
        return _tensor(disparity)[None]
    if disparity.min() < 0.0 or disparity.max() > 1.0:
        raise InputError(
            f"{path}: only a map in [0, 1] can be inverted; got {disparity.min():g} to {disparity.max():g} "
            "(a depth map in metres? store 1 / depth instead)"
        )
    return _tensor(1.0 - disparity)[None]


def load_mask(path: str | Path, *, key: str | None = None, max_pixels: int | None = None) -> Float[Tensor, "1 h w"]:
    """Read a mask in [0, 1], 1 on the subject; of a cut-out with transparency its alpha.

    Args:
        path: Grey image, cut-out, .npy, or .npz.
        key: Name of the array in a .npz; None if it holds one only.
        max_pixels: As in `load_photo`, for images.
    """
    path = Path(path)
    mask = _load_map(path, key, what="mask", holes=False, max_pixels=max_pixels)
    if mask.min() < 0.0 or mask.max() > 1.0:
        raise InputError(f"{path}: a mask must lie in [0, 1]; got {mask.min():g} to {mask.max():g}")
    return _tensor(mask)[None]


def _load_map(path: Path, key: str | None, *, what: str, holes: bool, max_pixels: int | None) -> np.ndarray:
    """One float32 number per pixel, [h w], finite unless there may be holes."""
    if path.suffix.lower() in ARRAY_SUFFIXES:
        values = _load_array(path, key)
    elif key is not None:
        raise InputError(f"{path}: key {key!r} names an array in a .npz file, and this is none")
    else:
        stored = decode(path, managed=False, max_pixels=max_pixels).values
        if not holes:
            _require_finite(path, stored)
        values = _single_channel(path, stored, what=what)
    if not holes:
        _require_finite(path, values)
    return values


def _single_channel(path: Path, values: np.ndarray, *, what: str) -> np.ndarray:
    colour, alpha = _split_alpha(values)
    if alpha is not None and what == "mask":
        logger.info("%s: has transparency, which is taken as the mask", path)
        return alpha
    if alpha is not None:
        logger.warning("%s: has transparency, which is not used", path)
    with np.errstate(invalid="ignore"):  # infinite in all channels is no difference
        spread = float(np.nan_to_num(colour.max(axis=2) - colour.min(axis=2)).max())
    if spread > GREY_TOLERANCE:
        raise InputError(
            f"{path}: a {what} must be grey; got colours (a coloured preview? use the map it was made from)"
        )
    return colour[..., 0] if spread == 0.0 else colour.mean(axis=2)


def _load_array(path: Path, key: str | None) -> np.ndarray:
    require_file(path)
    try:
        with path.open("rb") as file:
            return _as_map(path, _array_in(path, np.load(file, allow_pickle=False), key))
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is damaged, cut short or holds objects, and cannot be read: {error}") from error


def _array_in(path: Path, loaded: Any, key: str | None) -> np.ndarray:
    """The array itself, or the one of that name in an archive."""
    if isinstance(loaded, np.ndarray):
        if key is not None:
            raise InputError(f"{path}: key {key!r} names an array in a .npz file, and this is none")
        return loaded
    names = loaded.files
    if key is None and len(names) != 1:
        raise InputError(f"{path}: holds {len(names)} arrays ({', '.join(names)}); name one of them as the key")
    name = names[0] if key is None else key
    if name not in names:
        raise InputError(f"{path}: holds no array {name!r}; it holds {', '.join(names)}")
    return loaded[name]


def _as_map(path: Path, array: np.ndarray) -> np.ndarray:
    """[h w] float32 of [h w], [1 h w], [h w 1] or [1 1 h w]; integers scaled as in image files."""
    shape = list(array.shape)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{path}: expected one number per pixel, of shape [h, w]; got {shape}")
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
            return array.astype(np.float32)
    scales = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
    if array.dtype.newbyteorder("=") not in scales:
        raise InputError(f"{path}: holds {array.dtype}, whose scale is not known; store floats, uint8 or uint16")
    return (array / scales[array.dtype.newbyteorder("=")]).astype(np.float32)


def _require_finite(path: Path, values: np.ndarray) -> None:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise InputError(f"{path}: holds {bad} values that are NaN or infinite, of {values.size}; fill them first")


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
