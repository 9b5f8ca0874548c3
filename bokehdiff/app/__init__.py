"""Click to focus: a page in the browser. What a user does is in `session`, without gradio; the page is in `page`."""

from bokehdiff.app.controls import F_NUMBERS, Camera, Controls
from bokehdiff.app.depth import NO_MODEL, load_model
from bokehdiff.app.equipment import Equipment, Limits
from bokehdiff.app.jobs import Cancelled, Job
from bokehdiff.app.networks import Networks
from bokehdiff.app.places import Places
from bokehdiff.app.results import Pull, Result
from bokehdiff.app.session import Session
from bokehdiff.app.studio import Studio

__all__ = [
    "F_NUMBERS",
    "NO_MODEL",
    "Camera",
    "Cancelled",
    "Controls",
    "Equipment",
    "Job",
    "Limits",
    "Networks",
    "Places",
    "Pull",
    "Result",
    "Session",
    "Studio",
    "load_model",
]
