from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
import torch

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models import load_sdxl, sdxl
from tests.helpers import assert_close


@pytest.fixture
def base_copy(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def rewrite_schedule(base, **changes):
    file = base / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def test_networks_are_read_frozen_and_in_the_dtype_asked_for(tiny_base):
    networks = load_sdxl(str(tiny_base), dtype=torch.bfloat16)
    assert {weight.dtype for weight in networks.unet.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in networks.vae.parameters()} == {torch.float32}
    assert not any(weight.requires_grad for part in (networks.unet, networks.vae) for weight in part.parameters())
    assert not networks.unet.training
    assert networks.weights == "random"
    assert networks.prediction_type == "epsilon"
    assert networks.base == str(tiny_base)


def test_sdxls_schedule_leaves_the_known_share_of_signal(networks):
    """abar[499] = 0.2777 for SDXL's betas."""
    assert networks.alphas_cumprod.shape == (1000,)
    assert float(networks.alphas_cumprod[499]) == pytest.approx(0.2777, abs=1e-4)
    product = 1.0
    for step in range(500):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * step / 999
        product *= 1.0 - root**2
    assert float(networks.alphas_cumprod[499]) == pytest.approx(product, rel=1e-5)


@pytest.mark.parametrize("sampler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_schedule_is_the_same_whatever_the_sampler(base_copy, networks, sampler):
    import diffusers

    scheduler = getattr(diffusers, sampler)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.save_pretrained(base_copy / "scheduler")
    assert_close(load_sdxl(base_copy).alphas_cumprod, networks.alphas_cumprod)


def test_velocity_is_accepted_and_other_predictions_are_not(base_copy):
    rewrite_schedule(base_copy, prediction_type="v_prediction")
    assert load_sdxl(base_copy).prediction_type == "v_prediction"
    rewrite_schedule(base_copy, prediction_type="sample")
    with pytest.raises(InputError, match="prediction_type must be epsilon or v_prediction; got 'sample'"):
        load_sdxl(base_copy)


def test_a_schedule_without_betas_is_refused(base_copy):
    rewrite_schedule(base_copy, _class_name="FlowMatchEulerDiscreteScheduler", beta_start=..., trained_betas=None)
    with pytest.raises(InputError, match=r"must tell beta_start.*got FlowMatchEulerDiscreteScheduler"):
        load_sdxl(base_copy)


def test_a_missing_variant_is_told_with_what_is_there(tiny_base):
    with pytest.raises(
        MissingWeightsError, match=r"model\.fp16\.safetensors is missing; .*unet holds config\.json, diffusion_"
    ):
        load_sdxl(tiny_base, variant="fp16")


def test_a_variant_is_read_where_only_it_is_there(base_copy):
    for part in ("unet", "vae"):
        file = base_copy / part / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(MissingWeightsError, match="such as fp16, name it"):
        load_sdxl(base_copy)
    assert load_sdxl(base_copy, variant="fp16").weights == "random"


def test_an_empty_folder_is_told_by_what_it_lacks(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"unet/config\.json is missing; .* holds nothing"):
        load_sdxl(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not tensors at all, only some bytes"])
def test_a_damaged_weight_file_is_named(base_copy, content):
    (base_copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(MissingWeightsError, match="unet cannot be read: ") as caught:
        load_sdxl(base_copy)
    assert "\n" not in str(caught.value)


def test_a_damaged_config_is_named(base_copy):
    (base_copy / "scheduler" / "scheduler_config.json").write_text("[1")
    with pytest.raises(InputError, match=r"scheduler_config\.json must hold one JSON object"):
        load_sdxl(base_copy)


def test_only_the_files_needed_are_fetched(monkeypatch, tiny_base):
    fetched = {}

    def snapshot(name, *, revision, allow_patterns, local_files_only):
        fetched.update(revision=revision, patterns=allow_patterns)
        return str(tiny_base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    networks = load_sdxl("owner/name", revision="main")
    assert networks.base == "owner/name"
    assert fetched["revision"] == "main"
    assert {"unet/diffusion_pytorch_model.safetensors", "bokehdiff.json"} <= set(fetched["patterns"])
    assert not any("text_encoder" in pattern or "fp16" in pattern for pattern in fetched["patterns"])


def test_zero_snr_schedules_are_rescaled(tmp_path):
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    rescaled = sdxl.alphas_from_config(schedule | {"rescale_betas_zero_snr": True}, tmp_path)
    assert float(rescaled[-1]) == pytest.approx(0.0, abs=1e-6)
