"""At SDXL's real sizes, without weights: what a LoRA consists of, and the memory that a step takes."""

from __future__ import annotations

import hashlib

import pytest
import torch

from bokehdiff.cli.main import main
from bokehdiff.models import BACKBONES, VisionAidedDiscriminator, add_lora, sketch_sdxl, trainable_parts
from bokehdiff.training.memory import ImitatedAutocast, StorageCounter, peak_bytes, sketching
from tests.helpers import REPOSITORY

# As the released training makes them: 1576 tensors, 24.59 M parameters (`unet.add_adapter` of diffusers 0.42).
N_LORA_TENSORS = 1576
N_LORA_PARAMETERS = 24_593_920
N_VAE_PARAMETERS = 10_535_432
GOLDEN_NAMES = "a24a6405c55091e0"  # SHA-256 of the sorted names, one a line


@pytest.fixture(scope="module")
def sdxl():
    networks = sketch_sdxl(dtype=torch.bfloat16)
    add_lora(networks.unet, rank=8)
    return networks


def test_the_lora_of_the_real_sdxl_is_the_published_one(sdxl):
    parts = trainable_parts(sdxl.unet, sdxl.vae)
    names = sorted(name.replace(".default.", ".") for name in parts.lora)
    assert len(names) == N_LORA_TENSORS
    assert sum(weight.numel() for weight in parts.lora.values()) == N_LORA_PARAMETERS
    assert sum(weight.numel() for weight in parts.vae.values()) == N_VAE_PARAMETERS
    assert sum(weight.numel() for name, weight in sdxl.unet.named_parameters() if ".lora_" not in name) == 2_567_463_684
    assert {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0.lora_B.weight",
        "mid_block.resnets.1.time_emb_proj.lora_B.weight",
        "up_blocks.2.resnets.2.conv_shortcut.lora_A.weight",
    } <= set(names)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest.startswith(GOLDEN_NAMES), "the set of names is part of the file format"
    shapes = {name.replace(".default.", "."): list(weight.shape) for name, weight in parts.lora.items()}
    assert shapes["down_blocks.1.resnets.0.conv1.lora_A.weight"] == [8, 320, 3, 3]
    assert shapes["down_blocks.1.resnets.0.conv1.lora_B.weight"] == [640, 8, 1, 1]


@pytest.mark.parametrize("cv_type", sorted(BACKBONES))
def test_every_backbone_judges_512_px_and_passes_gradients_to_the_image(cv_type):
    """In full size without content: heads of the right width, levels of falling size, a graph back to the image."""
    with sketching():
        critic = VisionAidedDiscriminator(cv_type, random_backbone=True)
        image = torch.rand(2, 3, 512, 512, requires_grad=True)
        logits = critic(image)
        assert len(logits) == 3
        assert all(level.shape[:2] == (2, 1) for level in logits)
        sum(level.mean() for level in logits).backward()
    assert image.grad is not None
    assert image.grad.shape == image.shape
    assert all(weight.grad is not None for weight in critic.heads.parameters())
    assert all(weight.grad is None for weight in critic.backbone.parameters())


def test_bytes_are_counted_while_something_holds_them():
    counter = StorageCounter()
    with counter:
        kept = torch.zeros(256)
        view = kept[3:]
        passing = kept + 1
        assert counter.now == 2 * 1024
        del passing
        assert counter.now == 1024
        del kept
        assert counter.now == 1024, "a view holds all of it"
        del view
    assert (counter.now, counter.peak) == (0, 2 * 1024)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_peak_of_a_small_network_is_what_arithmetic_says(device):
    """Weight w [64 64] after input x [8 64]: y = x w, its square, their gradients."""
    layer = torch.nn.Linear(64, 64, bias=False, device=device)
    x = torch.ones(8, 64, device=device)
    rows, square = 8 * 64 * 4, 64 * 64 * 4
    peak = peak_bytes(lambda: layer(x).square().sum(), [layer], ImitatedAutocast(layer, torch.float32))
    assert square + rows <= peak <= square + 5 * rows


def dry_run(capsys, *words: object) -> str:
    assert main(["train", "--dry-run", "--train-data-dir", "DATA", *(str(word) for word in words)]) == 0
    return capsys.readouterr().out


def test_dry_run_prints_the_configuration_and_what_it_takes(capsys, tiny_base):
    printed = dry_run(
        capsys, "--pretrained-model-name-or-path", tiny_base, "--resolution", 64, "--edge", "--lambda-gan", 0.1,
        "--cv-type", "tiny", "--ema-decay", 0.9, "--push-to-hub", "--hub-model-id", "owner/name",
    )  # fmt: skip
    assert "lora_rank: 8" in printed
    rows = [line.lstrip("# ").rsplit("  ", 1)[0].strip() for line in printed.splitlines() if "GiB" in line]
    assert {"UNet, frozen", "running mean", "activations and gradients, discriminator's step", "peak"} <= {
        row.split("  ")[0] for row in rows
    }
    assert "# the adapter and its card would be uploaded to owner/name" in printed


@pytest.mark.slow
def test_dry_run_of_the_16_gb_recipe_stays_within_16_gib(capsys):
    printed = dry_run(capsys, "--config", REPOSITORY / "configs" / "bokehdiff_sdxl_16gb.yaml")
    assert "mixed_precision: bf16" in printed
    (peak,) = [line for line in printed.splitlines() if line.startswith("# peak")]
    assert 8 < float(peak.split()[2]) < 14, "16 less the context and the allocator's rounding"
