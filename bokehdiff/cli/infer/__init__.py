"""`bokehdiff infer`, `python inference_hf.py`: photographs with disparity, rendered by one diffusion step.

Options are told apart from what they do: this package loads no torch before a photograph is to be rendered.
"""

from bokehdiff.cli.infer.command import run
from bokehdiff.cli.infer.options import ALIASES, POSITIONAL, PUBLISHED_ADAPTER, InferOptions

OPTIONS = InferOptions

__all__ = ["ALIASES", "OPTIONS", "POSITIONAL", "PUBLISHED_ADAPTER", "InferOptions", "run"]
