"""The networks: an SDXL base (or a tiny stand-in), what is trained of it and the files it is kept in, the one-step
generator made of them, and the discriminator that it is trained against.
"""

from bokehdiff.models.adapter_files import AdapterFiles, read_adapter
from bokehdiff.models.adapters import (
    LORA_TARGETS,
    VAE_TRAINABLE,
    AdapterReport,
    AdapterTensors,
    TrainableParts,
    adapter_tensors,
    add_lora,
    load_adapter,
    save_adapter,
    trainable_groups,
    trainable_parts,
    write_adapter,
)
from bokehdiff.models.discriminator import BACKBONES, Backbone, VisionAidedDiscriminator
from bokehdiff.models.exports import merge_adapter, write_diffusers, write_kohya, write_merged
from bokehdiff.models.generator import OneStepGenerator, TimeIds
from bokehdiff.models.prompt import PromptEmbedding, prompt_embedding
from bokehdiff.models.sdxl import SdxlNetworks, load_sdxl, sketch_sdxl
from bokehdiff.models.single_file import load_single_file
from bokehdiff.models.tiny import (
    PROMPT,
    n_weights,
    tiny_autoencoder,
    tiny_unet,
    weights_origin,
    write_taught_sdxl,
    write_tiny_sdxl,
)
from bokehdiff.models.xformers import use_xformers

__all__ = [
    "BACKBONES",
    "LORA_TARGETS",
    "PROMPT",
    "VAE_TRAINABLE",
    "AdapterFiles",
    "AdapterReport",
    "AdapterTensors",
    "Backbone",
    "OneStepGenerator",
    "PromptEmbedding",
    "SdxlNetworks",
    "TimeIds",
    "TrainableParts",
    "VisionAidedDiscriminator",
    "adapter_tensors",
    "add_lora",
    "load_adapter",
    "load_sdxl",
    "load_single_file",
    "merge_adapter",
    "n_weights",
    "prompt_embedding",
    "read_adapter",
    "save_adapter",
    "sketch_sdxl",
    "tiny_autoencoder",
    "tiny_unet",
    "trainable_groups",
    "trainable_parts",
    "use_xformers",
    "weights_origin",
    "write_adapter",
    "write_diffusers",
    "write_kohya",
    "write_merged",
    "write_taught_sdxl",
    "write_tiny_sdxl",
]
