from __future__ import annotations

import hashlib
import json

import pytest
import torch

from bokehdiff.errors import InputError
from bokehdiff.models import PROMPT, tiny, weights_origin, write_tiny_sdxl


def digests(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_base_is_a_function_of_its_seed(tiny_base, tmp_path):
    torch.manual_seed(123)
    again = write_tiny_sdxl(tmp_path / "again")
    other = write_tiny_sdxl(tmp_path / "other", seed=1)
    assert digests(again) == digests(tiny_base)
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert digests(other)[unet] != digests(tiny_base)[unet]


def test_writing_leaves_the_callers_randomness_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    write_tiny_sdxl(tmp_path / "tiny")
    assert torch.equal(torch.rand(3), expected)


def test_writing_twice_changes_nothing(tiny_base):
    times = {file: file.stat().st_mtime_ns for file in tiny_base.rglob("*")}
    assert write_tiny_sdxl(tiny_base) == tiny_base
    assert {file: file.stat().st_mtime_ns for file in tiny_base.rglob("*")} == times


def test_a_folder_of_something_else_is_left_alone(tiny_base, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something other"):
        write_tiny_sdxl(tmp_path)
    with pytest.raises(InputError, match="other than the tiny SDXL of seed 5"):
        write_tiny_sdxl(tiny_base, seed=5)
    with pytest.raises(InputError, match="already holds something other"):
        write_tiny_sdxl(tmp_path / "notes.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "_write_index", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_tiny_sdxl(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_is_not_hidden(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError("not allowed")

    monkeypatch.setattr(type(tmp_path), "replace", refuse)
    with pytest.raises(PermissionError, match="not allowed"):
        write_tiny_sdxl(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    """The folder appears between the look and the rename; what is there is as good if it is the same."""
    write_parts = tiny._write_parts

    def and_meanwhile(folder, unet, vae):
        write_parts(folder, unet, vae)
        monkeypatch.setattr(tiny, "_write_parts", write_parts)
        write_tiny_sdxl(tmp_path / "tiny", seed=3)

    monkeypatch.setattr(tiny, "_write_parts", and_meanwhile)
    assert write_tiny_sdxl(tmp_path / "tiny", seed=3) == tmp_path / "tiny"
    assert [file.name for file in tmp_path.iterdir()] == ["tiny"]


def test_a_base_says_that_its_weights_are_random(tiny_base, tmp_path):
    assert weights_origin(tiny_base) == {"weights": "random", "seed": 0, "recipe": tiny.RECIPE}
    assert "weights are random" in (tiny_base / "README.md").read_text()
    assert weights_origin(tmp_path) == {}
    (tmp_path / "bokehdiff.json").write_text("{")
    with pytest.raises(InputError, match=r"bokehdiff\.json must hold one JSON object"):
        weights_origin(tmp_path)


def test_the_unet_is_small_and_built_as_sdxl(tiny_base, networks):
    n_parameters = sum(weight.numel() for weight in networks.unet.parameters())
    assert 4e6 < n_parameters < 7e6
    config = networks.unet.config
    assert list(config.down_block_types) == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert len(networks.unet.get_submodule("down_blocks.1.attentions.0").transformer_blocks) == 2
    # No width may stand for another, or a slip between them would go unseen.
    assert config.cross_attention_dim not in config.block_out_channels
    index = json.loads((tiny_base / "model_index.json").read_text())
    assert index["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]


def test_a_taught_base_is_written_in_half_precision_and_says_what_it_is(tmp_path):
    from bokehdiff.models import load_sdxl, tiny_autoencoder, tiny_unet, write_taught_sdxl

    unet, vae = tiny_unet(), tiny_autoencoder()
    expected = unet.conv_in.weight.detach().half().float()
    base = write_taught_sdxl(tmp_path / "taught", unet, vae, origin={"weights": "taught"}, card="# Taught\n")
    loaded = load_sdxl(base)
    assert loaded.weights == "taught"
    assert torch.equal(loaded.unet.conv_in.weight.float(), expected)
    assert (base / "README.md").read_text() == "# Taught\n"
    assert sum(file.stat().st_size for file in base.rglob("*")) < 24e6


def test_each_word_of_the_prompt_is_one_token(tiny_base):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    words = tokenizer.convert_ids_to_tokens(tokenizer(PROMPT).input_ids)
    assert words == ["<|startoftext|>", *(f"{word}</w>" for word in PROMPT.split()), "<|endoftext|>"]
    assert len(tokenizer("Any other text.").input_ids) > 10


def test_scaled_latents_of_photographs_have_about_unit_variance(networks):
    import skimage.data

    for photograph in (skimage.data.astronaut(), skimage.data.coffee()):
        image = torch.from_numpy(photograph[:256, :256].copy()).permute(2, 0, 1)[None] / 127.5 - 1.0
        with torch.no_grad():
            mode = networks.vae.encode(image).latent_dist.mode()
        assert 0.7 < float((mode * networks.vae.config.scaling_factor).std()) < 1.4
