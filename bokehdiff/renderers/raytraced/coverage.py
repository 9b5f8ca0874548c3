"""Where layers are empty and where they hide what is behind them, for any rectangle at once."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

# Coverage short of 1 by a few roundings of float32, as a blur leaves it, hides everything.
OPAQUE = 1.0 - 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Coverage:
    """How many pixels of a layer are filled, and how many let light through, above and to the left of each corner.

    Args:
        filled: Counts of pixels that are not zero throughout.
        open: Counts of pixels whose coverage is below 1.
    """

    filled: Int[np.ndarray, "h1 w1"]
    open: Int[np.ndarray, "h1 w1"]

    def of(
        self, first: Float[np.ndarray, "n 2"], last: Float[np.ndarray, "n 2"]
    ) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Whether rectangles of lookups find nothing at all, and whether they find no hole.

        Concretely, lookups between first and last read the pixels floor(first - 0.5) to floor(last - 0.5) + 1 of both
        axes, those beyond the border being its repetition.

        Args:
            first: Least place (x, y) [px]; the first column's centre is at 0.5.
            last: Greatest place (x, y) [px].
        """
        height, width = (n - 1 for n in self.filled.shape)
        (left, top), (right, bottom) = np.floor(first - 0.5).T, np.floor(last - 0.5).T + 2
        left, right = (np.clip(x, least, least + width - 1).astype(int) for least, x in enumerate((left, right)))
        top, bottom = (np.clip(y, least, least + height - 1).astype(int) for least, y in enumerate((top, bottom)))
        counts = [
            table[bottom, right] - table[bottom, left] - table[top, right] + table[top, left]
            for table in (self.filled, self.open)
        ]
        return counts[0] == 0, counts[1] == 0


def coverage(layer: Float[np.ndarray, "h w 4"]) -> Coverage:
    """Count what a layer leaves open.

    Args:
        layer: Premultiplied colour and coverage.
    """
    open_to_light = layer[..., 3] < OPAQUE
    return Coverage(*(cv2.integral(mask.astype(np.uint8)) for mask in (layer.any(axis=2), open_to_light)))
