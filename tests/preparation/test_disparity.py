from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.preparation import DEPTH_ANYTHING_V2, TransformersDisparity, predicted_quantity
from tests.helpers import assert_close
from tests.preparation.tiny_models import save_depth_anything


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory):
    return save_depth_anything(tmp_path_factory.mktemp("models") / "depth_anything")


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (57, 33), (120, 200)])
def test_disparity_has_the_size_of_the_photograph(depth_anything, size_hw):
    model = TransformersDisparity.from_pretrained(depth_anything)
    disparity = model.predict(torch.rand(1, 3, *size_hw))
    assert disparity.shape == (1, *size_hw)
    assert disparity.dtype == torch.float32
    assert torch.isfinite(disparity).all()
    assert model.quantity == "disparity"
    assert model.name == str(depth_anything)


def test_prediction_is_what_the_published_recipe_gives(depth_anything):
    """The recipe of the model card, at the size where its processor need not resize, and so not round to 8 bits."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    pixels = torch.randint(0, 256, (3, 70, 70), dtype=torch.uint8)
    processor = AutoImageProcessor.from_pretrained(depth_anything)
    network = AutoModelForDepthEstimation.from_pretrained(depth_anything).eval()
    with torch.no_grad():
        outputs = network(**processor(images=pixels, return_tensors="pt"))
    expected = processor.post_process_depth_estimation(outputs, target_sizes=[(70, 70)])[0]["predicted_depth"]
    got = TransformersDisparity.from_pretrained(depth_anything).predict(pixels[None].float() / 255.0)[0]
    assert expected.max() > 0.0
    assert_close(got / expected.max(), expected / expected.max())


def test_metric_models_give_one_over_depth(tmp_path):
    folder = save_depth_anything(tmp_path / "metric", depth_estimation_type="metric", max_depth=20)
    model = TransformersDisparity.from_pretrained(folder)
    assert model.quantity == "depth"
    image_srgb = torch.rand(1, 3, 40, 50)
    disparity = model.predict(image_srgb)
    depth = TransformersDisparity(model.model, model.processor, "depth as it is", "disparity").predict(image_srgb)
    assert_close(disparity, 1.0 / depth)
    assert depth.max() < 20.0


def test_depth_pro_tells_metres_and_the_focal_length():
    """What its own processor makes of its outputs: canonical inverse depth at a field of view of 53.13 degrees."""
    from transformers import DepthProImageProcessor
    from transformers.models.depth_pro.modeling_depth_pro import DepthProDepthEstimatorOutput

    class Trained(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, pixel_values):
            inverse = torch.linspace(0.1, 1.0, 48).expand(1, 48, 48)
            angle = torch.rad2deg(2 * torch.atan(torch.tensor([0.5])))
            return DepthProDepthEstimatorOutput(predicted_depth=inverse, field_of_view=angle)

    processor = DepthProImageProcessor(size={"height": 48, "width": 48})
    estimate = TransformersDisparity(Trained(), processor, "depth pro", "depth").estimate(torch.rand(1, 3, 30, 60))
    assert estimate.is_metric
    assert estimate.focal_length_px == pytest.approx(60.0)  # width / (2 tan(angle / 2))
    assert estimate.disparity.shape == (1, 30, 60)
    assert_close(estimate.disparity.amin(), torch.tensor(0.1))  # of inverse depth times width over focal length
    assert_close(estimate.disparity.amax(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("config", "quantity"),
    [
        (SimpleNamespace(model_type="depth_anything", depth_estimation_type="relative"), "disparity"),
        (SimpleNamespace(model_type="depth_anything", depth_estimation_type="metric"), "depth"),
        (SimpleNamespace(model_type="prompt_depth_anything", depth_estimation_type="metric"), "depth"),
        (SimpleNamespace(model_type="dpt", add_projection=False), "disparity"),
        (SimpleNamespace(model_type="dpt", add_projection=True), "depth"),
        (SimpleNamespace(model_type="zoedepth"), "depth"),
        (SimpleNamespace(model_type="depth_pro"), "depth"),
        (SimpleNamespace(model_type="glpn"), "depth"),
    ],
)
def test_it_is_known_which_families_predict_depth(config, quantity):
    assert predicted_quantity(config) == quantity


def test_canopy_heights_are_no_depths():
    with pytest.raises(InputError, match="not known whether chmv2 models predict depth"):
        predicted_quantity(SimpleNamespace(model_type="chmv2"))


def test_missing_weights_say_what_else_there_is():
    with pytest.raises(MissingWeightsError, match=r"Depth-Anything-V2-Small-hf.*HF_HUB_OFFLINE.*pass a local folder"):
        TransformersDisparity.from_pretrained(DEPTH_ANYTHING_V2["Small"].hub_id)


def test_an_incomplete_folder_is_refused(depth_anything, tmp_path):
    (tmp_path / "config.json").write_text((depth_anything / "config.json").read_text())
    with pytest.raises(
        MissingWeightsError, match=r"model\.safetensors is missing; .* holds config\.json: pass a local folder"
    ):
        TransformersDisparity.from_pretrained(tmp_path)


def test_a_folder_without_its_processor_is_refused(depth_anything, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(depth_anything / name, tmp_path)
    with pytest.raises(MissingWeightsError, match="is not complete: .*image processor"):
        TransformersDisparity.from_pretrained(tmp_path)


def test_a_folder_of_pickled_tensors_is_read(depth_anything, tmp_path):
    from safetensors.torch import load_file

    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(depth_anything / name, tmp_path)
    torch.save(load_file(depth_anything / "model.safetensors"), tmp_path / "pytorch_model.bin")
    image_srgb = torch.rand(1, 3, 70, 70)
    models = [TransformersDisparity.from_pretrained(folder) for folder in (depth_anything, tmp_path)]
    assert_close(models[1].predict(image_srgb), models[0].predict(image_srgb))


def test_damaged_weights_are_refused(depth_anything, tmp_path):
    (tmp_path / "config.json").write_text((depth_anything / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(InputError, match="cannot be loaded"):
        TransformersDisparity.from_pretrained(tmp_path)


def test_weights_that_would_stay_random_are_refused(depth_anything, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((depth_anything / name).read_text())
    weights = load_file(depth_anything / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("head.conv3")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 2 weights of its model, such as head\.conv3\.bias"):
        TransformersDisparity.from_pretrained(tmp_path)
