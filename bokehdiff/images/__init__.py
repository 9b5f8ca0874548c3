"""Images in and out: any photograph as an upright sRGB tensor, disparity maps and masks, light and display values.

Conventions (axes, ranges, names, near and far) stand in docs/conventions.md.
"""

from bokehdiff.images.files import IMAGE_SUFFIXES, find_images, make_folder, write_atomically
from bokehdiff.images.light import Transfer, linear_to_srgb, resize, srgb_to_linear
from bokehdiff.images.reading import Photo, load_disparity, load_mask, load_photo, load_rgba
from bokehdiff.images.writing import save_disparity, save_image

__all__ = [
    "IMAGE_SUFFIXES",
    "Photo",
    "Transfer",
    "find_images",
    "linear_to_srgb",
    "load_disparity",
    "load_mask",
    "load_photo",
    "load_rgba",
    "make_folder",
    "resize",
    "save_disparity",
    "save_image",
    "srgb_to_linear",
    "write_atomically",
]
