"""Which weights are on this machine, by the searches that programs use; no hub is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bokehdiff.errors import MissingWeightsError
from bokehdiff.losses import VGG_FILE, VGG_URL, vgg_file
from bokehdiff.models import BACKBONES, find_adapter, find_backbone, find_sdxl, find_text_encoders
from bokehdiff.preparation import BIREFNET, DEPTH_ANYTHING_V2, find_checkpoint
from bokehdiff.weights import hub_left_alone

VITMATTE = "hustvl/vitmatte-small-composition-1k"
REPOSITORY = "it comes with the repository: run this there"
HALF_PRECISION = "fp16"  # the variant in which bases are published beside the plain one


@dataclass(frozen=True)
class Stored:
    """Weights that a program may ask for.

    Args:
        what: What they are.
        name: Folder or hub id.
        place: Where they are on this machine; None if they are not.
        otherwise: How to get them, or why they are not usable; None if they are there.
    """

    what: str
    name: str
    place: str | None
    otherwise: str | None


def stored_weights(
    *, tiny_base: str, tiny_adapter: str, base: str, adapter: str, adapter_variant: str | None, backbone: str
) -> tuple[Stored, ...]:
    """What there is of each.

    Args:
        tiny_base: Folder of the small backbone that ships with the repository.
        tiny_adapter: Folder of an adapter for it.
        base: SDXL base: folder or hub id.
        adapter: Folder or hub id.
        adapter_variant: Folder inside it.
        backbone: Of the discriminator, a name of `BACKBONES`.
    """
    depth = DEPTH_ANYTHING_V2["Small"].hub_id
    eyes = BACKBONES[backbone]
    searches: list[tuple[str, str, Callable[[], Path], str]] = [
        ("tiny SDXL", tiny_base, partial(find_sdxl, tiny_base), REPOSITORY),
        ("adapter for it", tiny_adapter, partial(find_adapter, tiny_adapter), REPOSITORY),
        ("SDXL base", base, partial(_find_base, base), _instead_of_base(base)),
        (
            "published adapter",
            adapter,
            partial(find_adapter, adapter, variant=adapter_variant),
            _fetched(adapter, *([f"{adapter_variant}/*"] if adapter_variant else [])),
        ),
        ("depth model", depth, partial(_find_model, depth), _fetched(depth)),
        ("masks, optional", BIREFNET, partial(_find_model, BIREFNET), _fetched(BIREFNET)),
        ("... their edges", VITMATTE, partial(_find_model, VITMATTE), _fetched(VITMATTE)),
        ("VGG16 of LPIPS", VGG_FILE, _find_vgg, f"curl --create-dirs -o {vgg_file()} {VGG_URL.format(file=VGG_FILE)}"),
        ("discriminator", f"timm/{eyes.name}", partial(find_backbone, eyes), _fetched(f"timm/{eyes.name}")),
    ]
    with hub_left_alone():
        return tuple(_looked_for(*search) for search in searches)


def _looked_for(what: str, name: str, find: Callable[[], Path], otherwise: str) -> Stored:
    try:
        return Stored(what, name, str(find()), None)
    except MissingWeightsError:
        return Stored(what, name, None, otherwise)


def _find_base(base: str, variant: str | None = None) -> Path:
    """A base with its text encoders."""
    find_text_encoders(base, variant=variant)
    return find_sdxl(base, variant=variant)


def _instead_of_base(base: str) -> str:
    try:
        with hub_left_alone():
            _find_base(base, HALF_PRECISION)
    except MissingWeightsError:
        return _fetched(base, "*/*")  # all folders; beside them lie the same weights once more, in one file
    return f"only in half precision: --base-variant {HALF_PRECISION}"


def _find_model(name: str) -> Path:
    return find_checkpoint(name, revision=None, instead="").folder


def _find_vgg() -> Path:
    file = vgg_file()
    if not file.is_file():
        raise MissingWeightsError(f"there is no {file}")
    return file


def _fetched(repository: str, *patterns: str) -> str:
    """The command that fetches a repository, or the files of some patterns, into the hub's cache."""
    return " ".join(["hf download", repository, *(f"--include '{pattern}'" for pattern in patterns)])
