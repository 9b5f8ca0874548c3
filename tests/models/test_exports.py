"""What other programs read: applied by them, an exported adapter gives the same output of the UNet."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from bokehdiff.cli.main import main
from bokehdiff.errors import InputError
from bokehdiff.models import (
    add_lora,
    load_sdxl,
    merge_adapter,
    read_adapter,
    save_adapter,
    trainable_parts,
    write_diffusers,
    write_kohya,
)
from tests.helpers import SHARED, assert_close
from tests.models.test_adapters import run_unet, stir

RELEASED = SHARED / "golden" / "released_checkpoint"


@pytest.fixture(scope="module")
def trained(tiny_base):
    """With an alpha that is not the rank: 4 of rank, scale 1.5."""
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=4, alpha=6.0)
    stir(networks.unet, networks.vae)
    return networks


@pytest.fixture(scope="module")
def adapter(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    return save_adapter(folder, trained.unet, trained.vae, metadata={"visibility": "thin_lens"})


@pytest.fixture(scope="module")
def expected(trained, prompt):
    return run_unet(trained.unet, prompt)


@pytest.fixture(scope="module")
def stock(tiny_base):
    return StableDiffusionXLPipeline.from_pretrained(tiny_base)


@pytest.mark.parametrize("kind", ["kohya", "diffusers"])
def test_stock_diffusers_applies_the_exported_file(kind, adapter, stock, expected, prompt, tmp_path, capsys):
    assert main(["export", str(adapter), "--format", kind, "--output-dir", str(tmp_path / "out")]) == 0
    file = next(file for file in (tmp_path / "out").iterdir() if "vae" not in file.name)
    assert str(file) in capsys.readouterr().out
    stock.load_lora_weights(tmp_path / "out", weight_name=file.name)
    try:
        assert_close(run_unet(stock.unet, prompt), expected)
    finally:
        stock.unload_lora_weights()


def test_kohyas_file_tells_rank_and_alpha_under_kohyas_names(adapter, tmp_path):
    files = read_adapter(adapter, variant=None, revision=None)
    (file,) = write_kohya(files, tmp_path)
    tensors = load_file(file)
    assert len(tensors) == 3 * len(files.layers)
    assert {
        "lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight",
        "lora_unet_input_blocks_1_0_emb_layers_1.lora_up.weight",
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.alpha",
        "lora_unet_middle_block_2_out_layers_3.alpha",
    } <= tensors.keys()
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")} == {6.0}
    with safe_open(file, "pt") as stream:
        about = stream.metadata()
    assert (about["ss_network_dim"], about["ss_network_alpha"]) == ("4", "6")
    assert json.loads(about["bokehdiff"]) == {"visibility": "thin_lens"}


def test_a_merged_base_needs_no_adapter(adapter, trained, expected, tiny_base, prompt, tmp_path, capsys):
    folder = tmp_path / "merged"
    words = ["export", str(adapter), "--format", "merged", "--output-dir", str(folder)]
    assert main([*words, "--pretrained-model-name-or-path", str(tiny_base)]) == 0
    assert "render with --visibility thin_lens" in capsys.readouterr().out
    merged = load_sdxl(folder)
    assert_close(run_unet(merged.unet, prompt), expected)
    assert torch.equal(merged.vae.encoder.conv_in.weight, trained.vae.encoder.conv_in.weight)
    assert (folder / "text_encoder" / "config.json").is_file()
    assert main([*words, "--pretrained-model-name-or-path", str(tiny_base)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_with_a_base_the_whole_autoencoder_goes_beside_the_lora(adapter, trained, tiny_base, tmp_path):
    words = ["export", str(adapter), "--output-dir", str(tmp_path), "--pretrained-model-name-or-path", str(tiny_base)]
    assert main(words) == 0
    vae = AutoencoderKL.from_config(trained.vae.config)
    vae.load_state_dict(load_file(tmp_path / "bokehdiff_vae.safetensors"))
    assert all(
        torch.equal(weight, dict(trained.vae.named_parameters())[name]) for name, weight in vae.named_parameters()
    )


@pytest.mark.skipif(not RELEASED.is_dir(), reason="needs the released checkpoint of a tiny model")
def test_the_released_files_become_what_stock_diffusers_reads(tmp_path):
    files = read_adapter(RELEASED, variant=None, revision=None)
    written = write_diffusers(files, tmp_path)
    again = read_adapter(tmp_path, variant=None, revision=None)
    assert [file.name for file in written] == ["pytorch_lora_weights.safetensors", "vae_encoder.safetensors"]
    assert (again.rank, again.alpha, len(again.lora), len(again.vae)) == (8, 8.0, 514, 30)
    assert all(torch.equal(again.lora[name], files.lora[name]) for name in files.lora)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], "--adapter: name the adapter to export"),
        (["export", "x", "--format", "merged"], "--pretrained-model-name-or-path: a merged export needs the base"),
        (["export", "./nowhere"], "--adapter: ./nowhere is neither a folder"),
    ],
)
def test_what_cannot_be_exported_is_one_line(words, message, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_an_adapter_of_another_unet_is_not_merged(adapter, trained, networks):
    files = read_adapter(adapter, variant=None, revision=None)
    networks.unet.down_blocks[0].resnets[0].conv1 = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(InputError, match="is for another UNet: this one has no layer down_blocks.0.resnets.0.conv1"):
        merge_adapter(files, networks)
    assert trainable_parts(trained.unet, trained.vae).lora
