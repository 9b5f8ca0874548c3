"""The attention-based Double V-Net: two encoder-decoders in a row, the second looking at what the first left undone.

Source: the entry "Attention-based Double V-Net" to AIM 2022's bokeh challenge (arXiv 2211.06769), whose first half is
BGGAN's generator (Qian et al., "BGGAN: Bokeh-glass generative adversarial network", ECCVW 2020).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bokehdiff.errors import InputError

Norm = Literal["instance", "sum_variance"]

SIZE_MULTIPLE = 8  # sides of the input are halved three times [px]
NORM_EPSILON = 1e-5
FIRST_DEVIATION = 0.02
DROPOUT = 0.1
SLOPE = 0.2  # of the critics' LeakyReLU below 0
N_FIRST_BLOCKS = 9


class Normalised(nn.Module):
    """Each channel of each image brought to mean 0 and deviation 1, without weights.

    Args:
        kind: "instance", or "sum_variance" for the released code's, which divides by the root of the *sum* of squared
            deviations instead of their mean, so that what comes out is smaller by the root of the number of pixels.
    """

    def __init__(self, kind: Norm) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        centred = features - features.mean(dim=(2, 3), keepdim=True)
        squares = centred.square()
        spread = squares.mean(dim=(2, 3), keepdim=True) if self.kind == "instance" else squares.sum((2, 3), True)
        return centred * (spread + NORM_EPSILON).rsqrt()


class _Conv(nn.Module):
    """3 x 3 with ReLU, no bias; a stride of 2 is aligned as TensorFlow does it: padded at the end only."""

    def __init__(self, n_in: int, n: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n, 3, stride=stride, padding=1 if stride == 1 else 0, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            features = F.pad(features, (0, 1, 0, 1))
        return F.relu(self.conv(features))


class _Deconv(nn.Module):
    """Transposed 4 x 4 with ReLU; without a stride, TensorFlow drops one row at the start and two at the end."""

    def __init__(self, n_in: int, n: int, stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(n_in, n, 4, stride=stride, padding=1 if stride > 1 else 0)

    def forward(self, features: Tensor) -> Tensor:
        spread = self.conv(features)
        return F.relu(spread if self.conv.stride[0] > 1 else spread[..., 1:-2, 1:-2])


class _Residual(nn.Module):
    """Two convolutions added to what came in, which a 1 x 1 convolution brings to other channels if need be."""

    def __init__(self, n_in: int, n: int, norm: Norm) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n, 3, padding=1, bias=False)
        self.second = nn.Conv2d(n, n, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if n_in == n else nn.Conv2d(n_in, n, 1, bias=False)
        self.norm, self.dropout = Normalised(norm), nn.Dropout(DROPOUT)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.norm(self.first(features))))
        return F.relu(self.norm(self.second(inner)) + self.shortcut(features))


class _ChannelAttention(nn.Module):
    """Channels scaled by what their means over the image tell."""

    def __init__(self, n: int, squeeze: int = 8) -> None:
        super().__init__()
        self.squeeze = nn.Linear(n, max(1, n // squeeze), bias=False)
        self.excite = nn.Linear(max(1, n // squeeze), n, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(features.mean(dim=(2, 3))))))
        return features * scale[:, :, None, None]


class _SpatialAttention(nn.Module):
    """Places scaled by what the mean and the largest of their channels tell, within 7 x 7."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        seen = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        return features * torch.sigmoid(self.conv(seen))


class _FirstV(nn.Module):
    def __init__(self, c: int, norm: Norm) -> None:
        super().__init__()
        self.down = nn.Sequential(_Conv(3, c), _Conv(c, 2 * c, 2), _Conv(2 * c, 4 * c, 2), _Conv(4 * c, 8 * c, 2))
        self.blocks = nn.Sequential(*(_Residual(8 * c, 8 * c, norm) for _ in range(N_FIRST_BLOCKS)))
        self.up = nn.Sequential(_Deconv(16 * c, 4 * c), _Deconv(4 * c, 2 * c), _Deconv(2 * c, c))
        self.last = nn.Conv2d(c, 3, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        coarse = self.down(image)
        return torch.tanh(self.last(self.up(torch.cat([self.blocks(coarse), coarse], dim=1))))


class _SecondV(nn.Module):
    def __init__(self, c: int, norm: Norm) -> None:
        super().__init__()
        self.c1, self.c2 = _Conv(6, c), _Conv(c, 2 * c)
        self.c3, self.c4 = _Conv(2 * c, 4 * c, 2), _Conv(4 * c, 4 * c, 2)
        self.r1, self.r2 = _Residual(4 * c, 4 * c, norm), _Residual(4 * c, 8 * c, norm)
        self.r3, self.r4 = _Residual(8 * c, 8 * c, norm), _Conv(8 * c, 16 * c)
        self.channels = nn.ModuleList(_ChannelAttention(n) for n in (8 * c, 8 * c, 16 * c))
        self.places = nn.ModuleList(_SpatialAttention() for _ in range(3))
        self.u4 = _Conv(16 * c, 8 * c)
        self.u3, self.u2 = _Residual(16 * c, 8 * c, norm), _Residual(16 * c, 8 * c, norm)
        self.u1 = _Residual(8 * c, 4 * c, norm)
        self.v4, self.v3, self.v2 = _Deconv(8 * c, 4 * c), _Deconv(8 * c, 2 * c), _Deconv(4 * c, 2 * c, 1)
        self.c5, self.last = _Conv(2 * c, c), nn.Conv2d(c, 3, 3, padding=1, bias=False)

    def forward(self, image: Tensor, coarse: Tensor) -> Tensor:
        c2 = self.c2(self.c1(torch.cat([coarse, image - coarse], dim=1)))
        c3 = self.c3(c2)
        c4 = self.c4(c3)
        r2 = self.r2(self.r1(c4))
        r3 = self.r3(r2)
        r4 = self.r4(r3)
        ca2, ca3, ca4 = self.channels
        sa2, sa3, sa4 = self.places
        u = self.u3(torch.cat([self.u4(ca4(r4)), ca3(r3)], dim=1))
        u = self.u1(self.u2(torch.cat([u, ca2(r2)], dim=1)))
        v = self.v4(torch.cat([u, sa4(c4)], dim=1))
        v = self.v3(torch.cat([v, sa3(c3)], dim=1))
        v = self.v2(torch.cat([v, sa2(c2)], dim=1))
        return self.last(self.c5(v))


class DoubleVNet(nn.Module):
    """A photograph to the picture of a wide lens, twice: a coarse try, and what is better.

    Args:
        width: Multiple of the published numbers of channels, 13.36 million weights [1].
        norm: Kind of normalisation; see `Normalised`.
    """

    def __init__(self, *, width: float = 1.0, norm: Norm = "instance") -> None:
        super().__init__()
        first, second = round(16 * width), round(32 * width)
        if first < 1:
            raise InputError(f"width must leave at least one of 16 channels; got {width:g}")
        self.first, self.second = _FirstV(first, norm), _SecondV(second, norm)
        self.apply(partial(_first_weights, deviation=FIRST_DEVIATION / width**0.5))  # as much goes through as if wide

    def forward(
        self, image_srgb: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
        """The picture, and the coarse try of the first half; not clamped.

        Args:
            image_srgb: Display values in [0, 1], sides multiples of 8.
        """
        height, width = image_srgb.shape[-2:]
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or not (height and width):
            raise InputError(
                f"height and width must be multiples of {SIZE_MULTIPLE} px; got {height} x {width}: pad with "
                f"bokehdiff.tiling.pad_to_multiple(image, {SIZE_MULTIPLE}) and crop the result"
            )
        image = 2.0 * image_srgb - 1.0
        coarse = self.first(image)
        return 0.5 * self.second(image, coarse) + 0.5, 0.5 * coarse + 0.5


class Critic(nn.Module):
    """Tells pictures from targets by a score per place; higher is more real.

    Args:
        n_halvings: 3 looks at patches, 5 at large parts of the picture.
        norm: As in `DoubleVNet`.
        n_scores: Channels of the score: the released code averages 512, one is enough.
        width: Multiple of the published numbers of channels [1].
    """

    def __init__(self, *, n_halvings: int = 3, norm: Norm = "instance", n_scores: int = 1, width: float = 1.0) -> None:
        super().__init__()
        widths = [max(1, round(width * min(64 * 2**i, 512))) for i in range(n_halvings)]
        last = max(1, round(width * 512))
        layers: list[nn.Module] = []
        for n_in, n, stride in zip([3, *widths], [*widths, last], [2] * n_halvings + [1], strict=True):
            layers += [_SameConv4(n_in, n, stride), Normalised(norm), nn.LeakyReLU(SLOPE)]
        self.features = nn.Sequential(*layers)
        self.score = nn.Conv2d(last, n_scores, 1)

    def forward(self, image_srgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b s sh sw"]:
        """Scores.

        Args:
            image_srgb: Display values in [0, 1].
        """
        return self.score(self.features(2.0 * image_srgb - 1.0))


class _SameConv4(nn.Module):
    """4 x 4, padded as TensorFlow does: one more at the end where the sum is odd."""

    def __init__(self, n_in: int, n: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n, 4, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        stride = self.conv.stride[0]
        pads = []
        for size in (features.shape[3], features.shape[2]):
            total = max((-(-size // stride) - 1) * stride + 4 - size, 0)
            pads += [total // 2, total - total // 2]
        return self.conv(F.pad(features, pads))


def _first_weights(module: nn.Module, *, deviation: float) -> None:
    """Convolutions of normal numbers; transposed ones by Glorot; attention by He."""
    if isinstance(module, nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=deviation)
    elif isinstance(module, _SpatialAttention | _ChannelAttention):
        for weight in module.parameters():
            nn.init.kaiming_normal_(weight)
