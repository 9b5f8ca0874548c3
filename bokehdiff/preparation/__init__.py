"""Photographs made ready for rendering: disparity and subject masks, predicted or taken in, folder by folder."""

from bokehdiff.preparation.disparity import (
    DEPTH_ANYTHING_V2,
    DisparityModel,
    PublishedModel,
    TransformersDisparity,
    predicted_quantity,
)
from bokehdiff.preparation.folder import Outcome, PreparationReport, photographs_to_predict, prepare_folder
from bokehdiff.preparation.maps import MapConvention, fill_holes, take_in
from bokehdiff.preparation.matting import (
    BiRefNetMatting,
    DisparitySubject,
    SubjectMatting,
    TransformersMatting,
    load_matting,
)

__all__ = [
    "DEPTH_ANYTHING_V2",
    "BiRefNetMatting",
    "DisparityModel",
    "DisparitySubject",
    "MapConvention",
    "Outcome",
    "PreparationReport",
    "PublishedModel",
    "SubjectMatting",
    "TransformersDisparity",
    "TransformersMatting",
    "fill_holes",
    "load_matting",
    "photographs_to_predict",
    "predicted_quantity",
    "prepare_folder",
    "take_in",
]
