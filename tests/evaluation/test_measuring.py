from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bokehdiff.cli.main import main
from bokehdiff.errors import InputError
from bokehdiff.evaluation import (
    BENCHMARKS,
    CORRUPTIONS,
    Case,
    Framing,
    Promised,
    Setup,
    corrupted,
    lens_ground_truth,
    match_folders,
    measure_comparisons,
    measure_method,
    photographed,
    read_records,
)
from bokehdiff.images import linear_to_srgb, save_image
from bokehdiff.inference import BokehDiffPipeline
from bokehdiff.models import add_lora, load_sdxl, save_adapter, trainable_parts
from bokehdiff.optics import Lens
from bokehdiff.renderers import render_photo
from tests.helpers import EMBEDDED, SHARED, psnr


def promised(made):
    return [Promised(made.name, lambda: made)]


SETUP = Setup(("psnr", "ssim"), Framing())


def case(size_px=48):
    rng = torch.Generator().manual_seed(0)
    disparity = torch.full((1, size_px, size_px), 0.2)
    disparity[:, 12:36, 12:36] = 0.8
    image_linear = torch.rand(1, 3, size_px, size_px, generator=rng)
    lens = Lens(0.8, 6.0)
    return Case("own", "box", image_linear, disparity, lens, render_photo(image_linear, disparity, lens))


def test_a_method_is_measured_against_what_the_lens_saw(tmp_path):
    perfect = measure_method(
        promised(case()), lambda c: linear_to_srgb(c.reference_linear), SETUP, name="truth", keep_in=tmp_path
    )
    (record,) = perfect.records
    assert record.numbers["psnr"] == float("inf")
    assert record.blur_px == pytest.approx(3.6)
    assert (tmp_path / "box_truth.png").is_file()
    same = measure_method(promised(case()), lambda c: linear_to_srgb(c.image_linear), SETUP, name="input")
    assert same.records[0].numbers["psnr"] < 30


def test_a_case_that_fails_stops_no_other():
    def refuses(c):
        raise InputError("no")

    outcome = measure_method(2 * promised(case()), refuses, SETUP, name="broken")
    assert outcome.records == []
    assert outcome.failures == {"box": "no"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_change_the_disparity_and_nothing_else(name):
    wrong = corrupted(promised(case(size_px=256)), name)[0].load()
    right = case(size_px=256)
    assert not torch.equal(wrong.disparity, right.disparity) or name == "quantised"
    assert float(wrong.disparity.min()) >= 0.2 - 1e-6
    assert float(wrong.disparity.max()) <= 0.8 + 1e-6
    assert torch.equal(wrong.reference_linear, right.reference_linear)
    grown = int((wrong.disparity > 0.5).sum()) - int((right.disparity > 0.5).sum())
    assert {"eroded": grown < 0, "dilated": grown > 0}.get(name, True)


def test_a_coarse_map_has_few_values():
    ramp = case()
    ramp = Case(ramp.dataset, ramp.name, ramp.image_linear, torch.linspace(0, 1, 48).expand(1, 48, 48).clone(),
                ramp.lens, ramp.reference_linear)  # fmt: skip
    coarse = corrupted(promised(ramp), "quantised")[0].load()
    assert len(coarse.disparity.unique()) == 16


def folders(tmp_path):
    generator = torch.Generator().manual_seed(1)
    for folder in ("references", "pictures"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        image = torch.rand(1, 3, 32, 40, generator=generator)
        save_image(tmp_path / "references" / f"{name}.png", image)
        save_image(tmp_path / "pictures" / f"{name}.png", (image + 0.05).clamp(0, 1))
    return tmp_path / "pictures", tmp_path / "references"


def test_several_processes_give_the_same_numbers(tmp_path):
    pairs = match_folders(*folders(tmp_path))
    alone = measure_comparisons(pairs, SETUP, dataset="d", method="m")
    together = measure_comparisons(pairs, SETUP, dataset="d", method="m", n_processes=2)
    assert alone == together
    assert len(alone.records) == 3


def test_the_command_compares_folders_and_goes_past_a_broken_picture(tmp_path, capsys):
    pictures, references = folders(tmp_path)
    (pictures / "b.png").write_bytes(b"broken")
    out = tmp_path / "out"
    status = main(["evaluate", str(pictures), str(references), "--metrics", "psnr,ssim,dists", "--output-dir", str(out),
                   "--hub-dir", str(tmp_path), "--device", "cpu"])  # fmt: skip
    said = capsys.readouterr().out
    assert status == 1
    assert "failed: b:" in said
    assert "not told: dists needs" in said
    assert [record.name for record in read_records(out / "records.jsonl")] == ["a", "c"]
    assert "| pictures | 2 |" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a"], "--references: is needed too"),
        ([], "--predictions: name two folders"),
        (["--dataset", "lens-ground-truth"], "--root: is needed with --dataset"),
        (["a", "b", "--dataset", "lens-ground-truth"], "--dataset: renders its own pictures"),
        (["a", "b", "--corruptions", "all"], "--corruptions: needs a --dataset"),
        (["a", "b", "--jobs", "0"], "--jobs: must be at least 1"),
        (["a", "b", "--metrics", "fid"], "--metrics: metrics must be of"),
        (["a", "b"], "--predictions: "),
    ],
)
def test_the_command_names_the_flag_at_fault(words, expected, tmp_path, capsys):
    assert main(["evaluate", *words, "--output-dir", str(tmp_path), "--device", "cpu"]) == 1
    assert expected in capsys.readouterr().err


def write_scene(folder):
    made = case()
    arrays = {"aif": made.image_linear, "bokeh_near": made.reference_linear}
    np.savez(
        folder / "s.npz",
        disparity=made.disparity[0].numpy(),
        **{name: image[0].permute(1, 2, 0).numpy() for name, image in arrays.items()},
    )
    views = {"near": {"focus": made.lens.focus_disparity, "K_px_per_disparity": made.lens.strength_px}}
    (folder / "s.json").write_text(json.dumps({"f_px": 1.0, "views": views}))


def test_the_command_lets_methods_render_and_plots(tmp_path, capsys):
    write_scene(tmp_path)
    out = tmp_path / "out"
    words = ["--dataset", "lens-ground-truth", "--root", str(tmp_path), "--methods", "input,layered", "--corruptions",
             "eroded", "--metrics", "psnr", "--output-dir", str(out), "--device", "cpu"]  # fmt: skip
    assert main(["evaluate", *words]) == 0
    records = {(r.method, r.variant): r.numbers["psnr"] for r in read_records(out / "records.jsonl")}
    assert records["layered", ""] > 60 > records["layered", "disparity eroded"] > records["input", ""]
    assert sorted(path.name for path in out.iterdir()) == [
        "by_blur.png", "by_variant.png", "pictures", "records.jsonl", "table.csv", "table.md", "table.tex",
        "worst.png",
    ]  # fmt: skip
    again = tmp_path / "again"
    assert main(["evaluate", "--records", str(out / "records.jsonl"), "--output-dir", str(again)]) == 0
    assert (again / "table.md").read_text() == (out / "table.md").read_text()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """On the backbone that ships with the repository; as if trained for a moment."""
    networks = load_sdxl(EMBEDDED)
    add_lora(networks.unet, rank=2)
    with torch.no_grad():
        for weight in trainable_parts(networks.unet, networks.vae).lora.values():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("adapter")
    return save_adapter(folder, networks.unet, networks.vae, metadata={"visibility": "thin_lens"})


def neural_words(tmp_path, adapter, out: str, *more: str) -> list[str]:
    write_scene(tmp_path)
    words = ["evaluate", "--dataset", "lens-ground-truth", "--root", tmp_path, *more]
    words += ["--methods", "input,neural,hybrid"]
    words += ["--pretrained-model-name-or-path", EMBEDDED, "--resume-from-checkpoint", adapter]
    words += ["--corruptions", "dilated,quantised", "--metrics", "psnr", "--device", "cpu"]
    return [str(word) for word in (*words, "--output-dir", tmp_path / out)]


def test_the_neural_method_is_the_pipeline_and_has_a_robustness_study_too(tmp_path, adapter):
    assert main(neural_words(tmp_path, adapter, "out")) == 0
    records = read_records(tmp_path / "out" / "records.jsonl")
    neural = {record.variant: record.numbers["psnr"] for record in records if record.method == "neural"}
    assert neural.keys() == {"", "disparity dilated", "disparity quantised"}
    assert neural[""] != neural["disparity dilated"]
    hybrid = {record.variant: record.numbers["psnr"] for record in records if record.method == "hybrid"}
    assert hybrid.keys() == neural.keys()
    made = case()
    farthest, nearest = (float(value) for value in made.disparity.aminmax())
    lens = made.lens.normalised(farthest, nearest)
    drawn = BokehDiffPipeline.from_pretrained(EMBEDDED, adapter=adapter)(
        linear_to_srgb(made.image_linear.clamp(0, 1)),
        (made.disparity - farthest) / (nearest - farthest),
        focus=float(lens.focus_disparity),
        strength=float(lens.strength_px),
    ).images_srgb
    reference = linear_to_srgb(made.reference_linear.clamp(0, 1))
    assert neural[""] == pytest.approx(psnr(drawn, reference), abs=1e-3)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "neural" in table
    assert "dilated" in table


@pytest.mark.slow
def test_several_processes_render_the_same_with_networks_of_their_own(tmp_path, adapter):
    for out, more in (("alone", ()), ("together", ("--jobs", "2"))):
        assert main(neural_words(tmp_path, adapter, out, *more)) == 0
    alone, together = (read_records(tmp_path / out / "records.jsonl") for out in ("alone", "together"))
    assert alone == together


def test_methods_that_do_not_exist_or_have_no_weights_are_one_line(tmp_path, adapter, capsys):
    words = neural_words(tmp_path, adapter, "out")
    assert main([word.replace("input,neural", "input,magic") for word in words]) == 1
    assert (
        "scatter, occlusion_aware, layered, neural, hybrid, pynet, double-vnet; got 'magic'" in capsys.readouterr().err
    )
    assert main([word.replace(str(EMBEDDED), "./nobase") for word in words]) == 1
    assert "--pretrained-model-name-or-path: " in capsys.readouterr().err


def test_scenes_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="holds no scenes"):
        lens_ground_truth(tmp_path)
    write_scene(tmp_path)
    (tmp_path / "s.json").unlink()
    with pytest.raises(InputError, match=r"s\.npz needs s\.json beside it"):
        lens_ground_truth(tmp_path)


@pytest.mark.skipif(not (SHARED / "lens_ground_truth").is_dir(), reason="path-traced scenes are not here")
def test_the_field_measures_as_published_with_the_scenes():
    """The all-in-focus picture scores what the scenes' own README says: 20.7 dB on the first view of hair."""
    first = lens_ground_truth(SHARED / "lens_ground_truth")[0]
    outcome = measure_method([first], lambda c: linear_to_srgb(c.image_linear.clamp(0, 1)), SETUP, name="input")
    assert outcome.records[0].name == "s0_hair near"
    assert outcome.records[0].numbers["psnr"] == pytest.approx(20.7, abs=0.06)


def test_benchmarks_have_lenses_of_their_own_or_one_that_is_told(tmp_path):
    for folder in ("a", "b", "depth"):
        (tmp_path / folder).mkdir()
    for name in ("x", "y"):
        save_image(tmp_path / "a" / f"{name}.png", torch.rand(1, 3, 24, 32))
        save_image(tmp_path / "b" / f"{name}.png", torch.rand(1, 3, 24, 32))
    np.save(tmp_path / "depth" / "x.npy", np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32))
    cases = photographed(tmp_path, BENCHMARKS["folders"], strength_px=7.0)
    made = cases[0].load()
    assert (made.dataset, made.name, made.lens.strength_px) == ("pairs", "x", 7.0)
    assert float(made.lens.focus_disparity) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(InputError, match=r"y\.png has no disparity"):
        cases[1].load()


def test_blbs_strengths_are_datasets_of_their_own(tmp_path):
    scene = tmp_path / "scene"
    scene.mkdir()
    for name in ("image", "bokeh_01_00"):
        save_image(scene / f"{name}.png", torch.rand(1, 3, 8, 8))
    save_image(scene / "depth.png", torch.full((1, 3, 8, 8), 0.5))
    (scene / "info.json").write_text(json.dumps({"focus_distances": [2.0], "blur_parameters": [10, 20]}))
    (made,) = photographed(tmp_path, BENCHMARKS["blb"], strength_px=1.0)
    assert made.load().dataset == "BLB level 2"
