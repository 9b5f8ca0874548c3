"""Models of transformers with random weights, built from their configurations and saved like published ones."""

from __future__ import annotations

from pathlib import Path

import torch

REMOTE_CODE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel

class BrightConfig(PreTrainedConfig):
    model_type = "bright"

class BrightIsSubject(PreTrainedModel):
    config_class = BrightConfig

    def __init__(self, config):
        super().__init__(config)
        self.gain = torch.nn.Parameter(torch.tensor(50.0))
        self.post_init()

    def forward(self, image):
        return [image[:, :1] * 0.0, image.mean(dim=1, keepdim=True) * self.gain]
"""


def save_depth_anything(folder: Path, **overrides) -> Path:
    """Depth Anything V2 in miniature: the classes of the published weights."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        image_size=70,
        patch_size=14,
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        **overrides,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = DPTImageProcessor(
        size={"height": 70, "width": 70}, keep_aspect_ratio=True, ensure_multiple_of=14, do_pad=False
    )
    processor.save_pretrained(folder)
    return folder


def save_segformer(folder: Path) -> Path:
    """SegFormer in miniature, with three classes."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
        num_labels=3,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_sam2(folder: Path) -> Path:
    """Segment Anything 2 in miniature, on 64 px."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    torch.manual_seed(0)
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 24, 32],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 8, 8, 8],
        window_positional_embedding_background_size=[7, 7],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[32, 24, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=64),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    Sam2Model(config).save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_sam3(folder: Path) -> Path:
    """What takes points of Segment Anything 3, in miniature, on 56 px."""
    from transformers import Sam3ImageProcessor, Sam3TrackerConfig, Sam3TrackerModel, Sam3VisionConfig, Sam3ViTConfig
    from transformers.models.sam3_tracker.configuration_sam3_tracker import (
        Sam3TrackerMaskDecoderConfig,
        Sam3TrackerPromptEncoderConfig,
    )

    torch.manual_seed(0)
    backbone = Sam3ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=56,
        window_size=2,
        global_attn_indexes=[0],
        pretrain_image_size=56,
    )
    config = Sam3TrackerConfig(
        vision_config=Sam3VisionConfig(
            backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]
        ),
        prompt_encoder_config=Sam3TrackerPromptEncoderConfig(hidden_size=32, image_size=56),
        mask_decoder_config=Sam3TrackerMaskDecoderConfig(
            hidden_size=32, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    Sam3TrackerModel(config).save_pretrained(folder)
    Sam3ImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


def save_vitmatte(folder: Path) -> Path:
    """ViTMatte in miniature."""
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting, VitMatteImageProcessor

    torch.manual_seed(0)
    backbone = VitDetConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        pretrain_image_size=64,
        num_channels=4,
        out_features=["stage1"],
    )
    config = VitMatteConfig(
        backbone_config=backbone, hidden_size=16, convstream_hidden_sizes=[4, 8, 8], fusion_hidden_sizes=[16, 8, 8, 4]
    )
    VitMatteForImageMatting(config).save_pretrained(folder)
    VitMatteImageProcessor().save_pretrained(folder)
    return folder


def save_remote_code_model(folder: Path) -> Path:
    """A model like BiRefNet: its code lies beside its weights, and what it returns last are logits of the mask."""
    import json

    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "architectures": ["BrightIsSubject"],
        "model_type": "bright",
        "auto_map": {
            "AutoConfig": "bright.BrightConfig",
            "AutoModelForImageSegmentation": "bright.BrightIsSubject",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "bright.py").write_text(REMOTE_CODE)
    save_file({"gain": torch.tensor(50.0)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
