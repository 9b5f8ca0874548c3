"""With timm's smallest ConvNeXt and ViT, random: what is tested is the wiring, not what a pretrained network sees."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models import BACKBONES, Backbone, VisionAidedDiscriminator, discriminator
from tests.helpers import assert_close


@pytest.fixture
def critic():
    return VisionAidedDiscriminator("tiny", random_backbone=True)


def test_there_is_one_map_of_logits_per_level(critic):
    logits = critic(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape) for level in logits] == [(2, 1, 8, 12), (2, 1, 4, 6), (2, 1, 2, 3)]


def test_images_are_normalised_as_the_backbone_was_trained(critic):
    image = torch.rand(1, 3, 32, 32)
    # This one was trained with mean and deviation 0.5, ConvNeXt-Base with ImageNet's.
    features = critic.backbone.network.forward_intermediates((image - 0.5) / 0.5, indices=[1, 2, 3])[1]
    published = timm.get_pretrained_cfg(BACKBONES["convnext"].name)
    assert (published.mean, published.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for got, expected in zip(critic.backbone(image), features, strict=True):
        assert_close(got, expected)


def test_gradients_reach_the_image_and_the_heads_and_nothing_else(critic):
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    sum(level.mean() for level in critic(image)).backward()
    assert float(image.grad.abs().sum()) > 0
    assert all(weight.grad is not None for weight in critic.heads.parameters())
    assert all(weight.grad is None and not weight.requires_grad for weight in critic.backbone.parameters())


def test_the_backbone_stays_in_evaluation_mode(critic):
    critic.train()
    assert critic.heads.training
    assert not any(module.training for module in critic.backbone.modules())


def test_the_state_holds_the_heads_only_and_loads_back(critic):
    state = critic.state_dict()
    assert state
    assert all(name.startswith("heads.") for name in state)
    other = VisionAidedDiscriminator("tiny", random_backbone=True)
    other.backbone.load_state_dict(critic.backbone.state_dict())
    other.load_state_dict(state)
    image = torch.rand(1, 3, 32, 32)
    for got, expected in zip(other.eval()(image), critic.eval()(image), strict=True):
        assert_close(got, expected)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(state.items())[1:]))


def test_heads_have_spectral_norm_one(critic):
    for _ in range(30):
        critic(torch.rand(1, 3, 32, 32))  # power iteration, once per call
    for head in critic.heads:
        for layer in (head[0], head[2]):
            assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)) == pytest.approx(
                1.0, abs=0.02
            )


def test_the_answer_to_an_image_does_not_depend_on_the_others(critic):
    images = torch.rand(3, 3, 32, 32)
    critic.eval()
    for together, alone in zip(critic(images), critic(images[1:2]), strict=True):
        assert_close(together[1:2], alone)


def test_a_transformer_takes_any_size(monkeypatch):
    monkeypatch.setitem(BACKBONES, "vit", Backbone("test_vit.r160_in1k", (1, 3, 5), discriminator._ANY_SIZE))
    logits = VisionAidedDiscriminator("vit", random_backbone=True)(torch.rand(1, 3, 48, 75))
    assert [tuple(level.shape) for level in logits] == [(1, 1, 3, 5)] * 3


def test_every_backbone_of_the_table_is_one_of_timm():
    for chosen in BACKBONES.values():
        assert timm.get_pretrained_cfg(chosen.name, allow_unregistered=False) is not None


def test_local_weights_are_used(tmp_path):
    state = timm.create_model("test_convnext", num_classes=7).state_dict()
    save_file(state, tmp_path / "backbone.safetensors")
    torch.save(state, tmp_path / "backbone.pth")
    for name in ("backbone.safetensors", "backbone.pth"):
        critic = VisionAidedDiscriminator("tiny", weights=tmp_path / name)
        assert torch.equal(critic.backbone.network.stem[0].weight, state["stem.0.weight"])


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"stem.0.weight": torch.rand(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not one of test_convnext"):
        VisionAidedDiscriminator("tiny", weights=tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "broken.pth").write_bytes(b"no")
    for name in ("broken.safetensors", "broken.pth"):
        with pytest.raises(InputError, match=f"{name} is not a state dict, or it is damaged"):
            VisionAidedDiscriminator("tiny", weights=tmp_path / name)


def test_missing_weights_and_unknown_backbones_are_told(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"backbone convnext_base\.fb_in22k is not at .*nowhere\.pth"):
        VisionAidedDiscriminator(weights=tmp_path / "nowhere.pth")
    with pytest.raises(
        MissingWeightsError, match=r"timm/convnext_base\.fb_in22k is no folder here.*name the weight file of the disc"
    ):
        VisionAidedDiscriminator()
    with pytest.raises(InputError, match="cv_type must be one of convnext, .*; got 'resnet'"):
        VisionAidedDiscriminator("resnet")


def test_images_smaller_than_a_feature_are_refused(critic):
    with pytest.raises(InputError, match="at least 32 px a side; got 31 x 40"):
        critic(torch.rand(1, 3, 31, 40))
