"""Lens blur with diffusion: prepare photographs, synthesise training pairs, fine-tune, render, measure.

Importing this package loads no heavy library. What is public stands in the packages: `bokehdiff.optics`,
`bokehdiff.attention`, `bokehdiff.renderers`, `bokehdiff.data`, `bokehdiff.models`, `bokehdiff.inference`,
`bokehdiff.training`, `bokehdiff.preparation`.
"""

__version__ = "0.1.0"
