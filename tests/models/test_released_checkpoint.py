"""A checkpoint that the published trainer wrote, from its files to finished pictures; and what SDXL's own would hold.

SDXL's weights are not at hand: the checkpoint is of a tiny SDXL whose base has random weights here. What is tested is
that every name finds its layer, on a UNet of SDXL's own sizes too, and that all programs take the files as they lie.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from bokehdiff import images
from bokehdiff.cli.main import main
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.models import add_lora, sketch_sdxl, trainable_parts
from tests.helpers import REPOSITORY, SHARED, psnr

RELEASED = SHARED / "golden" / "released_checkpoint"
pytestmark = pytest.mark.skipif(not RELEASED.is_dir(), reason="needs the released checkpoint of a tiny model")

SIZE_HW = (120, 160)


def n_layers(unet) -> int:
    """How many layers the published trainer adapts: a count of the architecture, not of our list of targets."""
    attentions = [module for name, module in unet.named_modules() if re.search(r"attentions\.\d+$", name)]
    blocks = sum(len(attention.transformer_blocks) for attention in attentions)
    resnets = [module for name, module in unet.named_modules() if re.search(r"resnets\.\d+$", name)]
    shortcuts = sum(resnet.conv_shortcut is not None for resnet in resnets)
    samplers = len(unet.down_blocks) - 1 + len(unet.up_blocks) - 1
    # q, k, v and out of two attentions and two layers of the feed-forward; in and out around; two convolutions, time
    return 10 * blocks + 2 * len(attentions) + 3 * len(resnets) + shortcuts + samplers


def kinds(lora: dict[str, torch.Tensor]) -> dict[str, int]:
    """Each name without its numbers, with its number of dimensions."""
    return {re.sub(r"\.\d+", ".N", name.removeprefix("unet.")): tensor.ndim for name, tensor in lora.items()}


def test_it_adapts_the_layers_that_sdxl_has():
    released = load_file(RELEASED / "pytorch_lora_weights.safetensors")
    tiny = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(RELEASED / "base" / "unet"))
    assert len(released) == 2 * n_layers(tiny) == 514
    sdxl = sketch_sdxl()
    expected = n_layers(sdxl.unet)
    add_lora(sdxl.unet, rank=8)
    parts = trainable_parts(sdxl.unet, sdxl.vae)
    assert len(parts.lora) == 2 * expected == 1576
    assert kinds({name.replace(".default.", "."): weight for name, weight in parts.lora.items()}) == kinds(released)
    trained = torch.load(RELEASED / "vae.ckpt", weights_only=True)
    encoder = AutoencoderKL.from_config(AutoencoderKL.load_config(RELEASED / "base" / "vae"))
    assert trained.keys() == trainable_parts(tiny, encoder).vae.keys() == parts.vae.keys()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The checkpoint's base with random weights, as it would lie on disk; the prompt encoded, as `infer` keeps it."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        kind.from_config(kind.load_config(RELEASED / "base" / part)).save_pretrained(folder / part)
    shutil.copytree(RELEASED / "base" / "scheduler", folder / "scheduler")
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    prompt = {"tokens": torch.randn(1, 77, config["cross_attention_dim"]), "pooled": torch.randn(1, pooled)}
    save_file(prompt, folder / "prompt.safetensors")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    cut = (..., slice(0, SIZE_HW[0]), slice(0, SIZE_HW[1]))
    photo = images.load_photo(REPOSITORY / "test_data" / "input" / "leaves.jpg").image_srgb[cut]
    disparity = images.load_disparity(REPOSITORY / "test_data" / "depth" / "leaves_pred.npy")[cut]
    for name in ("input", "depth"):
        (root / name).mkdir()
    images.save_image(root / "input" / "leaves.png", photo)
    images.save_disparity(root / "depth" / "leaves_pred.npy", disparity)
    return root


def test_the_published_command_line_draws_with_it(base, photographs, tmp_path, caplog):
    """`inference_hf.py`'s flags: three pictures of a photograph, or two where its subject is an end of its range."""
    caplog.set_level("INFO")
    words = ["--test_data_dir", f"{photographs}/input/*", "--output_dir", tmp_path, "--data_id", "demo", "--K", 20]
    words += ["--pretrained_model_name_or_path", base, "--resume_from_checkpoint", RELEASED, "--device", "cpu"]
    assert main(["infer", *map(str, words)]) == 0
    assert "514 LoRA tensors, 30 of the autoencoder" in caplog.text
    written = sorted((tmp_path / "demo").iterdir())
    assert [path.name.rsplit("_", 1)[0] for path in written] == ["leaves_20"] * len(written)
    assert 2 <= len(written) <= 3
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == SIZE_HW[::-1]


def test_the_checkpoint_is_in_the_picture_and_the_released_occlusion_too(base, photographs):
    photo_srgb = images.load_photo(photographs / "input" / "leaves.png").image_srgb
    disparity = images.load_disparity(photographs / "depth" / "leaves_pred.npy")
    raw = {"focus": 1.0, "preserve_focus": False, "match_colour": False}
    drawn = {}
    for name, options in {
        "fused": {"adapter": RELEASED},
        "beside": {"adapter": RELEASED, "fuse": False},
        "base alone": {"visibility": "released"},
    }.items():
        pipeline = BokehDiffPipeline.from_pretrained(base, **options)
        assert pipeline.convention == "released", "the files say nothing, so they are the published trainer's"
        drawn[name] = pipeline(photo_srgb, disparity, **raw).images_srgb
        if name == "fused":
            assert torch.equal(drawn[name], pipeline(photo_srgb, disparity, **raw).images_srgb)
            tiled = pipeline(photo_srgb, disparity, tile_px=64, **raw).images_srgb
            assert tiled.shape == photo_srgb.shape
    assert psnr(drawn["beside"], drawn["fused"]) > 60
    assert psnr(drawn["base alone"], drawn["fused"]) < 40
