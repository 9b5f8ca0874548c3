from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch

from bokehdiff import weights
from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.models import (
    VisionAidedDiscriminator,
    add_lora,
    load_adapter,
    load_sdxl,
    prompt_embedding,
)
from bokehdiff.preparation import BiRefNetMatting, DisparitySubject, RefinedMatting, TransformersDisparity, load_matting
from bokehdiff.weights import find_weights, quiet_progress, read_json_object, read_state_dict, weight_files

COMMIT = "c0ffee" * 6 + "c0de"
NEEDED = [("config.json",), weight_files("part/model")]


def found(name, **options) -> Path:
    return find_weights(name, **({"needed": NEEDED, "instead": "pass a folder"} | options))


def put(folder: Path, *names: str) -> Path:
    """Empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, or raises; keeps the time limits of the questions it was asked."""

    class Hub:
        asked: list[float]
        problem: Exception | None = None

    hub = Hub()
    hub.asked = []

    def model_info(self, repository, *, revision, timeout):
        hub.asked.append(timeout)
        if hub.problem is not None:
            raise hub.problem

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub; the function puts a snapshot of owner/name there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def add(*names: str) -> Path:
        repository = tmp_path / "cache" / "models--owner--name"
        put(repository, "refs/main")
        (repository / "refs" / "main").write_text(COMMIT)
        return put(repository / "snapshots" / COMMIT, *names)

    return add


def test_a_folder_is_taken_as_it_is(tmp_path, hub, monkeypatch):
    folder = put(tmp_path / "base", "config.json", "part/model.safetensors")
    assert found(folder) == found(str(folder)) == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found("~/base") == folder
    assert not hub.asked


def test_a_revision_is_not_for_folders(tmp_path):
    with pytest.raises(InputError, match="revision 'main' is for hub ids; .* is a local folder: leave it out"):
        found(tmp_path, revision="main")


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./missing", "/nowhere", "~/missing/base", "one-word", "own er/name", Path("owner/name")]
)
def test_what_is_no_hub_id_is_not_sought_on_the_hub(name, hub):
    with pytest.raises(MissingWeightsError, match="neither a folder here nor a hub id such as owner/name: pass a fol"):
        found(name)
    assert not hub.asked


def test_a_file_is_not_sought_on_the_hub(tmp_path, monkeypatch, hub):
    monkeypatch.chdir(put(tmp_path, "owner/name"))
    with pytest.raises(MissingWeightsError, match="neither a folder"):
        found("owner/name")
    assert not hub.asked


@pytest.mark.parametrize(
    ("names", "missing", "beside"),
    [
        ((), "config.json", "nothing"),
        (("config.json", "readme"), "part/model.safetensors", "config.json, readme"),
        (("config.json", "part/other"), "part/model.safetensors", "other"),
        (("config.json", "part/model.fp16.safetensors"), "part/model.safetensors", "model.fp16.safetensors"),
        (("config.json", "part/model.safetensors.index.json"), "part/model.safetensors", "model.safetensors.index"),
        (
            ("config.json", "part/model-00001-of-00002.safetensors"),
            "part/model-00002-of-00002.safetensors",
            "model-00001",
        ),
    ],
)
def test_the_file_that_is_missing_is_named_with_what_is_there(tmp_path, names, missing, beside):
    with pytest.raises(MissingWeightsError, match=f"{tmp_path / missing} is missing; .* holds {beside}.*: pass a fol"):
        found(put(tmp_path, *names))


@pytest.mark.parametrize(
    "names",
    [
        ("part/model.safetensors",),
        ("part/model-00001-of-00002.safetensors", "part/model-00002-of-00002.safetensors"),
        ("part/model.safetensors", "part/model-00001-of-00002.safetensors"),
    ],
)
def test_one_piece_or_all_shards_are_whole(tmp_path, names):
    assert found(put(tmp_path, "config.json", *names)) == tmp_path


def test_a_variant_has_its_own_files(tmp_path):
    put(tmp_path, "model.safetensors")
    with pytest.raises(MissingWeightsError, match=r"model\.fp16\.safetensors is missing"):
        found(tmp_path, needed=[weight_files("model", "fp16")])
    put(tmp_path, "model.fp16-00001-of-00001.safetensors")
    assert found(tmp_path, needed=[weight_files("model", "fp16")]) == tmp_path


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_what_is_cached_whole_needs_no_hub(cache, hub, revision):
    folder = cache("config.json", "part/model.safetensors")
    assert found("owner/name", revision=revision) == folder
    assert not hub.asked


def test_half_a_download_is_not_taken_for_a_whole(cache, hub):
    cache("config.json", "part/model-00001-of-00002.safetensors")
    hub.problem = TimeoutError("no route to the hub")
    with pytest.raises(MissingWeightsError, match="not all in the cache"):
        found("owner/name")
    assert hub.asked == [weights.HUB_TIMEOUT_S]


@pytest.mark.parametrize("recorded", [("config.json", "part/model.safetensors"), ("vae",)])
def test_the_hubs_own_record_of_a_download_is_heeded(cache, hub, recorded):
    """An adapter whose second part did not arrive would work without it, only worse."""
    folder = cache("config.json", "part/model.safetensors")
    record = folder.parents[1] / "trees" / f"{COMMIT}.json"
    record.parent.mkdir()
    files = {name: {"size": 0, "blob_id": "0"} for name in recorded}
    record.write_text(json.dumps({"format_version": 1, "files": files}))
    hub.problem = TimeoutError("no route to the hub")
    fetch = ["config.json", "part/*", "vae"]
    if "vae" not in recorded:
        assert found("owner/name", fetch=fetch) == folder
        return
    with pytest.raises(MissingWeightsError, match="not all in the cache"):
        found("owner/name", fetch=fetch)


def kind(name: str) -> Exception:
    """An error of the hub's client, without the answer of a server that it asks for."""
    error = getattr(huggingface_hub.errors, name)
    return error.__new__(error)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (kind("OfflineModeIsEnabled"), r"the hub is switched off \(HF_HUB_OFFLINE\)"),
        (kind("GatedRepoError"), "the hub keeps it behind a licence"),
        (kind("RevisionNotFoundError"), "the hub has no revision 'v9' of it"),
        (kind("RepositoryNotFoundError"), "the hub has no such model that you may read"),
        (TimeoutError("no route\nto host"), r"the hub did not give them \(no route\)"),
        (ConnectionError(), r"the hub did not give them \(ConnectionError\)"),
    ],
)
def test_what_the_hub_answers_is_told(cache, hub, problem, message):
    hub.problem = problem
    with pytest.raises(
        MissingWeightsError, match=rf"^owner/name is no folder.*/cache\), and {message}.*: pass a folder$"
    ):
        found("owner/name", revision="v9")
    assert hub.asked == [weights.HUB_TIMEOUT_S]


def test_what_the_hub_has_is_downloaded_and_said(cache, hub, monkeypatch, caplog, tmp_path):
    fetched = []

    def download(name, *, revision, allow_patterns, local_files_only=False):
        if local_files_only:
            raise kind("LocalEntryNotFoundError")
        fetched.append((name, revision, allow_patterns))
        return str(put(tmp_path / "fetched", "config.json", "part/model.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with caplog.at_level(logging.INFO, logger="bokehdiff"):
        assert found("owner/name", revision="v9", fetch=["*.json"]) == tmp_path / "fetched"
    assert fetched == [("owner/name", "v9", ["*.json"])]
    assert "downloading the weights of owner/name" in caplog.text
    with pytest.raises(
        MissingWeightsError, match=r"fetched/other is missing; .*fetched holds config\.json, part: pass"
    ):
        found("owner/name", needed=[("other",)])
    assert fetched[1] == ("owner/name", None, ["other"])


def test_a_download_that_breaks_off_is_told(cache, hub, monkeypatch):
    def broken_off(name, *, local_files_only=False, **_):
        raise kind("LocalEntryNotFoundError") if local_files_only else ConnectionError("connection reset\nby peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken_off)
    with pytest.raises(MissingWeightsError, match=r"did not give them \(connection reset\): pass a folder"):
        found("owner/name")


LOADERS = {
    "base": lambda base: load_sdxl("owner/name"),
    "prompt": lambda base: prompt_embedding("owner/name"),
    "adapter": lambda base: load_lora(base),
    "discriminator": lambda base: VisionAidedDiscriminator(),
    "disparity": lambda base: TransformersDisparity.from_pretrained("owner/name"),
    "masks": lambda base: load_matting("owner/name"),
    "edges of masks": lambda base: RefinedMatting.from_pretrained("owner/name", matting=DisparitySubject()),
    "BiRefNet": lambda base: BiRefNetMatting.from_pretrained("owner/name", revision=COMMIT, trust_remote_code=True),
}


def load_lora(base: Path) -> None:
    networks = load_sdxl(base)
    add_lora(networks.unet, rank=1)
    load_adapter("owner/name", networks.unet, networks.vae)


@pytest.mark.parametrize("loader", LOADERS)
def test_every_room_asks_a_silent_hub_once_and_tells_within_seconds(tiny_base, cache, hub, monkeypatch, loader):
    """With the hub not switched off: whatever else tried to reach it would take half a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("something else went to the network"))
    hub.problem = TimeoutError("no route to the hub")
    started = time.monotonic()
    with pytest.raises(MissingWeightsError, match=r"no route to the hub\): .") as caught:
        LOADERS[loader](tiny_base)
    assert time.monotonic() - started < 10.0
    assert hub.asked == [weights.HUB_TIMEOUT_S]
    assert "\n" not in str(caught.value)


def test_a_state_dict_is_read(tmp_path):
    state = {"a": torch.rand(2), "b": torch.rand(1)}
    torch.save(state, tmp_path / "state.pth")
    read = read_state_dict(tmp_path / "state.pth", instead="download it again")
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("content", [b"", b"noise"])
def test_a_damaged_state_dict_is_named(tmp_path, content):
    (tmp_path / "state.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.pth is not a state dict, or it is damaged .*: download it again"):
        read_state_dict(tmp_path / "state.pth", instead="download it again")


@pytest.mark.parametrize(("content", "got"), [([1.0], "list"), ({"a": 1.0}, "dict")])
def test_what_holds_no_tensors_is_refused(tmp_path, content, got):
    torch.save(content, tmp_path / "state.pth")
    with pytest.raises(InputError, match=f"must hold tensors by name; got {got}: download it again"):
        read_state_dict(tmp_path / "state.pth", instead="download it again")


@pytest.mark.parametrize("content", [b"[1", b"[1]", b"\xff", b""])
def test_a_json_file_without_an_object_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json must hold one JSON object; it is damaged: download it again"):
        read_json_object(tmp_path / "config.json", instead="download it again")


@pytest.mark.parametrize("was_enabled", [True, False])
def test_progress_bars_are_as_they_were_afterwards(was_enabled):
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if was_enabled else transformers_logging.disable_progress_bar)()
    try:
        with quiet_progress():
            assert not transformers_logging.is_progress_bar_enabled()
        assert transformers_logging.is_progress_bar_enabled() is was_enabled
    finally:
        (transformers_logging.enable_progress_bar if before else transformers_logging.disable_progress_bar)()
