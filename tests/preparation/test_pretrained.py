from __future__ import annotations

import logging

import huggingface_hub
import pytest

from bokehdiff.errors import MissingWeightsError
from bokehdiff.preparation import TransformersDisparity
from bokehdiff.preparation.pretrained import Checkpoint, find_checkpoint
from tests.preparation.tiny_models import save_depth_anything


def found(name, **options):
    return find_checkpoint(name, revision=None, instead="pass a folder", **options)


def never_asked(*args, **keywords):
    pytest.fail("the hub was asked")


def test_a_folder_needs_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", never_asked)
    assert found(tmp_path) == Checkpoint(tmp_path, str(tmp_path))


def test_what_is_cached_needs_no_hub(tmp_path, monkeypatch):
    """In the layout of the hub's own cache."""
    repository = tmp_path / "models--somebody--tiny"
    commit = "c0ffee" * 6 + "c0de"
    folder = save_depth_anything(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", never_asked)
    assert found("somebody/tiny") == Checkpoint(folder, "somebody/tiny")
    model = TransformersDisparity.from_pretrained("somebody/tiny", revision=commit)
    assert model.name == "somebody/tiny"
    (folder / "model.safetensors").unlink()  # an interrupted download
    with pytest.raises(pytest.fail.Exception, match="the hub was asked"):
        found("somebody/tiny")


def test_what_the_hub_has_is_downloaded_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *args, **keywords: object())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert found("somebody/some-model") == Checkpoint(tmp_path, "somebody/some-model")
    assert "downloading the weights of somebody/some-model" in caplog.text


def test_a_download_that_breaks_off_is_told(monkeypatch):
    def broken_off(name, **_):
        raise ConnectionError("connection reset\nby peer")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, *args, **keywords: object())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken_off)
    with pytest.raises(MissingWeightsError, match=r"downloading .* failed \(connection reset\); pass a folder"):
        found("somebody/some-model")
