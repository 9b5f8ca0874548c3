"""`bokehdiff app` at the door, and the page as far as it can be tested without a browser."""

from __future__ import annotations

import builtins

import pytest

from bokehdiff.app import Limits, Studio
from bokehdiff.cli.main import main
from tests.app.scenes import two_halves


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    load = builtins.__import__

    def without(name, *rest, **keywords):
        if name == "gradio":
            raise ImportError("No module named 'gradio'")
        return load(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
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


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    pytest.importorskip("gradio")
    from starlette.testclient import TestClient

    from bokehdiff.app import Places
    from bokehdiff.app.server import build_server

    places = Places.under(tmp_path_factory.mktemp("app") / "results")
    studio = Studio(places, limits=Limits())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        yield TestClient(build_server(studio, host="127.0.0.1", port=7860)), places
    places.remove_passing()


# gradio's own use of starlette, asyncio and httpx warns; none of it is ours to mend
unheard = pytest.mark.filterwarnings("ignore")


@unheard
def test_the_page_lets_the_browser_ask_nobody_else(client):
    answer = client[0].get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert "fonts.googleapis" not in answer.text


@unheard
@pytest.mark.parametrize("place", ["/etc/passwd", "../../etc/passwd", "~/.bashrc", "pyproject.toml"])
def test_files_outside_the_two_folders_are_not_served(client, place):
    answer = client[0].get(f"/gradio_api/file={place}")
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


@unheard
def test_results_are_served(client, tmp_path):
    photograph, _ = two_halves(tmp_path)
    result = client[1].new_result("seen", ".png")
    result.write_bytes(photograph.read_bytes())
    answer = client[0].get(f"/gradio_api/file={result}")
    assert answer.status_code == 200
    assert answer.content == photograph.read_bytes()


@unheard
def test_no_handler_is_an_interface_for_programs(client):
    described = client[0].get("/gradio_api/info").json()
    assert not described["named_endpoints"]
