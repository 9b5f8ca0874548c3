"""The networks: an SDXL base (or a tiny stand-in), what is trained of it and the files it is kept in, the one-step
generator made of them, and the discriminator that it is trained against.
"""

from bokehdiff.models.adapter_files import AdapterFiles, find_adapter, read_adapter
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
from bokehdiff.models.baseline_files import LoadedBaseline, load_baseline, write_baseline
from bokehdiff.models.baselines import (
    Baseline,
    BaselineName,
    BaselineSpec,
    Guide,
    build_baseline,
    defocus_guide,
    network_picture,
    padded_for,
    shrunk,
    size_multiple,
    whole_picture,
)
from bokehdiff.models.discriminator import BACKBONES, Backbone, VisionAidedDiscriminator, find_backbone
from bokehdiff.models.double_vnet import Critic, DoubleVNet, Norm
from bokehdiff.models.exports import merge_adapter, write_diffusers, write_kohya, write_merged
from bokehdiff.models.generator import OneStepGenerator, TimeIds
from bokehdiff.models.prompt import PromptEmbedding, find_text_encoders, prompt_embedding
from bokehdiff.models.pynet import LEVELS, PyNet
from bokehdiff.models.sdxl import SdxlNetworks, find_sdxl, load_sdxl, sketch_sdxl
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
from bokehdiff.models.xformers import use_xformers, xformers_problem

__all__ = [
    "BACKBONES",
    "LEVELS",
    "LORA_TARGETS",
    "PROMPT",
    "VAE_TRAINABLE",
    "AdapterFiles",
    "AdapterReport",
    "AdapterTensors",
    "Backbone",
    "Baseline",
    "BaselineName",
    "BaselineSpec",
    "Critic",
    "DoubleVNet",
    "Guide",
    "LoadedBaseline",
    "Norm",
    "OneStepGenerator",
    "PromptEmbedding",
    "PyNet",
    "SdxlNetworks",
    "TimeIds",
    "TrainableParts",
    "VisionAidedDiscriminator",
    "adapter_tensors",
    "add_lora",
    "build_baseline",
    "defocus_guide",
    "find_adapter",
    "find_backbone",
    "find_sdxl",
    "find_text_encoders",
    "load_adapter",
    "load_baseline",
    "load_sdxl",
    "load_single_file",
    "merge_adapter",
    "n_weights",
    "network_picture",
    "padded_for",
    "prompt_embedding",
    "read_adapter",
    "save_adapter",
    "shrunk",
    "size_multiple",
    "sketch_sdxl",
    "tiny_autoencoder",
    "tiny_unet",
    "trainable_groups",
    "trainable_parts",
    "use_xformers",
    "weights_origin",
    "whole_picture",
    "write_adapter",
    "write_baseline",
    "write_diffusers",
    "write_kohya",
    "write_merged",
    "write_taught_sdxl",
    "write_tiny_sdxl",
    "xformers_problem",
]
