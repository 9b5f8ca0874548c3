from __future__ import annotations

from typing import ClassVar

import huggingface_hub
import pytest

from bokehdiff.errors import InputError
from bokehdiff.training.publish import Destination, check_login, model_card, push, write_card

DESCRIPTION = {"base": "owner/base", "lora_rank": "8", "n_samples_seen": "120000", "config": "{}"}


class Hub:
    """Stands for `huggingface_hub.HfApi`; remembers what it was asked."""

    asked: ClassVar[list[tuple[str, dict[str, object]]]] = []

    def whoami(self):
        raise OSError("Invalid user token.\nmore")

    def create_repo(self, repository, **options):
        self.asked.append((repository, options))

    def upload_folder(self, **options):
        self.asked.append(("upload", options))
        return "https://hub/owner/name"


def test_a_card_tells_base_recipe_and_quality(tmp_path):
    text = model_card(DESCRIPTION, {"validation_psnr": 30.123, "validation_ssim": 0.9}, name="owner/name")
    assert text.startswith("---\nbase_model: owner/base\n")
    assert "| n_samples_seen | 120000 |" in text
    assert "PSNR 30.12, SSIM 0.9" in text
    assert 'adapter="owner/name"' in text
    assert "Nothing was measured" in model_card(DESCRIPTION, {})
    assert write_card(tmp_path, text).read_text() == text


def test_an_adapter_is_uploaded_with_what_is_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.asked.clear()
    assert push(tmp_path, Destination("owner/name", private=True)) == "https://hub/owner/name"
    (made, options), (_, upload) = Hub.asked
    assert (made, options) == ("owner/name", {"private": True, "exist_ok": True})
    assert (upload["repo_id"], upload["folder_path"]) == ("owner/name", tmp_path)


def test_a_hub_that_refuses_is_told_and_the_adapter_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(InputError, match=r"not take an upload \(Invalid user token\.\): log in with hf auth login"):
        check_login()
    monkeypatch.setattr(Hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route")))
    with pytest.raises(InputError, match=r"^--push-to-hub: the adapter is whole .* \(no route\).* hf upload"):
        push(tmp_path, Destination("owner/name"))
