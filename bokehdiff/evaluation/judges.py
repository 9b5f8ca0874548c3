"""Numbers that say how near a picture is to its reference, by name; those whose weights are missing say so."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import BokehDiffError, InputError, MissingWeightsError, first_line
from bokehdiff.metrics import ms_ssim, psnr, ssim

Compare = Callable[[Float[Tensor, "1 3 h w"], Float[Tensor, "1 3 h w"]], Float[Tensor, " 1"]]

VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
ALEX_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
DISTS_URL = "https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt"


@dataclass(frozen=True)
class Judge:
    """One number per image.

    Args:
        name: As in tables and on the command line.
        higher_is_better: Whether more is nearer to the reference.
        digits: Decimals that mean something.
        compare: Display images in [0, 1] and their references.
    """

    name: str
    higher_is_better: bool
    digits: int
    compare: Compare


@dataclass(frozen=True)
class Panel:
    """The judges that can speak, and why others cannot.

    Args:
        judges: In the order asked for.
        absent: Why, by name.
    """

    judges: tuple[Judge, ...]
    absent: dict[str, str]


@dataclass(frozen=True)
class Kind:
    """How a judge is made.

    Args:
        higher_is_better: As in `Judge`.
        digits: As in `Judge`.
        make: Reads weights, if it needs any, from torch's hub folder as it is set.
        urls: Weight files that must lie in the hub folder's checkpoints/.
    """

    higher_is_better: bool
    digits: int
    make: Callable[[torch.device], Compare]
    urls: tuple[str, ...] = ()


def panel(names: Sequence[str], *, device: torch.device, hub_dir: Path | None = None) -> Panel:
    """The judges of these names, as far as their weights are there.

    Args:
        names: Of `KINDS`.
        device: Where they compute.
        hub_dir: torch's hub folder, with the weights in its checkpoints/; None for torch's own.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise InputError(f"metrics must be of {', '.join(KINDS)}; got {', '.join(unknown)}")
    judges, absent = [], {}
    for name in dict.fromkeys(names):
        try:
            judges.append(_judge(name, device, hub_dir))
        except MissingWeightsError as error:
            absent[name] = str(error)
    return Panel(tuple(judges), absent)


def _judge(name: str, device: torch.device, hub_dir: Path | None) -> Judge:
    kind = KINDS[name]
    with _hub_at(hub_dir) as checkpoints:
        for url in kind.urls:
            file = checkpoints / url.rpartition("/")[2]
            if not file.is_file():
                raise MissingWeightsError(f"{name} needs {file}: download {url} and put it there, or leave {name} out")
        try:
            compare = kind.make(device)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            raise BokehDiffError(
                f"{name}: its weights in {checkpoints} cannot be used ({first_line(error)}): remove them"
            ) from None
    return Judge(name, kind.higher_is_better, kind.digits, compare)


@contextmanager
def _hub_at(hub_dir: Path | None) -> Iterator[Path]:
    """torch's hub folder is another one within this block; gives its checkpoints/."""
    own = torch.hub.get_dir()
    torch.hub.set_dir(str(hub_dir) if hub_dir else own)
    try:
        yield Path(torch.hub.get_dir()) / "checkpoints"
    finally:
        torch.hub.set_dir(own)


@contextmanager
def _older_torchvision_words() -> Iterator[None]:
    """lpips and piq call torchvision's networks by an argument that was renamed; nothing here depends on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        yield


def _lpips(net: str) -> Callable[[torch.device], Compare]:
    def make(device: torch.device) -> Compare:
        import lpips

        with _older_torchvision_words():
            network = lpips.LPIPS(net=net, verbose=False).to(device).eval().requires_grad_(False)
        return lambda image, reference: network(2.0 * image - 1.0, 2.0 * reference - 1.0).flatten()

    return make


def _dists(device: torch.device) -> Compare:
    import piq

    with _older_torchvision_words():
        network = piq.DISTS(reduction="none").to(device).eval().requires_grad_(False)
    return lambda image, reference: network(image, reference).flatten()


KINDS: dict[str, Kind] = {
    "psnr": Kind(True, 2, lambda _: psnr),
    "ssim": Kind(True, 4, lambda _: ssim),
    "ms_ssim": Kind(True, 4, lambda _: ms_ssim),
    "lpips_alex": Kind(False, 4, _lpips("alex"), (ALEX_URL,)),
    "lpips_vgg": Kind(False, 4, _lpips("vgg"), (VGG_URL,)),
    "dists": Kind(False, 4, _dists, (VGG_URL, DISTS_URL)),
}


@torch.no_grad()
def judged(
    panel: Panel, image_srgb: Float[Tensor, "1 3 h w"], reference_srgb: Float[Tensor, "1 3 h w"]
) -> dict[str, float]:
    """Every number of one picture; one that cannot be told of so small a picture is not a number.

    Args:
        panel: The judges.
        image_srgb: Display image in [0, 1].
        reference_srgb: What it should be.
    """
    numbers = {}
    for judge in panel.judges:
        try:
            numbers[judge.name] = float(judge.compare(image_srgb, reference_srgb))
        except InputError:
            numbers[judge.name] = math.nan
    return numbers
