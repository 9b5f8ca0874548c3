"""From a photograph with disparity to one with lens blur: the one-step pipeline, its focus and its strength."""

from bokehdiff.inference.baselines import BaselineRenderer
from bokehdiff.inference.detail import keep_focus, match_colour, mix_where_guessed
from bokehdiff.inference.focus import Distance, Focus, focus_sweep, parse_focus, resolve_focus
from bokehdiff.inference.lenses import FNumber, MetricRange, ShareOfWidth, Strength, parse_strength, resolve_lens
from bokehdiff.inference.memory import free_bytes_of
from bokehdiff.inference.pipeline import BokehDiffPipeline, BokehResult, RenderSettings

__all__ = [
    "BaselineRenderer",
    "BokehDiffPipeline",
    "BokehResult",
    "Distance",
    "FNumber",
    "Focus",
    "MetricRange",
    "RenderSettings",
    "ShareOfWidth",
    "Strength",
    "focus_sweep",
    "free_bytes_of",
    "keep_focus",
    "match_colour",
    "mix_where_guessed",
    "parse_focus",
    "parse_strength",
    "resolve_focus",
    "resolve_lens",
]
