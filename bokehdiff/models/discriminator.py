"""A critic that sees through a frozen pretrained network (Kumari et al., "Ensembling off-the-shelf models", 2022)."""

from __future__ import annotations

import logging
import pickle
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from bokehdiff.errors import InputError, MissingWeightsError, first_line
from bokehdiff.weights import find_weights

logger = logging.getLogger(__name__)

HEAD_WIDTH = 256
LEAK = 0.2
TIMM_FILE = "model.safetensors"
REASON_LENGTH = 200  # of a list of layers that do not fit, in a message of one line


@dataclass(frozen=True)
class Backbone:
    """A vision network of timm.

    Args:
        name: Architecture and weights in timm's spelling.
        levels: Feature levels that are judged: stages of a convolutional network, blocks of a transformer.
        options: Further arguments of `timm.create_model`.
    """

    name: str
    levels: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()


_ANY_SIZE = (("dynamic_img_size", True), ("dynamic_img_pad", True))

BACKBONES = {
    "convnext": Backbone("convnext_base.fb_in22k", (1, 2, 3)),
    "dinov2": Backbone("vit_base_patch14_dinov2.lvd142m", (3, 7, 11), _ANY_SIZE),
    "clip": Backbone("vit_base_patch16_clip_224.openai", (3, 7, 11), _ANY_SIZE),
    "swin": Backbone("swin_base_patch4_window7_224.ms_in22k", (1, 2, 3), (("strict_img_size", False),)),
    "vgg": Backbone("vgg16.tv_in1k", (2, 3, 4)),
    "tiny": Backbone("test_convnext.r160_in1k", (1, 2, 3)),
}


class VisionAidedDiscriminator(nn.Module):
    """Judges images by the features of a frozen backbone: one spectrally normalised head per feature level.

    Concretely, logit[l][b, 0, y, x] = w2 . leaky_relu(W1 f[l][b, :, y, x]), where f[l] are the backbone's features of
    the image, normalised as it was trained with. Only the heads train, and only they are in the state dict; gradients
    reach the image through the backbone, which stays in evaluation mode.

    Args:
        cv_type: Name in `BACKBONES`.
        weights: Backbone's weight file of timm; None for the hub's cache, or the hub.
        random_backbone: Use a backbone that has learned nothing, to try out programs; never looks for a file.
        backbone_dtype: Precision that the frozen backbone is kept and run in; the heads stay float32.

    Raises:
        MissingWeightsError: If the backbone's weights cannot be found.
        InputError: If there is no such backbone, or the file is not of it.
    """

    def __init__(
        self,
        cv_type: str = "convnext",
        *,
        weights: str | Path | None = None,
        random_backbone: bool = False,
        backbone_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if cv_type not in BACKBONES:
            raise InputError(f"cv_type must be one of {', '.join(BACKBONES)}; got {cv_type!r}")
        chosen = BACKBONES[cv_type]
        state = None if random_backbone else _read_weights(chosen, weights)
        self.backbone = FrozenBackbone(chosen, state, dtype=backbone_dtype)
        if random_backbone:
            logger.warning("The discriminator's backbone %s is random: it has seen no image", chosen.name)
        self.heads = nn.ModuleList(_head(width) for width in self.backbone.widths)
        self.register_state_dict_post_hook(_forget_backbone)
        self.register_load_state_dict_post_hook(_expect_no_backbone)

    def forward(self, image_srgb: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1 _ _"], ...]:
        """One map of logits per feature level; large means "taken with a lens".

        Args:
            image_srgb: Display images in [0, 1].
        """
        # Called by the generator's step outside of autocast, by its own inside of it: the answer must be the same.
        with nullcontext() if image_srgb.is_meta else torch.autocast(image_srgb.device.type, enabled=False):
            features = self.backbone(image_srgb)
            return tuple(head(level) for head, level in zip(self.heads, features, strict=True))


class FrozenBackbone(nn.Module):
    """Feature levels of a vision network that never trains, on display images in [0, 1].

    Args:
        chosen: Which network and levels.
        state: Its weights; None for random ones.
        dtype: What it is kept and run in; images come and features leave in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, chosen: Backbone, state: dict[str, Tensor] | None, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        import timm

        self.dtype = dtype
        self.network = _network(chosen, state).to(dtype)
        self.levels = list(chosen.levels)
        self.widths = tuple(self.network.feature_info[level]["num_chs"] for level in chosen.levels)
        self.coarsest_px = max(self.network.feature_info[level]["reduction"] for level in chosen.levels)
        trained_on = timm.get_pretrained_cfg(chosen.name)
        self.register_buffer("mean", torch.tensor(trained_on.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(trained_on.std)[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stays in evaluation mode, whatever the mode of the discriminator around it."""
        super().train(False)
        return self

    def forward(self, image_srgb: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features of each level, channels first.

        Args:
            image_srgb: Display images in [0, 1].
        """
        height, width = image_srgb.shape[-2:]
        if min(height, width) < self.coarsest_px:
            raise InputError(f"this backbone needs at least {self.coarsest_px} px a side; got {height} x {width}")
        features: list[Tensor] = self.network.forward_intermediates(
            ((image_srgb - self.mean) / self.std).to(self.dtype),
            indices=self.levels,
            output_fmt="NCHW",
            intermediates_only=True,
            stop_early=True,
        )
        return [level.float() for level in features]


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width, HEAD_WIDTH, kernel_size=1)),
        nn.LeakyReLU(LEAK),
        spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, kernel_size=1)),
    )


def _forget_backbone(module: nn.Module, state: dict[str, Any], prefix: str, _: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}backbone.")]:
        del state[name]


def _expect_no_backbone(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if "backbone." not in name]


def _read_weights(chosen: Backbone, weights: str | Path | None) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    file = Path(weights) if weights is not None else find_backbone(chosen)
    if not file.is_file():
        raise MissingWeightsError(f"the discriminator's backbone {chosen.name} is not at {file}: name its weight file")
    try:
        state: dict[str, Tensor] = load_state_dict(str(file), use_ema=False, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise InputError(
            f"{file} is not a state dict, or it is damaged ({first_line(error)}): download it again"
        ) from None
    return state


def find_backbone(chosen: Backbone) -> Path:
    """The weight file of a backbone in timm's own cache.

    Args:
        chosen: One of `BACKBONES`.
    """
    way_out = "name the weight file of the discriminator's backbone, or train without the adversarial loss"
    return find_weights(f"timm/{chosen.name}", needed=[(TIMM_FILE,)], instead=way_out) / TIMM_FILE


def _network(chosen: Backbone, state: dict[str, Tensor] | None) -> Any:
    import timm

    create = partial(timm.create_model, chosen.name, num_classes=0, **dict(chosen.options))
    if state is None:
        return create(pretrained=False)
    try:
        # timm takes the weights as an overlay of its own record of where they are: it then looks for no file, and does
        # the renaming that older files of an architecture need.
        return create(pretrained=True, pretrained_cfg_overlay={"state_dict": state, "custom_load": False})
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:REASON_LENGTH]
        raise InputError(f"the weight file is not one of {chosen.name}: {reason}") from error
