"""`bokehdiff infer --renderer pynet` and `double-vnet`: folders, any size, with and without disparity and lens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image

from bokehdiff import images
from bokehdiff.cli.main import main
from bokehdiff.inference import BaselineRenderer
from bokehdiff.models import BaselineSpec, build_baseline, write_baseline
from bokehdiff.optics import Lens, normalise_disparity
from tests.helpers import assert_close

PYNET = BaselineSpec("pynet", width=1 / 16)
DOUBLE = BaselineSpec("double-vnet", width=1 / 8, guide="none")


@pytest.fixture
def weights(tmp_path):
    def write(spec):
        torch.manual_seed(5)
        folder = tmp_path / f"{spec.model}_{spec.guide}"
        folder.mkdir()
        network = build_baseline(spec)
        for weight in network.parameters():
            if weight.ndim > 1:
                torch.nn.init.kaiming_normal_(weight)  # large enough for what it is told to be seen
        write_baseline(folder, network.state_dict(), spec, {"n_steps": "1"})
        return folder

    return write


@pytest.fixture
def photographs(tmp_path):
    """Two of odd sizes, and disparity of the first alone."""
    for name, size_hw in (("a", (37, 61)), ("b", (70, 33))):
        (tmp_path / "input").mkdir(exist_ok=True)
        images.save_image(tmp_path / "input" / f"{name}.png", torch.rand(1, 3, *size_hw))
    (tmp_path / "depth").mkdir()
    images.save_disparity(tmp_path / "depth" / "a.png", torch.linspace(0, 1, 37 * 61).view(1, 37, 61))
    return tmp_path


def infer(root, folder, model, *words, where="input"):
    words = ("--test-data-dir", root / where, "--output-dir", root / "out", "--device", "cpu", "--renderer", model,
             "--baseline-weights", folder, "--format", "png", *words)  # fmt: skip
    return main(["infer", *map(str, words)])


def written(root):
    return sorted(path.name for path in (root / "out" / "demo").iterdir())


def test_the_double_v_net_renders_a_folder_without_disparity(photographs, weights):
    folder = weights(DOUBLE)
    assert infer(photographs, folder, "double-vnet") == 0
    assert written(photographs) == ["a_double-vnet.png", "b_double-vnet.png"]
    photo = images.load_photo(photographs / "input" / "b.png").image_srgb
    picture = images.load_photo(photographs / "out" / "demo" / "b_double-vnet.png").image_srgb
    assert picture.shape == photo.shape
    expected = BaselineRenderer.from_weights(folder)(photo)
    assert float((picture - expected).abs().max()) <= 0.5 / 255 + 1e-6


def test_pynet_needs_disparity_and_says_how_it_was_made(photographs, weights, capsys):
    folder = weights(PYNET)
    assert infer(photographs, folder, "pynet", where="input/a.png") == 0
    assert written(photographs) == ["a_pynet.png"]
    note = yaml.safe_load(Image.open(photographs / "out" / "demo" / "a_pynet.png").text["Comment"])
    assert (note["renderer"], note["weights"], note["guide"], note["level"]) == ("pynet", folder.name, "disparity", 1)
    assert infer(photographs, folder, "pynet") == 1
    assert "no disparity for 1 of 2 photographs" in capsys.readouterr().err


def test_a_network_that_knows_the_lens_takes_focus_and_strength(photographs, weights):
    folder = weights(replace(PYNET, guide="coc"))
    assert infer(photographs, folder, "pynet", "--focus", "0.25", "--K", "6", where="input/a.png") == 0
    assert written(photographs) == ["a_6_0.250.png"]
    photo = images.load_photo(photographs / "input" / "a.png").image_srgb
    disparity = normalise_disparity(images.load_disparity(photographs / "depth" / "a.png"))
    renderer = BaselineRenderer.from_weights(folder, model="pynet")
    expected = renderer(photo, disparity=disparity, lens=Lens(0.25, 6.0))
    picture = images.load_photo(photographs / "out" / "demo" / "a_6_0.250.png").image_srgb
    assert float((picture - expected).abs().max()) <= 0.5 / 255 + 1e-6
    assert not torch.allclose(expected, renderer(photo, disparity=disparity, lens=Lens(0.75, 6.0)), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--K", "6"), "--K: this network knows no lens"),
        (("--focus", "subject"), "--focus: this network knows no lens"),
        (("--focus-sweep", "3"), "--focus-sweep: this network knows no lens"),
        (("--upsample",), "--upsample: is for the one-step network"),
        (("--baseline-weights", "nowhere"), "--baseline-weights: no weights nowhere"),
        (("--renderer", "pynet"), "holds a double-vnet; expected a pynet"),
        (("--renderer", "physical"), "--baseline-weights: is for --renderer pynet or double-vnet"),
    ],
)
def test_what_cannot_be_asked_for_names_the_flag(photographs, weights, capsys, words, message):
    assert infer(photographs, weights(DOUBLE), "double-vnet", *words) == 1
    assert message in capsys.readouterr().err


def test_weights_must_be_named(photographs, capsys):
    words = ["--test-data-dir", str(photographs / "input"), "--renderer", "pynet"]
    assert main(["infer", *words]) == 1
    assert "--baseline-weights: --renderer pynet needs it: train some" in capsys.readouterr().err


def test_what_a_network_was_trained_with_must_be_given(weights):
    from bokehdiff.errors import InputError

    image, disparity = torch.rand(1, 3, 64, 64), torch.rand(1, 64, 64)
    plain, knowing = (BaselineRenderer.from_weights(weights(replace(PYNET, guide=g))) for g in ("disparity", "coc"))
    with pytest.raises(InputError, match="was trained with disparity: give it one"):
        plain(image)
    with pytest.raises(InputError, match="was trained to know the lens"):
        knowing(image, disparity=disparity)
    metric = 3.0 + 10.0 * disparity
    assert_close(plain(image, disparity=metric), plain(image, disparity=normalise_disparity(metric)))


def test_methods_are_evaluated_on_composites(training_set, weights, tmp_path):
    from bokehdiff.evaluation import read_records

    pynet, double = weights(replace(PYNET, guide="coc")), weights(DOUBLE)
    words = ["--dataset", "composites", "--root", str(training_set), "--composites", "2", "--resolution", "32",
             "--methods", "input,scatter,pynet,double-vnet", "--pynet-weights", str(pynet),
             "--double-vnet-weights", str(double), "--metrics", "psnr,ssim", "--device", "cpu"]  # fmt: skip
    assert main(["evaluate", *words, "--output-dir", str(tmp_path / "out")]) == 0
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert [(record.method, record.name) for record in records] == [
        (method, name) for method in ("input", "scatter", "pynet", "double-vnet") for name in ("0000", "0001")
    ]
    assert all(record.blur_px > 0 and record.dataset == "composites" for record in records)
    means = {m: sum(r.numbers["psnr"] for r in records if r.method == m) for m in ("scatter", "input", "pynet")}
    assert means["scatter"] > means["input"] > means["pynet"]


def test_evaluation_of_baselines_needs_their_weights(training_set, tmp_path, capsys):
    words = [
        "--dataset",
        "composites",
        "--root",
        str(training_set),
        "--methods",
        "pynet",
        "--output-dir",
        str(tmp_path),
    ]
    assert main(["evaluate", *words]) == 1
    assert "--pynet-weights: is needed for pynet: train some" in capsys.readouterr().err
    assert main(["evaluate", *words, "--composites", "0"]) == 1
    assert "--composites: must be at least 1" in capsys.readouterr().err
