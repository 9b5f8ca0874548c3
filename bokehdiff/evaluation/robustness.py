"""What becomes of a method when its disparity is as wrong as estimators make it; the lens stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import torch
from jaxtyping import Float

from bokehdiff.evaluation.cases import Case, Promised

PX_AT = 512  # sizes below are those of an image whose longer side is this
LEVELS = 16  # of a coarsely quantised map
SMALLEST_RANGE = 1e-30  # of a constant map, which has one value at any step

Corruption = Callable[[Float[np.ndarray, "h w"], float], Float[np.ndarray, "h w"]]


def _window(radius_px: float, scale: float) -> np.ndarray:
    side = 2 * max(1, round(radius_px * scale)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _quantised(disparity: Float[np.ndarray, "h w"], scale: float) -> Float[np.ndarray, "h w"]:
    least, most = float(disparity.min()), float(disparity.max())
    step = max(most - least, SMALLEST_RANGE) / (LEVELS - 1)
    return least + np.round((disparity - least) / step).astype(np.float32) * step


CORRUPTIONS: dict[str, Corruption] = {
    "eroded": lambda disparity, scale: cv2.erode(disparity, _window(4, scale)),
    "dilated": lambda disparity, scale: cv2.dilate(disparity, _window(4, scale)),
    "blurred": lambda disparity, scale: cv2.GaussianBlur(disparity, (0, 0), max(4 * scale, 0.5)),
    "quantised": _quantised,
}


def corrupted(cases: Iterable[Promised], name: str) -> list[Promised]:
    """The same cases with a wrong disparity, the same for every method.

    Concretely, at 512 px: near things are smaller by 4 px on each side ("eroded") or larger ("dilated"), or edges are
    smeared by a gaussian of 4 px ("blurred"); or there are but 16 values ("quantised").

    Args:
        cases: What is asked for.
        name: Of `CORRUPTIONS`.
    """
    return [Promised(case.name, partial(_corrupted, case.load, name)) for case in cases]


def _corrupted(load: Callable[[], Case], name: str) -> Case:
    case = load()
    height, width = case.disparity.shape[1:]
    wrong = CORRUPTIONS[name](np.ascontiguousarray(case.disparity[0].numpy()), max(height, width) / PX_AT)
    return replace(case, disparity=torch.from_numpy(wrong)[None])
