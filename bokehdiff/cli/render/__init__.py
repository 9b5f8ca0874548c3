"""`bokehdiff render`: photographs with disparity, blurred by a physical lens and no network.

Options are told apart from what they do: this package loads no torch before a photograph is to be rendered.
"""

from bokehdiff.cli.render.command import run
from bokehdiff.cli.render.options import ALIASES, POSITIONAL, RenderOptions

OPTIONS = RenderOptions

__all__ = ["ALIASES", "OPTIONS", "POSITIONAL", "RenderOptions", "run"]
