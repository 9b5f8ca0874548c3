"""`bokehdiff app` at the door: what is refused before anything is served."""

from __future__ import annotations

import sys

import pytest

from bokehdiff.cli.main import main


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 1
    told = capsys.readouterr().err.strip()
    assert told == "bokehdiff app: error: the app needs gradio: pip install 'bokehdiff[app]'"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "70000"], "--port: must be 0 to 65535; got 70000"),
        (["--max-upload-mb", "0"], "--max-upload-mb: must be above 0; got 0"),
        (["--max-megapixels", "-1"], "--max-megapixels: must be above 0; got -1"),
        (["--max-sessions", "0"], "--max-sessions: must be above 0; got 0"),
        (["--resume-from-checkpoint", "here"], "--resume-from-checkpoint: is for a base"),
    ],
)
def test_what_cannot_be_is_refused_with_its_flag(words, told, capsys):
    assert main(["app", *words]) == 1
    assert told in capsys.readouterr().err


def test_a_missing_base_is_told_before_anything_is_served(tmp_path, capsys):
    pytest.importorskip("gradio")
    words = ["--pretrained-model-name-or-path", str(tmp_path / "nothing"), "--disparity-model", "none"]
    assert main(["app", *words, "--output-dir", str(tmp_path / "out")]) == 1
    assert "--pretrained-model-name-or-path: " in capsys.readouterr().err
