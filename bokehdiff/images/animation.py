"""Pictures in a row: GIF for everywhere, MP4 for quality."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bokehdiff.errors import InputError, MissingDependencyError
from bokehdiff.images.files import write_atomically

logger = logging.getLogger(__name__)

ANIMATION_SUFFIXES = (".gif", ".mp4")
GIF_TICKS_PER_S = 100
MOST_GIF_FPS = 50.0  # players slow down what is shown for one tick only
PALETTE_COLOURS = 256
PALETTE_PIXELS = 2**18  # of all pictures together that the palette is found from: 1000 for each of its colours
DITHER_SIDE = 8
DITHER_SWING = 2.0  # of the dots that stand for missing colours, over the palette's error
MOST_KEPT_BYTES = 2**31  # of pictures that must be in memory together: 680 of a megapixel
X264_QUALITY = 16  # constant rate factor: below 18 it is hard to tell from the original


def save_animation(
    path: str | Path,
    frames_srgb: Iterable[Float[Tensor, "1 3 _ _"]],
    *,
    fps: float = 12.0,
    loop: bool = True,
    back_and_forth: bool = False,
    text: str | None = None,
    n_frames: int = 1,
) -> None:
    """Write pictures as an animation; an older file stays as it is until the new one is complete.

    A GIF has one palette for all pictures, and dots that stand still where colours are missing from it, so that nothing
    flickers. An MP4 is H.264 in 4:2:0, which every browser and phone plays; its sides are even: an odd one is continued
    by its last row or column, which is logged.

    Args:
        path: File to write: .gif, or .mp4 (the extra `video`).
        frames_srgb: Display values in [0, 1], all of one size; taken one by one. A GIF keeps them in memory.
        fps: Pictures per second; a GIF's are shown for whole hundredths of a second, which are shared out.
        loop: A GIF begins anew for ever; else it stops at its last picture. Players decide it for an MP4.
        back_and_forth: Show the pictures between the last and the first in reverse at the end, so that no loop jumps.
            Keeps all pictures in memory.
        text: Note about the animation, such as the settings it was made with: a comment of the file. None for none.
        n_frames: How many there will be at least: what is too much to keep in memory is refused at the first picture
            instead of half way.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in ANIMATION_SUFFIXES:
        raise InputError(f"{path}: animations are written as {', '.join(ANIMATION_SUFFIXES)}; got {suffix or 'none'!r}")
    if not 0 < fps < math.inf:
        raise InputError(f"fps must be above 0; got {fps:g}")
    if suffix == ".gif" and fps > MOST_GIF_FPS:
        raise InputError(f"{path}: a GIF shows up to {MOST_GIF_FPS:g} pictures per second; got {fps:g}: write .mp4")
    frames = _of_one_size(path, frames_srgb)
    if suffix == ".gif" or back_and_forth:
        frames = _within_memory(path, frames, n_frames)
    if back_and_forth:
        frames = _there_and_back(frames)
    if suffix == ".gif":
        _write_gif(path, list(frames), fps=fps, loop=loop, text=text)
    else:
        _write_mp4(path, frames, fps=fps, text=text)


def _of_one_size(path: Path, frames_srgb: Iterable[Float[Tensor, "1 3 _ _"]]) -> Iterator[np.ndarray]:
    """Each picture as [h w 3] of 8 bits."""
    size_hw = None
    for frame in frames_srgb:
        size_hw = size_hw or tuple(frame.shape[2:])
        if tuple(frame.shape[2:]) != size_hw:
            raise InputError(f"{path}: pictures must be of one size; got {tuple(frame.shape[2:])} after {size_hw}")
        if not bool(torch.isfinite(frame).all()):
            raise InputError(f"{path}: not written, a picture holds values that are NaN or infinite")
        pixels = (frame[0].detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().byte()
        yield np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    if size_hw is None:
        raise InputError(f"{path}: not written, there are no pictures")


def _within_memory(path: Path, frames: Iterator[np.ndarray], n_frames: int) -> Iterator[np.ndarray]:
    """Frames that are to be kept, as long as they are not too much."""
    for i, frame in enumerate(frames):
        n_kept, (height, width, _) = max(i + 1, n_frames), frame.shape
        if n_kept * frame.nbytes > MOST_KEPT_BYTES:
            raise InputError(
                f"{path}: {n_kept} pictures of {width} x {height} px take {n_kept * frame.nbytes / 2**30:.1f} GiB of "
                f"memory, more than {MOST_KEPT_BYTES / 2**30:g}: write fewer or smaller pictures, single ones, or an "
                ".mp4 that does not go back and forth"
            )
        yield frame


def _there_and_back(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    shown = []
    for frame in frames:
        shown.append(frame)
        yield frame
    yield from shown[-2:0:-1]


def _write_gif(path: Path, frames: list[np.ndarray], *, fps: float, loop: bool, text: str | None) -> None:
    palette = _shared_palette(frames)
    pictures = [palette.applied(frame) for frame in frames]
    ends = [round(GIF_TICKS_PER_S * i / fps) for i in range(len(frames) + 1)]
    options: dict[str, Any] = {
        "duration": [10 * (end - start) for start, end in itertools.pairwise(ends)],
        **({"loop": 0} if loop else {}),
        **({"comment": text.encode()} if text is not None else {}),
    }
    with write_atomically(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], optimize=False, **options)


class _Palette:
    """Colours that all pictures share, and the dots that stand for those between them."""

    def __init__(self, colours: Image.Image, error: float) -> None:
        self.colours = colours
        self.swing = DITHER_SWING * error

    def applied(self, frame: np.ndarray) -> Image.Image:
        """A picture in these colours; the same colour at the same place becomes the same in each."""
        height, width = frame.shape[:2]
        tiles = (-(-height // DITHER_SIDE), -(-width // DITHER_SIDE))
        dots = np.tile(_dither_matrix(), tiles)[:height, :width, None] * self.swing
        dotted = (frame + dots).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(dotted).quantize(palette=self.colours, dither=Image.Dither.NONE)


def _shared_palette(frames: list[np.ndarray]) -> _Palette:
    """The palette of all pictures together, by median cut and k-means, and its error on them [steps of 8 bits]."""
    pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames])
    step = -(-len(pixels) // PALETTE_PIXELS)
    sample = Image.fromarray(np.ascontiguousarray(pixels[::step])[None])
    colours = sample.quantize(PALETTE_COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    seen = np.asarray(colours.convert("RGB"), dtype=np.float32) - np.asarray(sample, dtype=np.float32)
    return _Palette(colours, float(np.sqrt(np.square(seen).mean())))


def _dither_matrix() -> np.ndarray:
    """Bayer's ordered thresholds in [-1/2, 1/2], each once on a square of 8 x 8 (Bayer, 1973)."""
    order = np.zeros((1, 1))
    while len(order) < DITHER_SIDE:
        order = np.block([[4 * order, 4 * order + 2], [4 * order + 3, 4 * order + 1]])
    return (order + 0.5) / order.size - 0.5


def _write_mp4(path: Path, frames: Iterator[np.ndarray], *, fps: float, text: str | None) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: imageio-ffmpeg is needed to write .mp4: pip install 'bokehdiff[video]', or write .gif"
        ) from error
    first = next(frames)
    height, width = (side + side % 2 for side in first.shape[:2])
    if (height, width) != first.shape[:2]:
        logger.info("%s: continued from %d x %d to even sides, %d x %d", path, *first.shape[1::-1], width, height)
    with write_atomically(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (width, height),
            fps=fps,
            codec="libx264",
            macro_block_size=2,
            quality=None,
            output_params=[*_x264_options(), *(["-metadata", f"comment={text}"] if text is not None else [])],
        )
        try:
            writer.send(None)
            for frame in itertools.chain([first], frames):
                bottom, right = height - frame.shape[0], width - frame.shape[1]
                writer.send(np.pad(frame, ((0, bottom), (0, right), (0, 0)), mode="edge"))
        finally:
            writer.close()


def _x264_options() -> list[str]:
    """What every player understands: the header in front, HD's colours without a bias, and told that they are."""
    convert = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp"
    tell = "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
    return ["-crf", str(X264_QUALITY), "-movflags", "+faststart", "-vf", f"{convert},format=yuv420p,{tell}"]
