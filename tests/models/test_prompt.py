from __future__ import annotations

import shutil

import pytest
import torch

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models import PROMPT, prompt, prompt_embedding
from tests.helpers import assert_close


def test_the_embedding_is_what_diffusers_computes(tiny_base, prompt):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_base)
    tokens, _, pooled, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    assert prompt.tokens.shape == (1, 77, 80)
    assert_close(prompt.tokens, tokens)
    assert_close(prompt.pooled, pooled)


def test_the_second_time_loads_no_text_encoder(tiny_base, tmp_path, monkeypatch):
    first = prompt_embedding(tiny_base, cache_dir=tmp_path)
    monkeypatch.setattr(prompt, "_load_text_encoder", lambda *_: pytest.fail("a text encoder was loaded"))
    second = prompt_embedding(tiny_base, cache_dir=tmp_path)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.pooled, second.pooled)
    assert not second.tokens.is_inference()


def test_a_stored_embedding_lies_in_memory_as_a_computed_one(tiny_base, tmp_path):
    """Unaligned operands round matrix products differently: a resumed run was off by 1e-7 for it."""
    prompt_embedding(tiny_base, cache_dir=tmp_path)
    stored = prompt_embedding(tiny_base, cache_dir=tmp_path)
    assert stored.tokens.data_ptr() % 64 == 0
    assert stored.pooled.data_ptr() % 64 == 0


def test_what_is_stored_depends_on_base_prompt_and_encoder_files(tiny_base, tmp_path, monkeypatch):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    settings = {"cache_dir": tmp_path, "revision": None, "variant": None}
    first = prompt.embedding_file(base, prompt=PROMPT, **settings)
    assert prompt.embedding_file(base, prompt="another", **settings) != first
    assert prompt.embedding_file("owner/name", prompt=PROMPT, **settings) != first
    (base / "unet" / "config.json").touch()
    assert prompt.embedding_file(base, prompt=PROMPT, **settings) == first
    weights = base / "text_encoder_2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert prompt.embedding_file(base, prompt=PROMPT, **settings) != first
    monkeypatch.setenv("BOKEHDIFF_CACHE", str(tmp_path / "elsewhere"))
    assert prompt.embedding_file(base, prompt=PROMPT, **(settings | {"cache_dir": None})).parent.name == "elsewhere"


def test_a_damaged_store_is_made_anew(tiny_base, tmp_path, caplog):
    first = prompt_embedding(tiny_base, cache_dir=tmp_path)
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(b"half a fi")
    again = prompt_embedding(tiny_base, cache_dir=tmp_path)
    assert torch.equal(first.tokens, again.tokens)
    assert "is damaged: encoding the prompt anew" in caplog.text


def test_an_embedding_that_cannot_be_stored_is_still_given(tiny_base, tmp_path, caplog, prompt):
    (tmp_path / "file").touch()
    embedding = prompt_embedding(tiny_base, cache_dir=tmp_path / "file")
    assert torch.equal(embedding.tokens, prompt.tokens)
    assert "could not be stored" in caplog.text


def test_a_prompt_that_is_too_long_is_refused(tiny_base, tmp_path):
    with pytest.raises(InputError, match="at most 77 tokens; got 92 in 'photo photo"):
        prompt_embedding(tiny_base, prompt="photo " * 90, cache_dir=tmp_path)


def test_a_missing_text_encoder_is_named(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    shutil.rmtree(base / "text_encoder_2")
    with pytest.raises(MissingWeightsError, match=r"text_encoder_2/config\.json is missing"):
        prompt_embedding(base, cache_dir=tmp_path / "cache")


def test_a_damaged_text_encoder_is_named(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "text_encoder" / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(MissingWeightsError, match="text_encoder cannot be read"):
        prompt_embedding(base, cache_dir=tmp_path / "cache")


def test_an_embedding_moves(prompt):
    assert prompt.to("meta").tokens.device.type == "meta"
