"""What training asks for: pixels, edges, what an eye sees, what a critic cannot tell. On display images in [0, 1].

The published weights of these losses were found for images in [-1, 1], where differences are twice as large: each
function goes there itself.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.metrics import ssim
from bokehdiff.weights import read_state_dict

logger = logging.getLogger(__name__)

AdversarialKind = Literal["multilevel_sigmoid_s", "hinge"]

EDGE_SCALES = (1, 2, 3)  # an edge is looked at on 1, 1/2 and 1/3 of the size
REAL_TARGET = 0.8  # a critic that is never quite sure keeps gradients alive (one-sided label smoothing)
VGG_FILE = "vgg16-397923af.pth"
VGG19_FILE = "vgg19-dcbb9e9d.pth"
VGG_URL = "https://download.pytorch.org/models/{file}"
VGG_SMALLEST_PX = 16  # VGG's trunk halves four times before its last features
RELU5_4 = 36  # layers of VGG-19 up to and with it, as torchvision counts
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what torchvision's networks expect
CAFFE_MEAN_255 = (123.68, 116.779, 103.939)  # what Oxford's own weights expect, of values up to 255
WHITE_255 = 255.0

VggInputs = Literal["imagenet", "caffe"]


def mse_loss(prediction_srgb: Float[Tensor, "b 3 h w"], target_srgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean squared error of images in [-1, 1].

    Concretely, mean over b, c, y, x of (2 prediction - 2 target)^2.

    Args:
        prediction_srgb: What was made.
        target_srgb: What should have been.
    """
    return F.mse_loss(_signed(prediction_srgb), _signed(target_srgb))


def edge_loss(
    prediction_srgb: Float[Tensor, "b 3 h w"],
    target_srgb: Float[Tensor, "b 3 h w"],
    image_srgb: Float[Tensor, "b 3 h w"],
) -> Float[Tensor, ""]:
    """Difference of gradients, counted more where target or photograph have an edge (BokehDiff's edge loss).

    Concretely, the sum over scales s in {1, 1/2, 1/3} and axes of s * mean(|D p - D t| * (1 + max(|D t|, |D i|))),
    where D is the forward difference along the axis, on images in [-1, 1], shrunk by area averages to floor(s * size),
    at least 1 px. An axis of 1 px has no differences and adds nothing.

    Args:
        prediction_srgb: What was made, p.
        target_srgb: What should have been, t.
        image_srgb: The all-in-focus photograph, i.
    """
    stack = torch.stack([_signed(prediction_srgb), _signed(target_srgb), _signed(image_srgb)]).flatten(0, 1)
    height, width = stack.shape[-2:]
    total = stack.new_zeros(())
    for divisor in EDGE_SCALES:
        size_hw = (max(height // divisor, 1), max(width // divisor, 1))
        shrunk = stack if divisor == 1 else F.interpolate(stack, size=size_hw, mode="area")
        for axis in (-2, -1):
            if shrunk.shape[axis] > 1:
                total = total + _weighted_difference(shrunk.diff(dim=axis)) / divisor
    return total


def _weighted_difference(gradients: Float[Tensor, "three_b 3 h w"]) -> Float[Tensor, ""]:
    prediction, target, image = gradients.chunk(3)
    weight = 1.0 + torch.maximum(target.abs(), image.abs())
    return ((prediction - target).abs() * weight).mean()


def _signed(image_srgb: Tensor) -> Tensor:
    return 2.0 * image_srgb - 1.0


class PerceptualLoss(nn.Module):
    """LPIPS with VGG16: distance of deep features, weighted as people judged (Zhang et al. 2018). Frozen.

    Args:
        weights: torchvision's VGG16 as a state dict on disk; None for torch's own cache, which is not filled from here.
        random_trunk: Use a VGG16 that has learned nothing, to try out programs; never looks for a file.

    Raises:
        MissingWeightsError: Naming the file, where it was looked for, and where it comes from.
    """

    def __init__(self, weights: str | Path | None = None, *, random_trunk: bool = False) -> None:
        super().__init__()
        state = None if random_trunk else _read_vgg(weights, VGG_FILE, what="the perceptual loss needs VGG16")
        self.lpips = _lpips()
        if state is not None:
            _fill_trunk(self.lpips.get_submodule("net"), state)
        else:
            logger.warning("The perceptual loss compares features of a random VGG16: it measures nothing people see")
        self.requires_grad_(False)
        self.eval()

    def forward(
        self, prediction_srgb: Float[Tensor, "b 3 h w"], target_srgb: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        """Mean over the batch of the perceptual distance.

        Args:
            prediction_srgb: What was made, at least 16 px on each side.
            target_srgb: What should have been.
        """
        _refuse_small(prediction_srgb, "the perceptual loss")
        distance: Tensor = self.lpips(_signed(prediction_srgb), _signed(target_srgb))
        return distance.mean()


def _refuse_small(image: Tensor, what: str) -> None:
    height, width = image.shape[-2:]
    if min(height, width) < VGG_SMALLEST_PX:
        raise InputError(f"{what} needs at least {VGG_SMALLEST_PX} px a side; got {height} x {width}")


def _lpips() -> nn.Module:
    """LPIPS's architecture and judgement weights, which come with its package; its trunk yet to be filled."""
    import lpips

    with warnings.catch_warnings():
        # lpips calls torchvision's VGG16 with an argument that was renamed; nothing here depends on it.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network: nn.Module = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    return network


def vgg_file(name: str = VGG_FILE) -> Path:
    """Where torchvision's weights lie in torch's own cache, if they do.

    Args:
        name: Of the file.
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _read_vgg(weights: str | Path | None, name: str, *, what: str) -> Mapping[str, Tensor]:
    file = Path(weights) if weights is not None else vgg_file(name)
    url = VGG_URL.format(file=name)
    if not file.is_file():
        raise MissingWeightsError(
            f"{what}, and there is no file {file}: download {url} and put it there, "
            "name another copy of it, or leave the perceptual loss out"
        )
    return read_state_dict(file, instead=f"download {url} again")


def _fill_trunk(trunk: nn.Module, state: Mapping[str, Tensor]) -> None:
    """LPIPS cuts torchvision's `features.N` into slices, `sliceS.N`: the number stays."""
    named = {name: re.sub(r"^slice\d+\.", "features.", name) for name, _ in trunk.named_parameters()}
    _refuse_other_vgg(trunk, named, state, which="VGG16")
    trunk.load_state_dict({name: state[source] for name, source in named.items()})


def _refuse_other_vgg(trunk: nn.Module, named: Mapping[str, str], state: Mapping[str, Tensor], *, which: str) -> None:
    """Every weight must be there, under its name in the file, in its shape."""
    for name, parameter in trunk.named_parameters():
        source = named[name]
        if source not in state or state[source].shape != parameter.shape:
            raise InputError(
                f"the {which} weights lack {source} of shape {list(parameter.shape)}: are they torchvision's?"
            )


class FeatureLoss(nn.Module):
    """Mean squared difference of VGG-19's features relu5_4, as PyNET and the Double V-Net have it. Frozen.

    The published weights of this term go with Oxford's own VGG-19, whose features are of another scale than those of
    torchvision's, which were trained anew.

    Args:
        weights: VGG-19 as a state dict in torchvision's names; None for torch's own cache, which is not filled here.
        inputs: What the weights expect: "imagenet" for torchvision's, values minus mean over deviation; "caffe" for
            Oxford's, values up to 255 minus the mean, with the colours in the order red, green, blue.
        random_trunk: Use a VGG-19 that has learned nothing, to try out programs; never looks for a file.

    Raises:
        MissingWeightsError: Naming the file, where it was looked for, and where it comes from.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, weights: str | Path | None = None, *, inputs: VggInputs = "imagenet", random_trunk: bool = False
    ) -> None:
        super().__init__()
        state = None if random_trunk else _read_vgg(weights, VGG19_FILE, what="the feature loss needs VGG-19")
        self.trunk = _vgg19_trunk(state)
        if state is None:
            logger.warning("The feature loss compares features of a random VGG-19: it measures nothing people see")
        oxford = tuple(level / WHITE_255 for level in CAFFE_MEAN_255), (1 / WHITE_255,) * 3
        mean, deviation = oxford if inputs == "caffe" else (IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(
        self, prediction_srgb: Float[Tensor, "b 3 h w"], target_srgb: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        """Mean over images, channels and places.

        Args:
            prediction_srgb: What was made, at least 16 px on each side.
            target_srgb: What should have been.
        """
        _refuse_small(prediction_srgb, "the feature loss")
        with torch.no_grad():
            expected = self._features(target_srgb)
        return F.mse_loss(self._features(prediction_srgb), expected)

    def _features(self, image_srgb: Tensor) -> Tensor:
        features: Tensor = self.trunk((image_srgb - self.mean) / self.deviation)
        return features


def _vgg19_trunk(state: Mapping[str, Tensor] | None) -> nn.Module:
    """VGG-19 up to relu5_4, without the layers behind it that would take half a gigabyte."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        trunk: nn.Module = vgg19(weights=None, init_weights=False).features[:RELU5_4]
    if state is None:
        trunk.to_empty(device="cpu")
        for weight in trunk.parameters():
            nn.init.normal_(weight, std=(2.0 / max(weight[0].numel(), 1)) ** 0.5 if weight.ndim > 1 else 0.0)
        return trunk
    named = {name: f"features.{name}" for name, _ in trunk.named_parameters()}
    _refuse_other_vgg(trunk, named, state, which="VGG-19")
    trunk.load_state_dict({name: state[source] for name, source in named.items()}, assign=True)
    return trunk


def ssim_loss(prediction_srgb: Float[Tensor, "b 3 h w"], target_srgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """1 - SSIM, mean over images; what lies outside [0, 1] counts as its ends, and feels no gradient.

    Args:
        prediction_srgb: What was made, at least 11 px on each side.
        target_srgb: What should have been.
    """
    return 1.0 - ssim(prediction_srgb, target_srgb).mean()


def wasserstein_critic_loss(
    critic: Callable[[Tensor], Tensor],
    target_srgb: Float[Tensor, "b 3 h w"],
    prediction_srgb: Float[Tensor, "b 3 h w"],
    *,
    share: Float[Tensor, " b"],
    penalty_weight: float,
) -> Float[Tensor, ""]:
    """What a Wasserstein critic is asked for: higher scores for targets, and a slope of 1 between them and predictions.

    Concretely, mean D(prediction) - mean D(target) + penalty_weight * mean over b of (|grad D(x_b)| - 1)^2 with
    x_b = share_b target_b + (1 - share_b) prediction_b. Source: Gulrajani et al., "Improved training of Wasserstein
    GANs", 2017, whose penalty_weight is 10.

    Args:
        critic: Gives scores per image and place; differentiable twice.
        target_srgb: Real pictures.
        prediction_srgb: Made pictures, without their graph.
        share: Where between the two each image's slope is measured, in [0, 1].
        penalty_weight: Of the slope's deviation from 1.
    """
    mixture = torch.lerp(prediction_srgb, target_srgb, share[:, None, None, None]).requires_grad_(True)
    # Sum over images: the slope of each image's mean score by its own pixels.
    scores = critic(mixture).flatten(1).mean(dim=1).sum()
    (slope,) = torch.autograd.grad(scores, mixture, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1.0).square().mean()
    return critic(prediction_srgb).mean() - critic(target_srgb).mean() + penalty_weight * penalty


def discriminator_adversarial_loss(
    real_logits: Sequence[Float[Tensor, "b 1 _ _"]],
    fake_logits: Sequence[Float[Tensor, "b 1 _ _"]],
    *,
    kind: AdversarialKind = "multilevel_sigmoid_s",
) -> Float[Tensor, ""]:
    """What the critic is asked for: tell targets from predictions at every level.

    Concretely, summed over levels, with means over images and places: for "multilevel_sigmoid_s" bce(real, 0.8) +
    bce(fake, 0), bce on logits; for "hinge" relu(1 - real) + relu(1 + fake). Neither depends on the number of images.

    Args:
        real_logits: The critic's answer to targets, one map per feature level; large means real.
        fake_logits: Its answer to predictions.
        kind: Which loss.
    """
    total = torch.zeros((), device=_device(real_logits))
    for real, fake in zip(real_logits, fake_logits, strict=True):
        if kind == "hinge":
            total = total + F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
        else:
            total = total + _bce(real, REAL_TARGET) + _bce(fake, 0.0)
    return total


def generator_adversarial_loss(
    fake_logits: Sequence[Float[Tensor, "b 1 _ _"]], *, kind: AdversarialKind = "multilevel_sigmoid_s"
) -> Float[Tensor, ""]:
    """What the generator is asked for: predictions that the critic takes for targets.

    Concretely, summed over levels: bce(fake, 0.8) for "multilevel_sigmoid_s", -mean(fake) for "hinge".

    Args:
        fake_logits: The critic's answer to predictions, one map per feature level.
        kind: Which loss.
    """
    total = torch.zeros((), device=_device(fake_logits))
    for fake in fake_logits:
        total = total + (-fake.mean() if kind == "hinge" else _bce(fake, REAL_TARGET))
    return total


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _device(logits: Sequence[Tensor]) -> torch.device:
    if not logits:
        raise InputError("the discriminator must answer on at least one feature level; got none")
    return logits[0].device
