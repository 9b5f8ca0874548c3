"""From a photograph with disparity to one with lens blur: the one-step pipeline, and where to focus."""

from bokehdiff.inference.focus import Focus, focus_sweep, parse_focus, resolve_focus
from bokehdiff.inference.pipeline import BokehDiffPipeline, BokehResult

__all__ = [
    "BokehDiffPipeline",
    "BokehResult",
    "Focus",
    "focus_sweep",
    "parse_focus",
    "resolve_focus",
]
