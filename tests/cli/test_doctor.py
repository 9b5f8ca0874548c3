"""What the doctor prints, and that it neither fails nor asks a hub, whatever is missing."""

from __future__ import annotations

import dataclasses
import json

import huggingface_hub
import pytest

from bokehdiff.cli.main import main
from bokehdiff.machine import Machine

SCREEN = 40  # lines


@pytest.fixture
def nothing_stored(tmp_path, monkeypatch):
    """A home without weights, and a hub that fails the test when it is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("something went to the network"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)


def test_the_command_fits_a_screen_and_succeeds_with_nothing_there(nothing_stored, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= SCREEN
    assert "\x1b" not in out
    assert "tiny SDXL          no " in out


def test_json_holds_the_same(nothing_stored, capsys):
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {field.name for field in dataclasses.fields(Machine)}
    assert {tried["name"]: tried["problem"] is None for tried in told["attention"]}.items() >= {("local", True)}
    assert all(stored["place"] is None and stored["otherwise"] for stored in told["weights"])
    assert {"name": "torch", "wanted": ">=2.8"}.items() <= told["packages"][0].items()
