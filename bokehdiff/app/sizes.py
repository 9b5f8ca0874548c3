"""How large a picture is that is only looked at: no larger than the screen shows it, nor than is quick to render."""

from __future__ import annotations

import math

PREVIEW_PIXELS = 2**20  # scatter renders as many within a second on two cores
LEAST_PIXELS = 2**18  # whatever the screen: less would hide what is sharp
# With cat's eyes, times that of a disc: four openings are drawn for each tile, and there are more tiles the longer they
# are. The first is for round ones, the second is added for the longest.
CAT_EYE_COST = (2.0, 2.0)
ANOTHER_SIZE = 1.25  # times the pixels: bars of a browser come and go, and the picture need not follow them
PULL_PIXELS = 2**19  # of the pictures of a focus pull, of which there are dozens


def within(size_hw: tuple[int, int], most_pixels: float) -> tuple[int, int]:
    """The same aspect with no more pixels than allowed; never larger.

    Args:
        size_hw: Height and width [px].
        most_pixels: As many at most.
    """
    scale = min(1.0, (most_pixels / (size_hw[0] * size_hw[1])) ** 0.5)
    return max(1, int(size_hw[0] * scale)), max(1, int(size_hw[1] * scale))


def view_size(size_hw: tuple[int, int], screen_hw: tuple[float, float] | None) -> tuple[int, int]:
    """Height and width of what is looked at of a photograph [px].

    Args:
        size_hw: Of the photograph [px].
        screen_hw: What the screen has for it, which it fits into [px]; None if that is unknown.
    """
    most = float(PREVIEW_PIXELS)
    if screen_hw is not None and all(math.isfinite(side) and side > 0 for side in screen_hw):
        scale = min(screen_hw[0] / size_hw[0], screen_hw[1] / size_hw[1])
        most = min(most, max(scale * scale * size_hw[0] * size_hw[1], LEAST_PIXELS))
    return within(size_hw, most)


def is_another_size(one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether a picture is to be made anew for a place of another size.

    Args:
        one_hw: Height and width [px].
        other_hw: The other's.
    """
    one, other = one_hw[0] * one_hw[1], other_hw[0] * other_hw[1]
    return max(one, other) > ANOTHER_SIZE * min(one, other)


def preview_size(view_hw: tuple[int, int], cat_eye: float) -> tuple[int, int]:
    """Height and width of a preview that takes no longer than others [px].

    Args:
        view_hw: Of what is looked at [px].
        cat_eye: How far discs become lemons, in [0, 1].
    """
    if cat_eye == 0:
        return view_hw
    least, more = CAT_EYE_COST
    return within(view_hw, PREVIEW_PIXELS / (least + more * cat_eye))
