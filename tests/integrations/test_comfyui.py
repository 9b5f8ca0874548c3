"""The nodes for ComfyUI, loaded and run as ComfyUI does it, but without ComfyUI."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.inference import BokehDiffPipeline, RenderSettings
from bokehdiff.models import add_lora, load_sdxl, save_adapter, trainable_parts
from bokehdiff.optics import Aperture, Lens
from bokehdiff.renderers import compress_highlights, recover_highlights, render_photo
from tests.helpers import REPOSITORY, assert_close

FOLDER = REPOSITORY / "integrations" / "comfyui"
WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
OF_COMFYUI = {"LoadImage": ("IMAGE", "MASK"), "SaveImage": ()}  # nodes of ComfyUI itself, and what they give


@pytest.fixture(scope="module")
def nodes():
    """The folder, imported by its path under the name that ComfyUI makes of it."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


def run(nodes: types.ModuleType, kind: str, **given: Any) -> Any:
    """One node on its defaults and what is given, in inference mode, as ComfyUI's executor calls it."""
    node = nodes.NODE_CLASS_MAPPINGS[kind]
    defaults = {name: default_of(spec) for name, spec in inputs_of(node).items() if name not in given}
    with torch.inference_mode():
        outputs = getattr(node(), node.FUNCTION)(**defaults, **given)
    assert len(outputs) == len(node.RETURN_TYPES)
    return outputs[0]


def inputs_of(node: Any) -> dict[str, tuple[Any, ...]]:
    declared = node.INPUT_TYPES()
    return {**declared["required"], **declared.get("optional", {})}


def default_of(spec: tuple[Any, ...]) -> Any:
    return spec[0][0] if isinstance(spec[0], list) else spec[1]["default"]


def scene(size_hw: tuple[int, int], n_images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE and MASK: the right is nearer."""
    return torch.rand(n_images, *size_hw, 3), torch.linspace(0, 1, size_hw[1]).expand(n_images, *size_hw).contiguous()


def channels_first(image: torch.Tensor) -> torch.Tensor:
    return image.permute(0, 3, 1, 2)


def test_the_tables_are_as_comfyui_reads_them(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert "comfy" not in sys.modules
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        assert callable(getattr(node, node.FUNCTION))
        assert node.CATEGORY == "bokehdiff"
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == 1
        for kind, *options in inputs_of(node).values():
            if isinstance(kind, list):
                assert all(isinstance(choice, str) for choice in kind)
                continue
            if kind in WIDGETS:
                assert isinstance(options[0]["default"], WIDGETS[kind])
                assert options[0]["tooltip"]
            if kind in ("INT", "FLOAT"):
                assert options[0]["min"] <= options[0]["default"] <= options[0]["max"]


def problems_of(workflow: Mapping[str, Any], nodes: types.ModuleType) -> list[str]:
    """What ComfyUI would refuse: unknown nodes, missing or unknown inputs, values and links of other types."""
    gives = {**OF_COMFYUI, **{kind: node.RETURN_TYPES for kind, node in nodes.NODE_CLASS_MAPPINGS.items()}}
    problems = [
        f"{key}: no node {one['class_type']}" for key, one in workflow.items() if one["class_type"] not in gives
    ]
    for key, one in workflow.items():
        node = nodes.NODE_CLASS_MAPPINGS.get(one["class_type"])
        if node is None:
            continue
        declared, given = inputs_of(node), one["inputs"]
        problems += [f"{key}: {name} is missing" for name in node.INPUT_TYPES()["required"].keys() - given.keys()]
        problems += [f"{key}: {name} is unknown" for name in given.keys() - declared.keys()]
        for name in given.keys() & declared.keys():
            if not is_accepted(given[name], declared[name], workflow, gives):
                problems.append(f"{key}: {name} cannot be {given[name]!r}")
    return problems


def is_accepted(value: Any, spec: tuple[Any, ...], workflow: Mapping[str, Any], gives: Mapping[str, Any]) -> bool:
    kind = spec[0]
    if isinstance(value, list):
        source, output = value
        return gives[workflow[source]["class_type"]][output] in kind.split(",")
    if isinstance(kind, list):
        return value in kind
    in_range = kind not in ("INT", "FLOAT") or spec[1]["min"] <= value <= spec[1]["max"]
    return isinstance(value, WIDGETS.get(kind, ())) and in_range


def test_the_example_fits_the_nodes_and_misfits_are_seen(nodes):
    workflow = json.loads((FOLDER / "workflow.json").read_text(encoding="utf-8"))
    assert problems_of(workflow, nodes) == []
    workflow["3"]["inputs"]["K"] = -1.0
    workflow["4"]["inputs"] |= {"depth_is": "near", "lens": ["1", 0], "blur": 3}
    del workflow["4"]["inputs"]["highlights"]
    assert len(problems_of(workflow, nodes)) == 5


def test_the_example_renders(nodes):
    workflow = json.loads((FOLDER / "workflow.json").read_text(encoding="utf-8"))
    image, depth = scene((24, 32))
    loaded = {"photo.png": image, "depth.png": depth[..., None].expand(-1, -1, -1, 3)}
    made: dict[str, Any] = {}
    for key, one in workflow.items():  # written in the order in which they can run
        given = {name: made[value[0]] if isinstance(value, list) else value for name, value in one["inputs"].items()}
        if one["class_type"] == "LoadImage":
            made[key] = loaded[given["image"]]
        elif one["class_type"] == "SaveImage":
            made[key] = given["images"]
        else:
            made[key] = run(nodes, one["class_type"], **given)
    assert made["5"].shape == image.shape
    assert not torch.equal(made["5"], image)


def test_physical_blur_is_the_renderers(nodes):
    image, depth = scene((21, 33))
    opening = {"blades": 6, "rotation_deg": 10.0, "rounding": 0.2, "cat_eye": 0.5}
    lens = run(nodes, "BokehDiffLens", focus_by="disparity", focus_disparity=0.25, K=9.0, **opening)
    got = run(nodes, "BokehDiffPhysicalLensBlur", image=image, depth=depth, lens=lens, highlights=3.0, device="cpu")
    light = recover_highlights(srgb_to_linear(channels_first(image)), 3.0)
    light = render_photo(light, depth, Lens(0.25, 9.0, Aperture(**opening)))
    assert_close(channels_first(got), linear_to_srgb(compress_highlights(light, 3.0)).clamp(0.0, 1.0))


@pytest.mark.parametrize(("x", "focused"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_point_is_a_share_of_any_picture(nodes, x, focused):
    lens = run(nodes, "BokehDiffLens", focus_by="point", focus_x=x, focus_y=1.0)
    for width in (101, 301):
        _, depth = scene((5, width))
        assert float(lens.for_picture(depth).focus_disparity) == pytest.approx(focused, abs=0.01)


def test_depth_comes_as_image_or_mask_near_or_far_bright(nodes):
    image, depth = scene((16, 24))
    lens = run(nodes, "BokehDiffLens", focus_by="disparity", focus_disparity=1.0, K=6.0)
    pictures = [
        run(nodes, "BokehDiffPhysicalLensBlur", image=image, depth=given, lens=lens, depth_is=depth_is)
        for given, depth_is in [
            (depth, "near bright"),
            (depth[0], "near bright"),
            (depth[..., None].expand(-1, -1, -1, 3), "near bright"),
            (depth[..., None].expand(-1, -1, -1, 4), "near bright"),
            (1.0 - depth[..., None], "far bright"),
        ]
    ]
    for picture in pictures[1:]:
        assert_close(picture, pictures[0])
    turned = run(nodes, "BokehDiffPhysicalLensBlur", image=image, depth=depth, lens=lens, depth_is="far bright")
    assert not torch.allclose(turned, pictures[0])


def test_a_batch_with_one_depth_or_as_many_equals_its_images_one_by_one(nodes):
    image, depth = scene((16, 20), n_images=2)
    lens = run(nodes, "BokehDiffLens", focus_x=0.9, K=5.0)
    depth[1] = depth[1].flip(1)

    def blurred(image: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return run(nodes, "BokehDiffPhysicalLensBlur", image=image, depth=depth, lens=lens)

    many, one = blurred(image, depth), blurred(image, depth[:1])
    for index in range(2):
        single = image[index : index + 1]
        assert torch.equal(many[index : index + 1], blurred(single, depth[index : index + 1]))
        assert torch.equal(one[index : index + 1], blurred(single, depth[:1]))


def test_depth_of_another_size_is_resized_and_that_is_logged(nodes, caplog):
    image, depth = scene((16, 32))
    lens = run(nodes, "BokehDiffLens")
    with caplog.at_level(logging.INFO, logger="bokehdiff"):
        got = run(nodes, "BokehDiffPhysicalLensBlur", image=image, depth=depth[:, ::2, ::2], lens=lens)
    assert got.shape == image.shape
    assert "depth is 16 x 8 px, the photograph 32 x 16: resized" in caplog.text


def test_values_that_display_cannot_show_are_cut_off_and_that_is_logged(nodes, caplog):
    image, depth = scene((8, 8))
    lens = run(nodes, "BokehDiffLens", K=0.0)
    with caplog.at_level(logging.INFO):
        got = run(nodes, "BokehDiffPhysicalLensBlur", image=image * 2.0 - 0.5, depth=depth, lens=lens)
    assert_close(got, (image * 2.0 - 0.5).clamp(0.0, 1.0))
    assert "cut off at 0 and 1" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.rand(1, 8, 8, 4)}, r"image must be \[b, h, w, 3\], without transparency; got \[1, 8, 8, 4\]"),
        ({"image": torch.full((1, 8, 8, 3), torch.nan)}, "image must be finite"),
        ({"depth": torch.rand(3, 8, 8)}, "one for all images or one for each; got 3 for 1 images"),
        ({"depth": torch.full((1, 8, 8), 7.0)}, r"depth must be in \[0, 1\]; got 7 to 7: normalise it first"),
        ({"depth": torch.full((1, 8, 8), torch.nan)}, r"depth must be in \[0, 1\]; got nan"),
        ({"depth": torch.rand(1, 8, 8, 3)}, "depth must be grey"),
        ({"depth": torch.rand(1, 8, 8, 2)}, r"an IMAGE \[n, h, w, c\] or a MASK \[n, h, w\]; got \[1, 8, 8, 2\]"),
        ({"depth": torch.rand(1, 8, 24)}, "not the same view"),
        ({"depth_is": "bright"}, "depth_is must be 'near bright' or 'far bright'; got 'bright'"),
        ({"device": "abacus"}, "'abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_rendered_is_told_in_a_sentence(nodes, change, message):
    image, depth = scene((8, 8))
    given = {"image": image, "depth": depth, "lens": run(nodes, "BokehDiffLens")}
    with pytest.raises(InputError, match=message):
        run(nodes, "BokehDiffPhysicalLensBlur", **given | change)


def test_an_opening_that_is_none_is_told_by_the_lens(nodes):
    with pytest.raises(InputError, match="blades must be 0"):
        run(nodes, "BokehDiffLens", blades=2)


def test_comfyuis_progress_bar_moves_with_every_picture_and_can_cancel(nodes, monkeypatch):
    seen: list[int] = []

    class CancelledError(Exception):
        pass

    class ProgressBar:
        def __init__(self, total: int) -> None:
            seen.append(total)

        def update(self, value: int) -> None:
            seen.append(value)
            if len(seen) == 3:
                raise CancelledError

    utils = types.ModuleType("comfy.utils")
    utils.ProgressBar = ProgressBar
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    image, depth = scene((8, 8), n_images=3)
    with pytest.raises(CancelledError):
        run(nodes, "BokehDiffPhysicalLensBlur", image=image, depth=depth, lens=run(nodes, "BokehDiffLens"))
    assert seen == [3, 1, 1]


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    with torch.no_grad():
        for weight in trainable_parts(networks.unet, networks.vae).lora.values():
            weight.add_(0.02 * torch.randn_like(weight))
    return save_adapter(tmp_path_factory.mktemp("adapter"), networks.unet, networks.vae)


@pytest.mark.parametrize("renderer", ["neural", "hybrid"])
def test_neural_blur_is_the_pipelines(nodes, tiny_base, adapter, renderer, caplog):
    image, depth = scene((40, 56), n_images=2)
    lens = run(nodes, "BokehDiffLens", focus_by="disparity", focus_disparity=0.25, K=9.0, blades=6)
    networks = {"base": f" {tiny_base} ", "adapter": str(adapter), "renderer": renderer, "device": "cpu"}
    with caplog.at_level(logging.INFO):
        got = run(nodes, "BokehDiffNeuralLensBlur", image=image, depth=depth, lens=lens, **networks)
    pipeline = BokehDiffPipeline.from_pretrained(tiny_base, adapter=adapter)
    lenses, settings = [Lens(0.25, 9.0, Aperture(blades=6))], RenderSettings(renderer=renderer)
    expected = next(iter(pipeline.render_lenses(channels_first(image), depth, lenses, settings)))
    assert_close(channels_first(got), expected.images_srgb)
    assert "the network knows no openings" in caplog.text


def test_networks_are_loaded_once_until_others_are_named(nodes, tiny_base, monkeypatch):
    image, depth = scene((8, 8))
    given = {"image": image, "depth": depth, "lens": run(nodes, "BokehDiffLens"), "adapter": "", "device": "cpu"}
    loaded: list[Path] = []
    load = BokehDiffPipeline.from_pretrained
    monkeypatch.setattr(
        BokehDiffPipeline, "from_pretrained", lambda base, **how: loaded.append(how["dtype"]) or load(base, **how)
    )
    for precision in ("float32", "float32", "bfloat16"):
        run(nodes, "BokehDiffNeuralLensBlur", base=str(tiny_base), precision=precision, **given)
    assert loaded == [torch.float32, torch.bfloat16]


def test_missing_weights_are_told_in_a_sentence_that_names_the_input(nodes, tiny_base):
    image, depth = scene((8, 8))
    given = {"image": image, "depth": depth, "lens": run(nodes, "BokehDiffLens"), "device": "cpu"}
    with pytest.raises(MissingWeightsError, match=r"^base: nowhere is neither a folder here nor a hub id"):
        run(nodes, "BokehDiffNeuralLensBlur", base="nowhere", **given)
    with pytest.raises(MissingWeightsError, match=r"^base: SG161222/RealVisXL_V5.0 is no folder here"):
        run(nodes, "BokehDiffNeuralLensBlur", **given)
    with pytest.raises(MissingWeightsError, match=r"^adapter: .* pass the folder that holds"):
        run(nodes, "BokehDiffNeuralLensBlur", base=str(tiny_base), adapter="missing", **given)
    with pytest.raises(InputError, match="^base: name an SDXL base"):
        run(nodes, "BokehDiffNeuralLensBlur", base="  ", **given)


def test_an_adapter_beside_a_saved_pipeline_is_refused_by_the_inputs_name(nodes, tiny_base, adapter, tmp_path):
    saved = BokehDiffPipeline.from_pretrained(tiny_base, adapter=adapter).save_pretrained(tmp_path / "saved")
    image, depth = scene((8, 8))
    given = {"image": image, "depth": depth, "lens": run(nodes, "BokehDiffLens"), "base": str(saved), "device": "cpu"}
    assert run(nodes, "BokehDiffNeuralLensBlur", adapter="", **given).shape == image.shape
    with pytest.raises(InputError, match="leave adapter out"):
        run(nodes, "BokehDiffNeuralLensBlur", adapter=str(adapter), **given)
