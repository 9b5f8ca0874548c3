"""Checkpoints in one file: the tiny base under the original code's names comes back weight for weight."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.models import load_sdxl
from bokehdiff.models.single_file import load_single_file

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, per_block: int) -> str:
    """As latent diffusion's code counts: through all blocks of a side."""
    for ours, theirs in UNET.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, place, rest = found.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(place)}.{resnet_part(rest, kind)}"
    side, block, kind, place, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name).groups()
    number = int(block) * (per_block + 1) + int(place)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{int(block) * (per_block + 1) + per_block + 1}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{number + 1}.{int(kind == 'attentions')}.{resnet_part(rest, kind)}"
    if kind == "upsamplers":
        return f"output_blocks.{int(block) * (per_block + 1) + per_block}.2.{rest}"
    return f"output_blocks.{number}.{int(kind == 'attentions')}.{resnet_part(rest, kind)}"


def resnet_part(rest: str, kind: str) -> str:
    layer, _, leaf = rest.rpartition(".")
    return f"{RESNET[layer]}.{leaf}" if kind == "resnets" else rest


def vae_name(name: str, n_blocks: int) -> str:
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
    if "mid.attn_1" in name:
        for ours, theirs in ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{n_blocks - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{n_blocks - 1 - int(m[1])}.upsample", name)
    return name.replace("conv_shortcut", "nin_shortcut")


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_sdxl(tiny_base)


@pytest.fixture(scope="module")
def tensors(base):
    per_block, n_blocks = base.unet.config.layers_per_block, len(base.vae.config.block_out_channels)
    unet = {f"model.diffusion_model.{unet_name(n, per_block)}": t for n, t in base.unet.state_dict().items()}
    vae = {f"first_stage_model.{vae_name(n, n_blocks)}": t for n, t in base.vae.state_dict().items()}
    for name, tensor in vae.items():
        if ".mid.attn_1." in name and tensor.ndim == 2:
            vae[name] = tensor[:, :, None, None]  # convolutions of one pixel there
    return unet | vae | {"conditioner.embedders.0.left_alone": torch.zeros(1)}


def sizes(tiny_base) -> dict[str, dict[str, object]]:
    return {f"{part}_config": json.loads((tiny_base / part / "config.json").read_text()) for part in ("unet", "vae")}


def test_every_weight_finds_its_place(base, tensors, tiny_base, tmp_path):
    save_file(tensors, tmp_path / "one.safetensors")
    read = load_single_file(tmp_path / "one.safetensors", **sizes(tiny_base))
    for part in ("unet", "vae"):
        got, expected = getattr(read, part).state_dict(), getattr(base, part).state_dict()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert read.prediction_type == "epsilon"


def test_what_is_no_sdxl_is_refused(tensors, tiny_base, tmp_path):
    file = tmp_path / "one.safetensors"
    file.write_bytes(b"no")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_single_file(file)
    save_file({"lora_down": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"holds no UNet .*; got lora_down"):
        load_single_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if not name.endswith("out.2.bias")}, file)
    with pytest.raises(InputError, match="is not SDXL: .*lacks|is not SDXL: 1 tensors do not fit"):
        load_single_file(file, **sizes(tiny_base))
    with pytest.raises(InputError, match=r"^--pretrained-model-name-or-path: .* is not SDXL"):
        BokehDiffPipeline.from_pretrained(file, prompt_from=tiny_base)
    save_file(tensors | {"v_pred": torch.zeros(0)}, file)
    assert load_single_file(file, **sizes(tiny_base)).prediction_type == "v_prediction"


def test_a_single_file_needs_a_base_for_the_prompt(tiny_base, tensors, tmp_path, monkeypatch):
    from bokehdiff.inference import loading

    file = tmp_path / "one.safetensors"
    save_file(tensors, file)
    monkeypatch.setattr(
        loading, "load_single_file", lambda file, dtype: load_single_file(file, dtype=dtype, **sizes(tiny_base))
    )
    with pytest.raises(MissingWeightsError, match="^--prompt-from: .*single file, whose text encoders are not read"):
        BokehDiffPipeline.from_pretrained(file)
    image_srgb, disparity = torch.rand(1, 3, 32, 32), torch.linspace(0, 1, 32).expand(1, 32, 32).contiguous()
    pictures = [
        pipe(image_srgb, disparity, preserve_focus=False).images_srgb
        for pipe in (
            BokehDiffPipeline.from_pretrained(file, prompt_from=tiny_base),
            BokehDiffPipeline.from_pretrained(tiny_base),
        )
    ]
    assert torch.allclose(*pictures, atol=1e-3)
