from __future__ import annotations

import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models import (
    LORA_TARGETS,
    VAE_TRAINABLE,
    add_lora,
    load_adapter,
    load_sdxl,
    save_adapter,
    trainable_groups,
    trainable_parts,
)
from tests.helpers import SHARED, assert_close

RELEASED = SHARED / "golden" / "released_checkpoint"
LORA = "pytorch_lora_weights.safetensors"
VAE = "vae_encoder.safetensors"


def stir(unet, vae):
    """As if trained: without it the LoRA does nothing, B being zero."""
    generator = torch.Generator().manual_seed(1)
    parts = trainable_parts(unet, vae)
    with torch.no_grad():
        for weight in (*parts.lora.values(), *parts.vae.values()):
            weight += 0.05 * torch.randn(weight.shape, generator=generator)


@pytest.fixture(scope="module")
def trained(tiny_base):
    """Not to be changed: adding a LoRA takes a second."""
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=4, alpha=6.0)
    stir(networks.unet, networks.vae)
    return networks


@pytest.fixture(scope="module")
def trained_output(trained, prompt):
    return run_unet(trained.unet, prompt)


@pytest.fixture(scope="module")
def bare(tiny_base):
    """For adapters that are refused, which must leave it as it is."""
    return load_sdxl(tiny_base)


@pytest.fixture
def folder(trained, tmp_path):
    return save_adapter(tmp_path / "adapter", trained.unet, trained.vae, metadata={"train_T": 499})


def run_unet(unet, prompt):
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, unet.config.in_channels, 8, 8, generator=generator)
    condition = {"text_embeds": prompt.pooled, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    with torch.no_grad():
        return unet(latents, 499, encoder_hidden_states=prompt.tokens, added_cond_kwargs=condition).sample


def rewrite(file, change, *, metadata=None):
    """Save the tensors of a file again, `change`d, with other metadata."""
    save_file(change(load_file(file)), file, metadata=metadata or {"format": "pt"})


def test_a_new_lora_changes_no_output(networks, prompt):
    before = run_unet(networks.unet, prompt)
    add_lora(networks.unet)
    assert_close(run_unet(networks.unet, prompt), before)


def test_lora_sits_on_every_layer_that_is_listed_and_on_no_other(networks):
    layers = {name for name, _ in networks.unet.named_modules()}
    expected = {layer for layer in layers if layer.endswith(tuple(f".{target}" for target in LORA_TARGETS))}
    add_lora(networks.unet, rank=2, alpha=1.0)
    parts = trainable_parts(networks.unet, networks.vae)
    assert {name.split(".lora_")[0] for name in parts.lora} == expected
    assert {target for target in LORA_TARGETS if any(layer.endswith(f".{target}") for layer in expected)} == set(
        LORA_TARGETS
    )
    assert all(not weight.any() for name, weight in parts.lora.items() if ".lora_B." in name)
    gaussian = torch.cat([weight.detach().flatten() for name, weight in parts.lora.items() if ".lora_A." in name])
    assert float(gaussian.std()) == pytest.approx(0.5, rel=0.02)  # 1 / rank


def test_lora_is_float32_on_a_half_precision_base(tiny_base):
    networks = load_sdxl(tiny_base, dtype=torch.bfloat16)
    add_lora(networks.unet)
    assert {weight.dtype for weight in trainable_parts(networks.unet, networks.vae).lora.values()} == {torch.float32}


def test_bad_ranks_and_second_loras_are_refused(networks):
    with pytest.raises(InputError, match="rank must be at least 1 and alpha above 0; got rank 0, alpha 8"):
        add_lora(networks.unet, rank=0)
    add_lora(networks.unet)
    with pytest.raises(InputError, match="has a LoRA already"):
        add_lora(networks.unet)


@pytest.mark.parametrize("train_vae", [True, False])
def test_what_is_given_to_the_optimiser_is_what_trains(networks, train_vae):
    add_lora(networks.unet)
    lora, vae = trainable_groups(networks.unet, networks.vae, train_vae=train_vae)
    training = {id(p) for part in (networks.unet, networks.vae) for p in part.parameters() if p.requires_grad}
    assert training == {id(p) for p in (*lora, *vae)}
    parts = trainable_parts(networks.unet, networks.vae)
    assert len(lora) == len(parts.lora)
    assert len(vae) == (len(parts.vae) if train_vae else 0)
    assert {name for name in VAE_TRAINABLE if any(key.startswith(name) for key in parts.vae)} == set(VAE_TRAINABLE)


def test_the_files_hold_what_is_trained_and_nothing_else(trained, folder):
    parts = trainable_parts(trained.unet, trained.vae)
    lora, vae = load_file(folder / LORA), load_file(folder / VAE)
    assert sorted(file.name for file in folder.iterdir()) == [LORA, VAE]
    assert len(lora) == len(parts.lora)
    assert lora.keys() == {f"unet.{name.replace('.default.', '.')}" for name in parts.lora}
    assert vae.keys() == parts.vae.keys()
    assert all(torch.equal(vae[name], parts.vae[name]) for name in vae)


def test_a_saved_adapter_comes_back_the_same(trained, trained_output, folder, networks, prompt):
    assert not torch.allclose(run_unet(networks.unet, prompt), trained_output, atol=1e-3)
    report = load_adapter(folder, networks.unet, networks.vae)
    parts, loaded = (trainable_parts(network.unet, network.vae) for network in (trained, networks))
    assert (report.n_lora_tensors, report.n_vae_tensors) == (len(parts.lora), len(parts.vae))
    assert (report.rank, report.alpha, report.metadata) == (4, 6.0, {"train_T": 499})
    assert all(torch.equal(loaded.lora[name], parts.lora[name]) for name in parts.lora)
    assert all(torch.equal(loaded.vae[name], parts.vae[name]) for name in parts.vae)
    assert_close(run_unet(networks.unet, prompt), trained_output)


def test_an_adapter_goes_onto_a_lora_of_its_kind_only(folder, networks, trained_output, prompt):
    add_lora(networks.unet, rank=4, alpha=6.0)
    load_adapter(folder, networks.unet, networks.vae)
    assert_close(run_unet(networks.unet, prompt), trained_output)
    rewrite(folder / LORA, lambda lora: lora)  # without what tells alpha, it is the rank
    (folder / VAE).unlink()
    with pytest.raises(InputError, match="alpha must be 6, as of the UNet's LoRA; got 4"):
        load_adapter(folder, networks.unet, networks.vae)
    rewrite(folder / LORA, lambda lora: {name: tensor for name, tensor in lora.items() if "mid_block" not in name})
    with pytest.raises(InputError, match="differ in layers or rank: mid_block"):
        load_adapter(folder, networks.unet, networks.vae)


def test_stock_diffusers_reads_the_lora(trained_output, folder, tiny_base, prompt):
    """Alpha differs from the rank, which a reader without our metadata would get wrong."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_base)
    pipeline.load_lora_weights(folder)
    assert_close(run_unet(pipeline.unet, prompt), trained_output)


@pytest.mark.skipif(not RELEASED.is_dir(), reason="needs the released checkpoint of a tiny model")
def test_the_released_files_load_whole():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(RELEASED / "base" / "unet"))
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(RELEASED / "base" / "vae"))
    report = load_adapter(RELEASED, unet, vae)
    assert (report.n_lora_tensors, report.n_vae_tensors, report.rank, report.alpha) == (514, 30, 8, 8.0)
    lora = load_file(RELEASED / LORA)
    live = {name.replace(".default.", "."): weight for name, weight in trainable_parts(unet, vae).lora.items()}
    assert live.keys() == lora.keys()
    assert all(torch.equal(live[name], lora[name]) for name in lora)
    conv_in = torch.load(RELEASED / "vae.ckpt", weights_only=True)["encoder.conv_in.weight"]
    assert torch.equal(vae.encoder.conv_in.weight, conv_in)


def old_spelling(name):
    return name.replace("unet.", "").replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.removeprefix("unet."),
        old_spelling,
        lambda name: old_spelling(name) if "attn" in name else name,
        lambda name: name.replace(".lora_A.", ".lora_A.default.").replace("unet.", "base_model.model."),
    ],
    ids=["no prefix", "down and up", "mixed", "peft"],
)
def test_other_spellings_of_the_names_load(trained, folder, networks, spell):
    header = {"lora_adapter_metadata": json.dumps({"lora_alpha": 6.0})}
    rewrite(folder / LORA, lambda lora: {spell(name): tensor for name, tensor in lora.items()}, metadata=header)
    (folder / VAE).unlink()
    report = load_adapter(folder / LORA, networks.unet, networks.vae)
    assert (report.n_vae_tensors, report.alpha) == (0, 6.0)
    expected, loaded = (trainable_parts(network.unet, network.vae).lora for network in (trained, networks))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_alpha_may_stand_beside_each_layer(folder, networks):
    (folder / VAE).unlink()
    layers = {name.split(".lora_")[0] for name in load_file(folder / LORA)}
    rewrite(folder / LORA, lambda lora: lora | {f"{layer}.alpha": torch.tensor(2.0) for layer in layers})
    assert load_adapter(folder, networks.unet, networks.vae).alpha == 2.0
    assert networks.unet.get_submodule("down_blocks.0.resnets.0.conv1").scaling == {"default": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lora: lora | {"text_encoder.x.lora_A.weight": torch.ones(4, 3)}, "has no layer text_encoder.x|lacks"),
        (lambda lora: lora | {"unet.conv_in.weight": torch.ones(3)}, "no LoRA of a UNet: conv_in.weight"),
        (lambda lora: dict(list(lora.items())[1:]), "lacks the other half of its LoRA: down_blocks"),
        (lambda lora: {name.replace("attn1", "attn9"): t for name, t in lora.items()}, "no layer .* more"),
        (
            lambda lora: {name: t[..., :3, :3] if t.ndim == 4 else t for name, t in lora.items()} | wide(lora),
            "here; got",
        ),
        (lambda lora: lora | short(lora), "one rank for all layers; got ranks 2, 4"),
        (lambda lora: lora | twice(lora), "twice, under two spellings"),
        (lambda lora: lora | {"a.alpha": torch.tensor(1.0), "b.alpha": torch.tensor(2.0)}, "one alpha for all .* 1, 2"),
        (lambda lora: {}, "holds no LoRA tensors"),
        (lambda lora: {name: tensor.flatten() for name, tensor in lora.items()}, "no matrices or kernels"),
    ],
    ids=["text encoder", "leftover", "half", "layers", "shape", "ranks", "twice", "alphas", "empty", "flat"],
)
def test_a_lora_that_does_not_fit_is_refused_and_changes_nothing(folder, bare, change, message):
    (folder / VAE).unlink()
    rewrite(folder / LORA, change)
    with pytest.raises(InputError, match=message):
        load_adapter(folder, bare.unet, bare.vae)
    assert not trainable_parts(bare.unet, bare.vae).lora


def wide(lora):
    name = next(name for name in lora if name.endswith("to_q.lora_A.weight"))
    return {name: torch.zeros(lora[name].shape[0], lora[name].shape[1] + 1)}


def short(lora):
    name = next(name for name in lora if name.endswith("to_q.lora_A.weight"))
    return {name: torch.zeros(2, lora[name].shape[1])}


def twice(lora):
    name = next(iter(lora))
    return {name.removeprefix("unet."): lora[name].clone()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda vae: vae | {"decoder.conv_in.weight": torch.ones(2)},
            "not trained here: decoder.conv_in.weight; expected",
        ),
        (lambda vae: dict(list(vae.items())[1:]), "lacks tensors: encoder"),
        (lambda vae: {name: tensor[..., None] for name, tensor in vae.items()}, "must be .* here; got"),
    ],
    ids=["more", "less", "shape"],
)
def test_parts_of_another_autoencoder_are_refused(folder, bare, change, message):
    rewrite(folder / LORA, lambda lora: lora)
    rewrite(folder / VAE, change)
    with pytest.raises(InputError, match=message):
        load_adapter(folder, bare.unet, bare.vae)
    assert not trainable_parts(bare.unet, bare.vae).lora


def test_saving_again_replaces_and_files_of_two_saves_are_not_mixed(trained, folder, bare):
    first = {name: (folder / name).read_bytes() for name in (LORA, VAE)}
    before = trained.vae.encoder.conv_in.bias.detach().clone()
    with torch.no_grad():
        trained.vae.encoder.conv_in.bias += 1.0
    save_adapter(folder, trained.unet, trained.vae)
    with torch.no_grad():
        trained.vae.encoder.conv_in.bias.copy_(before)
    assert_close(load_file(folder / VAE)["encoder.conv_in.bias"], before + 1.0)
    assert len(list(folder.iterdir())) == 2
    (folder / VAE).write_bytes(first[VAE])
    with pytest.raises(InputError, match="are of two saves"):
        load_adapter(folder, bare.unet, bare.vae)


def test_a_unet_without_a_lora_is_not_saved(bare, tmp_path):
    with pytest.raises(InputError, match="the UNet has no LoRA to save"):
        save_adapter(tmp_path / "adapter", bare.unet, bare.vae)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(trained, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the folder .*file"):
        save_adapter(tmp_path / "file", trained.unet, trained.vae)


def test_files_may_be_read_by_whom_other_files_may(folder, tiny_base, tmp_path):
    (tmp_path / "ordinary").touch()
    ordinary = (tmp_path / "ordinary").stat().st_mode
    assert {file.stat().st_mode for file in folder.iterdir()} == {ordinary}
    assert {file.stat().st_mode for file in tiny_base.rglob("*") if file.is_file()} == {ordinary}


def test_a_missing_adapter_is_told_with_what_is_there(bare, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        MissingWeightsError, match=rf"small/{LORA} is missing; .* holds notes\.txt: pass the folder that holds {LORA}"
    ):
        load_adapter(tmp_path, bare.unet, bare.vae, variant="small")
    with pytest.raises(MissingWeightsError, match="nobody/adapter is no folder here"):
        load_adapter("nobody/adapter", bare.unet, bare.vae)


@pytest.mark.parametrize("key", ["bokehdiff", "lora_adapter_metadata"])
def test_a_header_that_is_not_json_is_named(bare, folder, key):
    (folder / VAE).unlink()
    rewrite(folder / LORA, lambda lora: lora, metadata={key: "[alpha"})
    with pytest.raises(InputError, match=rf"{key} in its header must be a JSON object; got '\[alpha'"):
        load_adapter(folder, bare.unet, bare.vae)


def test_damaged_files_are_named(bare, folder):
    whole = (folder / LORA).read_bytes()
    (folder / LORA).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{LORA} is not a whole safetensors file"):
        load_adapter(folder, bare.unet, bare.vae)


@pytest.mark.parametrize("kind", ["noise", "code", "list", "zip"])
def test_a_pickle_is_read_as_tensors_or_not_at_all(bare, folder, kind):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    rewrite(folder / LORA, lambda lora: lora)
    (folder / VAE).unlink()
    file = folder / "vae.ckpt"
    if kind == "noise":
        file.write_bytes(b"\x80\x02noise")
    elif kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", "b")
    else:
        torch.save([1.0] if kind == "list" else {"encoder.conv_in.weight": Harm()}, file)
    with pytest.raises(InputError, match=r"vae\.ckpt (is not a state dict|must hold tensors by name)"):
        load_adapter(folder, bare.unet, bare.vae)
