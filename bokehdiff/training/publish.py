"""The finished adapter for other people: its model card, and the hub if asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bokehdiff.errors import InputError, first_line
from bokehdiff.images import write_atomically

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
CARD = """---
base_model: {base}
library_name: diffusers
pipeline_tag: image-to-image
tags: [bokehdiff, lora, bokeh, depth-of-field]
---
# Lens blur in one diffusion step

An adapter for `{base}`, trained with [bokehdiff](https://github.com/bokehdiff/bokehdiff): a LoRA on the UNet and three
parts of the autoencoder's encoder. It needs physics-inspired attention to be what it was trained as: use it through
bokehdiff, which installs that; as an ordinary LoRA it does something else.

```python
from bokehdiff.inference import BokehDiffPipeline

pipe = BokehDiffPipeline.from_pretrained("{base}", adapter="{name}")
result = pipe(image_srgb, disparity, focus="subject", strength=20.0)
```

## Training

| | |
|---|---|
{recipe}

{quality}
Licence: an adapter follows the licence of its base and of the photographs it was trained on; whoever publishes it says
which.
"""
NOT_MEASURED = "Nothing was measured on held-out pairs in this run.\n"


@dataclass(frozen=True)
class Destination:
    """A repository on the hub.

    Args:
        repository: "owner/name".
        private: Whether it is made private, if it is made.
    """

    repository: str
    private: bool = False


def model_card(description: Mapping[str, str], scores: Mapping[str, float], *, name: str = "FOLDER") -> str:
    """The text of an adapter's card.

    Args:
        description: What is stored beside the weights: base, recipe, versions, samples seen.
        scores: Measured on held-out pairs, by name; empty if nothing was.
        name: Where the adapter will be: a folder or a hub id.
    """
    told = {key: value for key, value in description.items() if key not in {"base", "config"}}
    recipe = "\n".join(f"| {key} | {value} |" for key, value in told.items())
    measured = ", ".join(f"{key.removeprefix('validation_').upper()} {value:.4g}" for key, value in scores.items())
    quality = f"On held-out pairs: {measured}.\n" if scores else NOT_MEASURED
    return CARD.format(base=description["base"], name=name, recipe=recipe, quality=quality)


def write_card(folder: Path, text: str) -> Path:
    """Put a card beside the weights.

    Args:
        folder: The adapter's.
        text: From `model_card`.
    """
    with write_atomically(folder / CARD_FILE) as partial:
        partial.write_text(text, encoding="utf-8")
    return folder / CARD_FILE


def check_login() -> None:
    """Ask the hub, before any work, whether it would take an upload.

    Raises:
        InputError: If nobody is logged in here, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # the network's layers raise many types, and change them between versions
        raise InputError(
            f"the hub would not take an upload ({first_line(error)}): log in with hf auth login, or leave it out"
        ) from error


def push(folder: Path, destination: Destination) -> str:
    """Upload an adapter's folder; what is in it and nothing else.

    Args:
        folder: The adapter's.
        destination: Where to; made if it is not there.

    Returns:
        Its address.

    Raises:
        InputError: If it did not work; the folder is whole all the same.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(destination.repository, private=destination.private, exist_ok=True)
        told = api.upload_folder(repo_id=destination.repository, folder_path=folder, commit_message="Upload adapter")
    except Exception as error:  # as above
        raise InputError(
            f"the adapter is whole in {folder} and was not uploaded ({first_line(error)}): try again with "
            f"hf upload {destination.repository} {folder}",
            flag="--push-to-hub",
        ) from error
    return str(told)
