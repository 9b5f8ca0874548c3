"""Lens blur from physics alone: planar layers by ray tracing, photographs with disparity by spreading light."""

from bokehdiff.renderers.highlights import compress_highlights, recover_highlights
from bokehdiff.renderers.layers import LayerStack
from bokehdiff.renderers.photo import METHODS, made_up_share, render_photo
from bokehdiff.renderers.raytraced import BACKENDS, render_layers
from bokehdiff.renderers.scatter import Sheet, Step

__all__ = [
    "BACKENDS",
    "METHODS",
    "LayerStack",
    "Sheet",
    "Step",
    "compress_highlights",
    "made_up_share",
    "recover_highlights",
    "render_layers",
    "render_photo",
]
