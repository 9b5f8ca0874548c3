from __future__ import annotations

import math

import pytest
import torch
import torchvision

from bokehdiff import losses
from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.losses import FeatureLoss, PerceptualLoss
from tests.helpers import assert_close


def test_mse_is_measured_between_minus_one_and_one():
    prediction, target = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    assert_close(losses.mse_loss(prediction, target), 4 * (prediction - target).square().mean())


def area_average(image, size_hw):
    """Loop oracle: each output pixel is the mean of the input pixels that it touches."""
    height, width = image.shape[-2:]
    result = torch.empty(*image.shape[:-2], *size_hw, dtype=image.dtype)
    for row in range(size_hw[0]):
        for column in range(size_hw[1]):
            top, bottom = row * height // size_hw[0], math.ceil((row + 1) * height / size_hw[0])
            left, right = column * width // size_hw[1], math.ceil((column + 1) * width / size_hw[1])
            result[..., row, column] = image[..., top:bottom, left:right].mean(dim=(-2, -1))
    return result


def slow_edge_loss(prediction, target, image):
    total = 0.0
    for divisor in (1, 2, 3):
        size_hw = tuple(max(side // divisor, 1) for side in prediction.shape[-2:])
        p, t, i = (area_average(2 * x - 1, size_hw) for x in (prediction, target, image))
        for down, right in ((1, 0), (0, 1)):
            terms = []
            for y in range(size_hw[0] - down):
                for x in range(size_hw[1] - right):
                    dp, dt, di = (z[..., y + down, x + right] - z[..., y, x] for z in (p, t, i))
                    terms.append((dp - dt).abs() * (1 + torch.maximum(dt.abs(), di.abs())))
            if terms:
                total = total + torch.stack(terms).mean() / divisor
    return torch.as_tensor(total, dtype=prediction.dtype)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (2, 2), (3, 3), (7, 11), (12, 6)])
def test_edge_loss_is_its_formula(size_hw):
    pictures = torch.rand(3, 2, 3, *size_hw, dtype=torch.float64)
    assert_close(losses.edge_loss(*pictures), slow_edge_loss(*pictures))


def test_edge_loss_is_blind_to_brightness_and_keen_on_edges():
    target = torch.zeros(1, 3, 9, 9)
    target[..., 4:] = 0.5
    assert_close(losses.edge_loss(target + 0.25, target, target), torch.zeros(()))
    flat = torch.full_like(target, 0.25)
    noted = losses.edge_loss(flat, target, target)
    assert float(noted) > float(losses.edge_loss(target, flat, flat))


def test_pixel_losses_have_gradients():
    prediction, target, image = torch.rand(3, 1, 3, 6, 5, dtype=torch.float64)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(losses.mse_loss, (prediction, target))
    assert torch.autograd.gradcheck(losses.edge_loss, (prediction, target, image))


def test_pixel_losses_refuse_pictures_of_two_sizes():
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError, match="target_srgb"):
        losses.mse_loss(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5))


def levels_of(*values):
    return [torch.full((2, 1, side, side), float(value)) for side, value in enumerate(values, start=1)]


def bce(logit, target):
    share = 1 / (1 + math.exp(-logit))
    return -(target * math.log(share) + (1 - target) * math.log(1 - share))


def test_adversarial_losses_are_their_formulas():
    real, fake = levels_of(2.0, -0.5), levels_of(-1.0, 0.3)
    expected = bce(2.0, 0.8) + bce(-0.5, 0.8) + bce(-1.0, 0.0) + bce(0.3, 0.0)
    assert_close(losses.discriminator_adversarial_loss(real, fake), torch.tensor(expected))
    assert_close(losses.generator_adversarial_loss(fake), torch.tensor(bce(-1.0, 0.8) + bce(0.3, 0.8)))
    hinge = losses.discriminator_adversarial_loss(real, fake, kind="hinge")
    assert_close(hinge, torch.tensor(0.0 + 1.5 + 0.0 + 1.3))
    assert_close(losses.generator_adversarial_loss(fake, kind="hinge"), torch.tensor(1.0 - 0.3))


@pytest.mark.parametrize("kind", ["multilevel_sigmoid_s", "hinge"])
def test_adversarial_losses_do_not_grow_with_the_batch(kind):
    level = torch.randn(1, 1, 3, 3)
    once = losses.discriminator_adversarial_loss([level], [-level], kind=kind)
    many = losses.discriminator_adversarial_loss([level.repeat(4, 1, 1, 1)], [-level.repeat(4, 1, 1, 1)], kind=kind)
    assert_close(many, once)


def test_the_generator_is_drawn_towards_real():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    losses.generator_adversarial_loss([logits]).backward()
    assert bool((logits.grad < 0).all())
    with pytest.raises(InputError, match="at least one feature level; got none"):
        losses.generator_adversarial_loss([])


@pytest.fixture(scope="module")
def perceptual():
    return PerceptualLoss(random_trunk=True)


def test_a_random_perceptual_loss_says_so(caplog, monkeypatch, perceptual):
    monkeypatch.setattr(losses, "_lpips", lambda: perceptual.lpips)
    PerceptualLoss(random_trunk=True)
    assert "random VGG16" in caplog.text


def test_perceptual_loss_is_lpips(perceptual):
    prediction, target = torch.rand(2, 3, 17, 33), torch.rand(2, 3, 17, 33)
    expected = perceptual.lpips(2 * prediction - 1, 2 * target - 1).mean()
    assert_close(perceptual(prediction, target), expected)
    assert float(perceptual(target, target)) == 0.0


def test_perceptual_loss_is_frozen_and_passes_gradients(perceptual):
    prediction = torch.rand(1, 3, 16, 16, requires_grad=True)
    perceptual(prediction, torch.rand(1, 3, 16, 16)).backward()
    assert float(prediction.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in perceptual.parameters())
    assert not perceptual.lpips.training


def test_perceptual_loss_needs_a_few_pixels(perceptual):
    with pytest.raises(InputError, match="at least 16 px a side; got 15 x 40"):
        perceptual(torch.rand(1, 3, 15, 40), torch.rand(1, 3, 15, 40))


def test_missing_vgg_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        MissingWeightsError, match=r"no file .*checkpoints/vgg16-397923af\.pth: download https://download\.pytorch\.org"
    ):
        PerceptualLoss()
    with pytest.raises(MissingWeightsError, match=r"no file .*mine\.pth"):
        PerceptualLoss(tmp_path / "mine.pth")


def test_local_vgg_weights_are_used(tmp_path, monkeypatch, perceptual):
    with torch.device("meta"):
        names = torchvision.models.vgg16().features.state_dict()
    state = {f"features.{name}": torch.rand(tensor.shape) for name, tensor in names.items()}
    torch.save(state, tmp_path / "vgg.pth")
    monkeypatch.setattr(losses, "_lpips", lambda: perceptual.lpips)
    loaded = PerceptualLoss(tmp_path / "vgg.pth")
    assert torch.equal(loaded.lpips.net.slice5[-2].weight, state["features.28.weight"])
    del state["features.28.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"lack features\.28\.weight of shape"):
        PerceptualLoss(tmp_path / "less.pth")


def test_damaged_vgg_weights_are_named(tmp_path):
    (tmp_path / "noise.pth").write_bytes(b"noise")
    torch.save([1.0], tmp_path / "list.pth")
    with pytest.raises(InputError, match=r"noise\.pth is not a state dict, or it is damaged"):
        PerceptualLoss(tmp_path / "noise.pth")
    with pytest.raises(InputError, match=r"list\.pth must hold tensors by name; got list"):
        PerceptualLoss(tmp_path / "list.pth")


def test_features_differ_by_their_mean_square_and_feel_gradients():
    features = FeatureLoss(random_trunk=True)
    image, target = torch.rand(2, 3, 32, 48, requires_grad=True), torch.rand(2, 3, 32, 48)
    assert float(features(target, target)) == 0.0
    loss = features(image, target)
    trunk = features.trunk
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    ours, theirs = (trunk((x - mean[:, None, None]) / deviation[:, None, None]) for x in (image, target))
    assert_close(loss, (ours - theirs).square().mean())
    assert ours.shape == (2, 512, 2, 3), "relu5_4, halved four times"
    loss.backward()
    assert float(image.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in features.parameters())


def test_oxfords_weights_are_given_values_up_to_255():
    features = FeatureLoss(random_trunk=True, inputs="caffe")
    given = []
    features.trunk.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    features(torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    target, prediction = (x[0, :, 0, 0] for x in given)
    assert_close(prediction, 255.0 - torch.tensor([123.68, 116.779, 103.939]))
    assert_close(target, -torch.tensor([123.68, 116.779, 103.939]))


def test_vgg19_is_read_by_torchvisions_names(tmp_path):
    trunk = FeatureLoss(random_trunk=True).trunk.state_dict()
    state = {f"features.{name}": value for name, value in trunk.items()}
    torch.save(state | {"classifier.0.bias": torch.zeros(1)}, tmp_path / "vgg19.pth")
    read = FeatureLoss(tmp_path / "vgg19.pth").trunk.state_dict()
    assert all(torch.equal(read[name], trunk[name]) for name in trunk)
    del state["features.34.weight"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"the VGG-19 weights lack features\.34\.weight of shape"):
        FeatureLoss(tmp_path / "other.pth")
    with pytest.raises(
        MissingWeightsError, match=r"the feature loss needs VGG-19.*no file .*none\.pth.*vgg19-dcbb9e9d"
    ):
        FeatureLoss(tmp_path / "none.pth")
    with pytest.raises(InputError, match="at least 16 px a side; got 8 x 16"):
        FeatureLoss(random_trunk=True)(torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 8, 16))


def test_ssim_costs_nothing_where_pictures_are_equal():
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert float(losses.ssim_loss(image, image.detach()).detach()) == pytest.approx(0.0, abs=1e-6)
    loss = losses.ssim_loss(image, torch.rand(1, 3, 16, 16))
    loss.backward()
    assert 0.5 < float(loss.detach()) < 1.5
    assert float(image.grad.abs().sum()) > 0


def test_a_wasserstein_critic_is_asked_for_distance_and_a_slope_of_one():
    """D(x) = g * sum of x has the slope g * sqrt(number of values) everywhere."""
    slope = torch.tensor(0.3, requires_grad=True)

    def critic(image):
        return slope * image.sum(dim=(1, 2, 3), keepdim=True)

    target, prediction = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    share = torch.tensor([0.2, 0.9])
    loss = losses.wasserstein_critic_loss(critic, target, prediction, share=share, penalty_weight=10.0)
    distance = (prediction.sum() - target.sum()) / 2
    assert_close(loss.detach(), 0.3 * distance + 10.0 * (0.3 * 48**0.5 - 1.0) ** 2)
    loss.backward()
    assert_close(slope.grad, distance + 20.0 * (0.3 * 48**0.5 - 1.0) * 48**0.5)


def test_the_slope_is_measured_between_the_two():
    seen = []

    def critic(image):
        seen.append(image.detach())
        return image.square().mean(dim=(1, 2, 3), keepdim=True)

    target, prediction = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    share = torch.tensor([0.25, 1.0])
    losses.wasserstein_critic_loss(critic, target, prediction, share=share, penalty_weight=1.0)
    assert_close(seen[0][:, 0, 0, 0], torch.tensor([0.25, 1.0]))
