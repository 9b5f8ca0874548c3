"""Planar layers by tracing rays: which rays, where they meet layers, and what sums them up on which device."""

from bokehdiff.renderers.raytraced.render import BACKENDS, render_layers

__all__ = ["BACKENDS", "render_layers"]
