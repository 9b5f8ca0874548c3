from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from bokehdiff.machine import stored_weights
from bokehdiff.models import BACKBONES

COMMIT = "c0ffee" * 6 + "c0de"
TEXT = [f"text_encoder{end}/{file}" for end in ("", "_2") for file in ("config.json", "model.safetensors")]
BASE = [
    *TEXT,
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
]


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Puts files of a repository into an empty cache; whoever asks the hub fails the test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub._hub_dir", None)  # which another test of the process may have set

    def add(repository: str, *names: str) -> Path:
        folder = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        put(folder, "refs/main")
        (folder / "refs" / "main").write_text(COMMIT)
        return put(folder / "snapshots" / COMMIT, *names)

    return add


def found(**names: str) -> dict[str, tuple[str | None, str | None]]:
    """Place and what else to do, by what the weights are."""
    asked = {"tiny_base": "tiny", "tiny_adapter": "tiny-bokeh", "base": "owner/base", "adapter": "owner/adapter"}
    stored = stored_weights(**(asked | names), adapter_variant="small", backbone="convnext")
    return {entry.what: (entry.place, entry.otherwise) for entry in stored}


def test_nothing_is_there_and_each_says_how_to_get_it(cached):
    there = found()
    assert {place for place, _ in there.values()} == {None}
    assert there["SDXL base"][1] == "hf download owner/base --include '*/*'"
    assert there["published adapter"][1] == "hf download owner/adapter --include 'small/*'"
    assert there["depth model"][1] == "hf download depth-anything/Depth-Anything-V2-Small-hf"
    assert "checkpoints/vgg16-397923af.pth https://download.pytorch.org/" in there["VGG16 of LPIPS"][1]


def test_what_lies_in_the_caches_and_folders_is_found(cached, tiny_base, tmp_path):
    base = cached("owner/base", *BASE)
    adapter = cached("owner/adapter", "small/pytorch_lora_weights.safetensors")
    depth = cached("depth-anything/Depth-Anything-V2-Small-hf", "config.json", "model.safetensors")
    critic = cached(f"timm/{BACKBONES['convnext'].name}", "model.safetensors")
    vgg = put(tmp_path / "torch" / "hub" / "checkpoints", "vgg16-397923af.pth") / "vgg16-397923af.pth"
    there = found(tiny_base=str(tiny_base))
    assert there["tiny SDXL"] == (str(tiny_base), None)
    assert there["SDXL base"] == (str(base), None)
    assert there["published adapter"] == (str(adapter / "small" / "pytorch_lora_weights.safetensors"), None)
    assert there["depth model"] == (str(depth), None)
    assert there["discriminator"] == (str(critic / "model.safetensors"), None)
    assert there["VGG16 of LPIPS"] == (str(vgg), None)
    assert there["masks, optional"][0] is None


def test_half_a_base_is_not_there(cached):
    cached("owner/base", *TEXT)
    assert found()["SDXL base"][0] is None


def test_a_base_in_half_precision_only_names_the_flag(cached):
    cached("owner/base", *(name.replace(".safetensors", ".fp16.safetensors") for name in BASE))
    assert found()["SDXL base"] == (None, "only in half precision: --base-variant fp16")
