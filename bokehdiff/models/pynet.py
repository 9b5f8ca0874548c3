"""PyNET-Bokeh: an inverted pyramid of seven levels, coarse to fine, each a picture of its own size.

Source: Ignatov, Patel, Timofte, "Rendering natural camera bokeh effect with deep learning", CVPRW 2020. Levels are
counted as the paper does: 7 is the coarsest, 1 twice as large as what goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.errors import InputError

LEVELS = (7, 6, 5, 4, 3, 2, 1)
SIZE_MULTIPLE = 32  # sides of the input are halved five times [px]
KERNELS = (3, 5, 7, 9)
SLOPE = 0.2  # of LeakyReLU below 0
NORM_EPSILON = 1e-3
FIRST_DEVIATION, FIRST_BIAS = 0.01, 0.01  # of weights before training
HEAD_GAIN, HEAD_OFFSET = 0.58, 0.5  # pictures are 0.58 tanh + 0.5: a little beyond [0, 1], so that ends can be reached


class Bank(nn.Module):
    """Convolutions of several sizes side by side, twice each: MB(k, n), of n channels per size.

    Args:
        n_in: Channels in.
        n: Channels of each size.
        largest: Largest kernel; 3 and every odd size up to it take part [px].
        norm: Normalise each image's channels before each activation.
    """

    def __init__(self, n_in: int, n: int, largest: int = 3, *, norm: bool) -> None:
        super().__init__()

        def branch(side: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for n_from in (n_in, n):
                layers.append(nn.Conv2d(n_from, n, side, padding=side // 2))
                layers += [nn.InstanceNorm2d(n, eps=NORM_EPSILON, affine=True)] if norm else []
                layers.append(nn.LeakyReLU(SLOPE))
            return nn.Sequential(*layers)

        self.branches = nn.ModuleList(branch(side) for side in KERNELS if side <= largest)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        """All sizes, the smallest first."""
        return torch.cat([branch(features) for branch in self.branches], dim=1)


class Up(nn.Module):
    """Twice the size: a transposed convolution of 3 px, as TensorFlow aligns it.

    Concretely, out[2 i + k] collects weight[k] * in[i] for k in 0, 1, 2; the one row and column beyond twice the size
    are dropped at the end, not at both sides.

    Args:
        n_in: Channels in.
        n: Channels out.
    """

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(n_in, n, 3, stride=2, bias=False)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h2 w2"]:
        """Enlarge."""
        return F.leaky_relu(self.conv(features)[..., :-1, :-1], SLOPE)


class Head(nn.Module):
    """A level's picture.

    Args:
        n_in: Channels in.
    """

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, 3, 3, padding=1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """Display values, within -0.08 ... 1.08."""
        return HEAD_GAIN * torch.tanh(self.conv(features)) + HEAD_OFFSET


class _Level7(nn.Module):
    def __init__(self, e: Sequence[int], n: int, n_up: int) -> None:
        super().__init__()
        self.banks = nn.ModuleList([Bank(e[3], n, norm=True), *(Bank(n, n, norm=True) for _ in range(3))])
        self.ups, self.head = nn.ModuleList([Up(n, n_up), Up(n, n_up)]), Head(n)

    def forward(self, e: Sequence[Tensor]) -> Tensor:
        a = self.banks[0](F.max_pool2d(e[3], 2))
        b = self.banks[1](a) + a
        c = self.banks[2](b) + b
        return self.banks[3](c)


class _Level6(nn.Module):
    def __init__(self, e: Sequence[int], n: int, n_up: int) -> None:
        super().__init__()
        bank = partial(Bank, n=n, norm=True)
        self.banks = nn.ModuleList([bank(e[3] + n), bank(n), bank(n), bank(n), bank(2 * n)])
        self.ups, self.head = nn.ModuleList([Up(n, n_up), Up(n, n_up)]), Head(n)

    def forward(self, e: Sequence[Tensor], up_a: Tensor, up_b: Tensor) -> Tensor:
        x = self.banks[0](_beside(e[3], up_a))
        x = self.banks[1](x) + x
        x = self.banks[2](x) + x
        return self.banks[4](_beside(self.banks[3](x), up_b))


class _Level5(nn.Module):
    def __init__(self, e: Sequence[int], n: int, n_up: int) -> None:
        super().__init__()
        self.banks = nn.ModuleList([*(Bank(2 * n, n, 5, norm=True) for _ in range(4)), Bank(4 * n, n, norm=True)])
        self.ups, self.head = nn.ModuleList([Up(n, n_up), Up(n, n_up)]), Head(n)

    def forward(self, e: Sequence[Tensor], up_a: Tensor, up_b: Tensor) -> Tensor:
        x = _beside(e[2], up_a)
        for bank in self.banks[:3]:
            x = bank(x) + x
        return self.banks[4](_beside(self.banks[3](x), e[2], up_b))


class _Level4(nn.Module):
    def __init__(self, e: Sequence[int], n: int, n_up: int) -> None:
        super().__init__()
        bank = partial(Bank, n=n, norm=True)
        self.banks = nn.ModuleList(
            [bank(2 * n, largest=5), *(bank(3 * n, largest=7) for _ in range(4)), bank(4 * n, largest=5), bank(3 * n)]
        )
        self.ups, self.head = nn.ModuleList([Up(n, n_up), Up(n, n_up)]), Head(n)

    def forward(self, e: Sequence[Tensor], up_a: Tensor, up_b: Tensor) -> Tensor:
        x = _beside(self.banks[0](_beside(e[1], up_a)), e[1])
        for bank in self.banks[1:4]:
            x = bank(x) + x
        x = _beside(self.banks[4](x), e[1])
        return self.banks[6](_beside(self.banks[5](x), up_b))


class _Level3(nn.Module):
    def __init__(self, e: Sequence[int], n: int, *, norm: bool) -> None:
        super().__init__()
        bank = partial(Bank, n=n, norm=norm)
        self.banks = nn.ModuleList(
            [
                bank(2 * n, largest=5),
                bank(3 * n, largest=7),
                bank(3 * n, largest=9),
                *(bank(4 * n, largest=9) for _ in range(3)),
                bank(4 * n, largest=7),
                bank(4 * n, largest=5),
                bank(4 * n),
            ]
        )
        self.head = Head(n)

    def forward(self, e: Sequence[Tensor], up_a: Tensor, up_b: Tensor) -> Tensor:
        x = self.banks[1](_beside(self.banks[0](_beside(e[0], up_a)), e[0]))
        x = self.banks[2](x)
        for bank in self.banks[3:6]:
            x = bank(x) + x
        x = _beside(self.banks[6](x), e[0])
        return self.banks[8](_beside(self.banks[7](x), up_b, e[0]))


def _beside(*features: Tensor) -> Tensor:
    return torch.cat(features, dim=1)


class PyNet(nn.Module):
    """PyNET with the head for bokeh: a photograph of half the size of the picture, and its disparity.

    Args:
        with_disparity: Whether a disparity goes in beside the colours, as published.
        width: Multiple of the published numbers of channels, 47.55 million weights [1].
        norm_fine: Also normalise in level 3, which the published network does not; it keeps level 1 from diverging.
    """

    def __init__(self, *, with_disparity: bool = True, width: float = 1.0, norm_fine: bool = False) -> None:
        super().__init__()
        n = [round(width * channels) for channels in (32, 64, 128, 256, 512)]
        if min(n) < 1:
            raise InputError(f"width must leave at least one of 32 channels; got {width:g}")
        self.with_disparity = with_disparity
        n_in = 4 * (4 if with_disparity else 3)  # four pixels side by side
        norms = (False, True, True, True)
        self.encoder = nn.ModuleList(
            Bank(n_from, n_to, norm=norm) for n_from, n_to, norm in zip([n_in, *n[:3]], n[:4], norms, strict=True)
        )
        self.level7 = _Level7(n, n[4], n[3])
        self.level6 = _Level6(n, n[3], n[2])
        self.level5 = _Level5(n, n[2], n[1])
        self.level4 = _Level4(n, n[1], n[0])
        self.level3 = _Level3(n, n[0], norm=norm_fine)
        n_thin = max(3, round(width * 8))  # with fewer, a narrow network could tell no colours
        self.up2, self.head2 = Up(n[0], n_thin), Head(n_thin)
        self.up1, self.head1 = Up(3, 3), Head(3)
        self.apply(partial(_first_weights, deviation=FIRST_DEVIATION / width**0.5))  # as much goes through as if wide

    def forward(
        self, image_srgb: Float[Tensor, "b 3 h w"], disparity: Float[Tensor, "b h w"] | None, *, level: int = 1
    ) -> Float[Tensor, "b 3 lh lw"]:
        """The picture of one level, of size 2^(2 - level) times the input's.

        Args:
            image_srgb: Display values in [0, 1], sides multiples of 32.
            disparity: In [0, 1]; None for a network without.
            level: 7 the coarsest ... 1 the finest; finer levels are not computed.
        """
        self._check(image_srgb, disparity, level)
        colours = image_srgb if disparity is None else torch.cat([image_srgb, disparity[:, None]], dim=1)
        encoded = [self.encoder[0](F.pixel_unshuffle(colours, 2))]
        for bank in list(self.encoder)[1:]:
            encoded.append(bank(F.max_pool2d(encoded[-1], 2)))
        stage: Any = self.level7
        features = stage(encoded)
        for finer in (6, 5, 4, 3)[: 7 - max(level, 3)]:
            ups = [up(features) for up in stage.ups]
            stage = getattr(self, f"level{finer}")
            features = stage(encoded, *ups)
        if level >= LEVELS[4]:
            return stage.head(features)
        before_tanh = self.head2.conv(self.up2(features))
        if level == LEVELS[5]:
            return HEAD_GAIN * torch.tanh(before_tanh) + HEAD_OFFSET
        return self.head1(self.up1(before_tanh))

    def trained_at(self, level: int) -> dict[str, nn.Parameter]:
        """The weights that the picture of a level depends on, by name: those of coarser levels, but not their heads.

        Args:
            level: As in `forward`.
        """
        stages = [f"level{other}" for other in range(7, max(level, LEVELS[4]) - 1, -1)]
        used = ["encoder.", *(f"{stage}.banks." for stage in stages), *(f"{stage}.ups." for stage in stages[:-1])]
        used += [f"{stages[-1]}.head."] if level >= LEVELS[4] else ["up2.", "head2."]
        used += ["up1.", "head1."] if level == LEVELS[6] else []
        return {name: weight for name, weight in self.named_parameters() if name.startswith(tuple(used))}

    def _check(self, image_srgb: Tensor, disparity: Tensor | None, level: int) -> None:
        height, width = image_srgb.shape[-2:]
        if level not in LEVELS:
            raise InputError(f"level must be 7, the coarsest, to 1, the finest; got {level}")
        if (disparity is not None) != self.with_disparity:
            expected = "a disparity" if self.with_disparity else "no disparity"
            raise InputError(f"this PyNET was made for {expected}; got {'one' if disparity is not None else 'none'}")
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or height * width <= SIZE_MULTIPLE**2:
            raise InputError(
                f"height and width must be multiples of {SIZE_MULTIPLE} px, and not both {SIZE_MULTIPLE}; "
                f"got {height} x {width}: pad with bokehdiff.tiling.pad_to_multiple and crop the result"
            )


def _first_weights(module: nn.Module, *, deviation: float) -> None:
    """Small weights, cut at two deviations, and biases a little above 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if module.bias is not None:
            nn.init.constant_(module.bias, FIRST_BIAS)
