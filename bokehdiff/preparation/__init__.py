"""Photographs made ready for rendering: disparity and subject masks, predicted, taken in, or
seen by the defocus of other photographs of the same view."""

from bokehdiff.preparation.cutouts import CutoutLimits, UnusableSubjectError, cut_out
from bokehdiff.preparation.defocus import DefocusResult, depth_from_defocus
from bokehdiff.preparation.disparity import (
    DEPTH_ANYTHING_V2,
    DisparityEstimate,
    DisparityModel,
    PublishedModel,
    TransformersDisparity,
    predicted_quantity,
)
from bokehdiff.preparation.edges import fit_disparity, fit_mask
from bokehdiff.preparation.folder import photographs_to_predict, prepare_folder
from bokehdiff.preparation.foreground_colour import Colours, unmix
from bokehdiff.preparation.guess import GuessedDisparity
from bokehdiff.preparation.heuristic import DisparitySubject
from bokehdiff.preparation.maps import MapConvention, fill_holes, fit_to, take_in
from bokehdiff.preparation.matting import BIREFNET, BiRefNetMatting, TransformersMatting, load_matting
from bokehdiff.preparation.places import Dirnames
from bokehdiff.preparation.pointed import PointedMatting
from bokehdiff.preparation.pretrained import find_checkpoint
from bokehdiff.preparation.report import Outcome, PreparationReport
from bokehdiff.preparation.subject import FittedMatting, SubjectMatting
from bokehdiff.preparation.trimaps import RefinedMatting, trimap_of

__all__ = [
    "BIREFNET",
    "DEPTH_ANYTHING_V2",
    "BiRefNetMatting",
    "Colours",
    "CutoutLimits",
    "DefocusResult",
    "Dirnames",
    "DisparityEstimate",
    "DisparityModel",
    "DisparitySubject",
    "FittedMatting",
    "GuessedDisparity",
    "MapConvention",
    "Outcome",
    "PointedMatting",
    "PreparationReport",
    "PublishedModel",
    "RefinedMatting",
    "SubjectMatting",
    "TransformersDisparity",
    "TransformersMatting",
    "UnusableSubjectError",
    "cut_out",
    "depth_from_defocus",
    "fill_holes",
    "find_checkpoint",
    "fit_disparity",
    "fit_mask",
    "fit_to",
    "load_matting",
    "photographs_to_predict",
    "predicted_quantity",
    "prepare_folder",
    "take_in",
    "trimap_of",
    "unmix",
]
