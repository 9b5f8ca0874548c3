"""Physics-inspired self-attention (PISA): light that spreads from token to token as a lens lets it.

`TokenOptics.from_maps` reduces disparity and circles of confusion to tokens, `dense_pisa` is the definition,
`pisa_attention` computes it by any back end, and `install_pisa` puts it into a diffusers UNet. The derivation stands in
docs/attention.md.
"""

from bokehdiff.attention.dispatch import BACKENDS, pisa_attention
from bokehdiff.attention.given import GivenVisibility
from bokehdiff.attention.hardness import INFERENCE_HARDNESS, training_hardness
from bokehdiff.attention.processor import PISA_LAYERS, PisaInputs, install_pisa, remove_pisa
from bokehdiff.attention.reference import NormalisedOver, dense_pisa
from bokehdiff.attention.tokens import DenseOptics, TokenOptics
from bokehdiff.attention.visibility import Convention, token_distance

__all__ = [
    "BACKENDS",
    "INFERENCE_HARDNESS",
    "PISA_LAYERS",
    "Convention",
    "DenseOptics",
    "GivenVisibility",
    "NormalisedOver",
    "PisaInputs",
    "TokenOptics",
    "dense_pisa",
    "install_pisa",
    "pisa_attention",
    "remove_pisa",
    "token_distance",
    "training_hardness",
]
