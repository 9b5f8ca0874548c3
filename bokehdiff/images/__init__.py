"""Images in and out: any photograph as an upright sRGB tensor, disparity maps and masks, light and display values.

Conventions (axes, ranges, names, near and far) stand in docs/conventions.md.
"""

from bokehdiff.images.animation import ANIMATION_SUFFIXES, save_animation
from bokehdiff.images.decode import Header, read_header
from bokehdiff.images.files import (
    CACHE_VARIABLE,
    IMAGE_SUFFIXES,
    cache_folder,
    find_images,
    make_folder,
    write_atomically,
)
from bokehdiff.images.light import Transfer, linear_to_srgb, resize, srgb_to_linear
from bokehdiff.images.reading import Photo, load_disparity, load_mask, load_photo, load_rgba
from bokehdiff.images.writing import save_disparity, save_image, save_light

__all__ = [
    "ANIMATION_SUFFIXES",
    "CACHE_VARIABLE",
    "IMAGE_SUFFIXES",
    "Header",
    "Photo",
    "Transfer",
    "cache_folder",
    "find_images",
    "linear_to_srgb",
    "load_disparity",
    "load_mask",
    "load_photo",
    "load_rgba",
    "make_folder",
    "read_header",
    "resize",
    "save_animation",
    "save_disparity",
    "save_image",
    "save_light",
    "srgb_to_linear",
    "write_atomically",
]
