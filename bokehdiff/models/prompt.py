"""The one prompt, encoded once: text encoders are loaded, used, dropped, and not needed again."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from bokehdiff.errors import InputError, MissingWeightsError, first_line
from bokehdiff.images import CACHE_VARIABLE, cache_folder, make_folder, write_atomically
from bokehdiff.models.tiny import PROMPT
from bokehdiff.weights import find_weights, quiet_progress, weight_files

logger = logging.getLogger(__name__)

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
KEY_LENGTH = 24  # of a SHA-256 in hexadecimal: 96 bits are enough for a handful of files


@dataclass(frozen=True)
class PromptEmbedding:
    """What the UNet is told of the prompt.

    Args:
        tokens: One vector per token, CLIP-L's and CLIP-G's penultimate states side by side, [1 t c].
        pooled: CLIP-G's summary of the whole, [1 p].
    """

    tokens: Float[Tensor, "1 t c"]
    pooled: Float[Tensor, "1 p"]

    def to(self, device: torch.device | str) -> PromptEmbedding:
        """The same embedding on another device."""
        return PromptEmbedding(self.tokens.to(device), self.pooled.to(device))


def prompt_embedding(
    base: str | Path,
    *,
    prompt: str = PROMPT,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> PromptEmbedding:
    """Encode the prompt with the base's two text encoders, or read what was stored the last time.

    Concretely, tokens[0, t] = (CLIP-L's state of token t before the last layer, CLIP-G's) and pooled = CLIP-G's
    projected end token, as SDXL was trained (Podell et al., "SDXL", 2023, section 2.1).

    Args:
        base: As in `load_sdxl`.
        prompt: At most as many tokens as the tokenizer holds (77 with start and end).
        cache_dir: Where embeddings are stored; None for $BOKEHDIFF_CACHE, or ~/.cache/bokehdiff.
        revision: As in `load_sdxl`.
        variant: As in `load_sdxl`.

    Raises:
        MissingWeightsError: If it is not stored yet and a text encoder is missing.
    """
    file = embedding_file(base, prompt=prompt, cache_dir=cache_dir, revision=revision, variant=variant)
    stored = _read(file)
    if stored is not None:
        return stored
    folder = find_text_encoders(base, revision=revision, variant=variant)
    with torch.inference_mode(), quiet_progress():
        states, _ = _encode(folder, "", prompt, variant)
        states_2, pooled = _encode(folder, "_2", prompt, variant)
    # Clones outside inference mode: what is made inside it may not enter a graph later on.
    embedding = PromptEmbedding(torch.cat([states, states_2], dim=-1).clone(), pooled.clone())
    _write(file, embedding, prompt)
    return embedding


def embedding_file(
    base: str | Path, *, prompt: str, cache_dir: str | Path | None, revision: str | None, variant: str | None
) -> Path:
    """The file that an embedding is stored in: its name is a digest of all that the embedding depends on.

    Args:
        base: A folder counts by the names, sizes and times of its text encoders' files; a hub id by its name.
        prompt: As in `prompt_embedding`.
        cache_dir: As in `prompt_embedding`.
        revision: As in `prompt_embedding`.
        variant: As in `prompt_embedding`.
    """
    identity = [str(base), revision, variant, prompt]
    folder = Path(base).expanduser()
    if folder.is_dir():
        identity = [*_fingerprint(folder), variant, prompt]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:KEY_LENGTH]
    return _cache_dir(cache_dir) / f"prompt-{digest}.safetensors"


def _cache_dir(cache_dir: str | Path | None) -> Path:
    return Path(cache_dir).expanduser() if cache_dir else cache_folder()


def _fingerprint(folder: Path) -> list[str]:
    """What changes when a text encoder does, without reading gigabytes: place, size and time of each file."""
    files = [file for part in TEXT_PARTS for file in sorted((folder / part).glob("*")) if file.is_file()]
    stats = [(file, file.stat()) for file in files]
    return [str(folder.resolve()), *(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in stats)]


def find_text_encoders(base: str | Path, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder that holds both text encoders and their tokenizers.

    Args:
        base: As in `prompt_embedding`.
        revision: As in `prompt_embedding`.
        variant: As in `prompt_embedding`.
    """
    needed: list[tuple[str, ...]] = []
    for suffix in ("", "_2"):
        needed += [
            (f"text_encoder{suffix}/config.json",),
            weight_files(f"text_encoder{suffix}/model", variant),
            (f"tokenizer{suffix}/tokenizer_config.json",),
        ]
    return find_weights(
        base,
        needed=needed,
        fetch=[*chain(*needed), "tokenizer/*", "tokenizer_2/*"],
        revision=revision,
        instead="pass a base with both text encoders, or one whose prompt is stored already",
    )


def _encode(folder: Path, suffix: str, prompt: str, variant: str | None) -> tuple[Tensor, Tensor]:
    """Penultimate states and pooled state (CLIP-G's only is used) of one text encoder, which is dropped on return."""
    tokens = _tokenise(folder / f"tokenizer{suffix}", prompt)
    encoder = _load_text_encoder(folder / f"text_encoder{suffix}", variant)
    output = encoder(tokens, output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def _tokenise(folder: Path, prompt: str) -> Tensor:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    tokens = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    n_tokens = tokens.input_ids.shape[1]
    if n_tokens > tokenizer.model_max_length:
        raise InputError(
            f"the prompt must be at most {tokenizer.model_max_length} tokens; got {n_tokens} in {prompt[:20]!r}"
        )
    return tokens.input_ids


def _load_text_encoder(folder: Path, variant: str | None) -> Any:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    model_class = CLIPTextModelWithProjection if folder.name.endswith("_2") else CLIPTextModel
    try:
        # Float32 always: a half-precision file would otherwise make a half-precision model, slow on a CPU.
        encoder = model_class.from_pretrained(
            folder, variant=variant, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MissingWeightsError(f"{folder} cannot be read: {first_line(error)}") from error
    return encoder.eval()


def _read(file: Path) -> PromptEmbedding | None:
    if not file.is_file():
        return None
    try:
        stored = load_file(file)
        # Copied out of the file's buffer: matrix products round by how their operands are aligned in memory, and a
        # run that reads the prompt must equal, bit for bit, the one that encoded it.
        return PromptEmbedding(stored["tokens"].clone(), stored["pooled"].clone())
    except (SafetensorError, KeyError):
        logger.warning("%s is damaged: encoding the prompt anew", file)
        return None


def _write(file: Path, embedding: PromptEmbedding, prompt: str) -> None:
    tensors = {"tokens": embedding.tokens, "pooled": embedding.pooled}
    try:
        make_folder(file.parent)
        with write_atomically(file) as partial:
            partial.write_bytes(save(tensors, metadata={"prompt": prompt}))
    except InputError as error:
        # It is there all the same; only the next run will encode it again.
        logger.warning("The encoded prompt could not be stored (%s): set %s to another folder", error, CACHE_VARIABLE)
        return
    logger.info("Stored the encoded prompt in %s", file)
