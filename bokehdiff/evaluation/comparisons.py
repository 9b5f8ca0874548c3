"""Pictures and their references on disk, and what of them is compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from bokehdiff.errors import InputError
from bokehdiff.images import find_images, load_photo

SHOWN = 5  # of many names in a message


@dataclass(frozen=True)
class Comparison:
    """A picture and what it should be.

    Args:
        name: Of the reference, without suffix.
        prediction: File of the picture.
        reference: File of the reference.
    """

    name: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Framing:
    """What of a picture counts: conventions differ between benchmarks.

    Args:
        border_px: Left out on every side: PyNET's evaluation leaves out 32 [px].
        multiple: Sides are cut down to a multiple of this, about the middle: EBB!'s of recent papers to 4 [px].
    """

    border_px: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.border_px < 0 or self.multiple < 1:
            raise InputError(
                f"border_px must be 0 or more and multiple at least 1; got {self.border_px} and {self.multiple}"
            )

    def cut(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c ch cw"]:
        """The part of a picture that counts."""
        for axis in (2, 3):
            size = image.shape[axis]
            kept = size - 2 * self.border_px
            kept -= kept % self.multiple
            if kept < 1:
                raise InputError(
                    f"a picture of {image.shape[3]} x {image.shape[2]} px has nothing left within a border of "
                    f"{self.border_px} px and a multiple of {self.multiple}"
                )
            image = image.narrow(axis, (size - kept) // 2, kept)
        return image


def match_folders(predictions: str | Path, references: str | Path, *, allow_missing: bool = False) -> list[Comparison]:
    """Match the pictures of two folders by their names.

    Concretely, the picture of reference NAME is NAME with any image suffix, or the only one that begins with NAME_, as
    `bokehdiff infer` writes NAME_K_focus.

    Args:
        predictions: Folder or glob.
        references: Folder or glob.
        allow_missing: References without a picture are left out, instead of an error.
    """
    pictures = find_images(predictions)
    pairs, missing = [], []
    for reference in find_images(references):
        found = [path for path in pictures if path.stem == reference.stem] or [
            path for path in pictures if path.stem.startswith(f"{reference.stem}_")
        ]
        if len(found) > 1:
            raise InputError(
                f"{reference.name} has more than one picture in {predictions}: "
                f"{', '.join(path.name for path in found[:SHOWN])}: keep one"
            )
        if found:
            pairs.append(Comparison(reference.stem, found[0], reference))
        else:
            missing.append(reference.name)
    if missing and not (allow_missing and pairs):
        shown = ", ".join(missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
        raise InputError(f"{len(missing)} references have no picture in {predictions}: {shown}")
    return pairs


def load_comparison(pair: Comparison, framing: Framing) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 3 h w"]]:
    """Both pictures as they are compared, display values in [0, 1].

    Args:
        pair: Files of one size.
        framing: What counts.
    """
    picture, reference = load_photo(pair.prediction), load_photo(pair.reference)
    if picture.size_hw != reference.size_hw:
        got, expected = (f"{photo.size_hw[1]} x {photo.size_hw[0]}" for photo in (picture, reference))
        raise InputError(
            f"{pair.prediction} has {got} px, its reference {pair.reference} {expected}: expected the same"
        )
    return framing.cut(picture.image_srgb), framing.cut(reference.image_srgb)
