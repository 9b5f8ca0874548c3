"""The one-step pipeline on the tiny backbone, whose weights are random: sizes, determinism, tiles, errors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from bokehdiff.errors import InputError, MissingWeightsError
from bokehdiff.images import linear_to_srgb, srgb_to_linear
from bokehdiff.inference import BokehDiffPipeline, MetricRange, RenderSettings, resolve_lens
from bokehdiff.inference import pipeline as pipeline_module
from bokehdiff.inference.memory import MemoryPlan, free_bytes_of, plan_memory
from bokehdiff.models import add_lora, load_sdxl, save_adapter, trainable_parts
from bokehdiff.optics import CameraSettings, Lens
from bokehdiff.renderers import render_photo
from tests.helpers import assert_close, psnr


@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return BokehDiffPipeline.from_pretrained(tiny_base)


def scene(size_hw: tuple[int, int], n_images: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    disparity = torch.linspace(0, 1, size_hw[1]).expand(n_images, *size_hw).contiguous()
    return torch.rand(n_images, 3, *size_hw), disparity


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 130), (65, 33), (64, 96)])
def test_any_size_in_same_size_out(pipeline, size_hw):
    image_srgb, disparity = scene(size_hw)
    result = pipeline(image_srgb, disparity, focus=0.5, strength=10.0)
    assert result.images_srgb.shape == image_srgb.shape
    assert result.images[0].size == (size_hw[1], size_hw[0])
    assert 0.0 <= float(result.images_srgb.min()) <= float(result.images_srgb.max()) <= 1.0
    assert_close(result.coc_px, 10.0 * (disparity - 0.5))


def test_nothing_is_random(pipeline):
    image_srgb, disparity = scene((64, 64))
    first, second = (pipeline(image_srgb, disparity, focus=0.3).images_srgb for _ in range(2))
    assert torch.equal(first, second)


def test_a_batch_equals_its_images_one_by_one(pipeline):
    image_srgb, disparity = scene((64, 64), n_images=2)
    both = pipeline(image_srgb, disparity, focus=0.3).images_srgb
    for index in range(2):
        one = pipeline(image_srgb[index : index + 1], disparity[index : index + 1], focus=0.3).images_srgb
        assert_close(both[index : index + 1], one)


def test_focus_and_strength_change_the_picture(pipeline):
    image_srgb, disparity = scene((64, 128))
    near, far = (pipeline(image_srgb, disparity, focus=focus, strength=40.0).images_srgb for focus in (1.0, 0.0))
    sharp = pipeline(image_srgb, disparity, focus=1.0, strength=0.0).images_srgb
    assert not torch.allclose(near, far)
    assert not torch.allclose(near, sharp)


def test_one_tile_as_large_as_the_image_is_the_whole(pipeline):
    image_srgb, disparity = scene((64, 96))
    whole = pipeline(image_srgb, disparity, focus=0.5, tile_px=0).images_srgb
    assert_close(pipeline(image_srgb, disparity, focus=0.5, tile_px=96).images_srgb, whole)


def test_tiles_see_their_own_part_of_the_scene(pipeline):
    """The left tile of a picture whose right half is another scene is what it is alone, where no blending reaches."""
    image_srgb, disparity = scene((64, 224))
    other = image_srgb.clone()
    other[..., 160:] = torch.rand(1, 3, 64, 64)
    first, second = (pipeline(image, disparity, focus=0.5, tile_px=64).images_srgb for image in (image_srgb, other))
    assert first.shape == image_srgb.shape
    assert not torch.allclose(first[..., 160:], second[..., 160:])


def test_lenses_share_one_encoding_and_equal_single_calls(pipeline, monkeypatch):
    image_srgb, disparity = scene((64, 64))
    lenses = [Lens(0.2, 10.0), Lens(0.8, 30.0)]
    singles = [
        pipeline(image_srgb, disparity, focus=lens.focus_disparity, strength=lens.strength_px) for lens in lenses
    ]
    encode, calls = pipeline.generator.encode, []
    monkeypatch.setattr(pipeline.generator, "encode", lambda image, **how: calls.append(1) or encode(image, **how))
    together = list(pipeline.render_lenses(image_srgb, disparity, lenses))
    assert len(calls) == 1
    for one, single in zip(together, singles, strict=True):
        assert torch.equal(one.images_srgb, single.images_srgb)


def test_pillow_images_and_arrays_go_in_as_they_are(pipeline):
    image_srgb, disparity = scene((40, 48))
    picture = to_pil_image(image_srgb[0])
    from_tensor = pipeline(pil_to_tensor(picture)[None] / 255.0, disparity, focus=0.5)
    from_picture = pipeline(picture, disparity[0].numpy(), focus="0.5", strength="20")
    assert torch.equal(from_picture.images_srgb, from_tensor.images_srgb)
    batch = pipeline([picture.convert("RGBA"), picture], disparity.expand(2, -1, -1), focus=0.5)
    assert len(batch.images) == 2


def test_an_aperture_is_an_f_number(pipeline):
    image_srgb, disparity = scene((64, 64))
    camera, distances = CameraSettings(focal_length_mm=50.0), MetricRange(1.0, 5.0)
    result = pipeline(image_srgb, disparity, focus="2m", aperture=2.8, camera=camera, distances=distances)
    expected = resolve_lens(disparity, focus="2m", strength="f/2.8", camera=camera, distances=distances)
    assert result.lens.strength_px == expected.strength_px > 0


def test_in_focus_the_photograph_stays_unless_it_is_asked_not_to(pipeline):
    image_srgb, disparity = scene((64, 64))
    sharp = pipeline(image_srgb, disparity, focus=0.5, strength=0.0)
    assert torch.equal(sharp.images_srgb, image_srgb)
    raw = pipeline(image_srgb, disparity, focus=0.5, strength=0.0, preserve_focus=False, match_colour=False)
    assert not torch.allclose(raw.images_srgb, image_srgb, atol=0.05)


def test_hybrid_is_physics_where_the_network_knows_nothing(pipeline):
    """Weights are random here; lights brighter than white count if they are told."""
    image_srgb = torch.rand(1, 3, 64, 96)
    disparity = torch.full((1, 64, 96), 0.2)
    disparity[..., 80:] = 0.9
    lens = Lens(0.9, 12.0)
    light = srgb_to_linear(image_srgb)
    for told in (None, 3.0 * light):
        physical = linear_to_srgb(render_photo(light if told is None else told, disparity, lens).clamp(0, 1))
        settings = RenderSettings(renderer="hybrid")
        (result,) = pipeline.render_lenses(image_srgb, disparity, [lens], settings, image_linear=told)
        assert_close(result.images_srgb, physical)


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    """As if trained, for the released convention."""
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    parts = trainable_parts(networks.unet, networks.vae)
    with torch.no_grad():
        for weight in (*parts.lora.values(), *parts.vae.values()):
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return save_adapter(
        tmp_path_factory.mktemp("adapter"), networks.unet, networks.vae, metadata={"visibility": "released"}
    )


def test_a_fused_adapter_draws_the_same_and_comes_back_from_a_folder(tiny_base, adapter, tmp_path):
    image_srgb, disparity = scene((64, 64))
    beside = BokehDiffPipeline.from_pretrained(tiny_base, adapter=adapter, fuse=False)
    expected = beside(image_srgb, disparity, focus=0.3, preserve_focus=False).images_srgb
    with pytest.raises(InputError, match="load with fuse=True to save"):
        beside.save_pretrained(tmp_path / "saved")
    fused = BokehDiffPipeline.from_pretrained(tiny_base, adapter=adapter, timestep=400)
    assert not any("lora" in name for name, _ in fused.generator.named_parameters())
    folder = fused.save_pretrained(tmp_path / "saved")
    assert torch.isfinite(fused(image_srgb, disparity).images_srgb).all(), "it goes on after saving"
    again = BokehDiffPipeline.from_pretrained(folder)
    assert (again.convention, again.generator.timestep) == ("released", 400)
    assert not (folder / "text_encoder").exists(), "the prompt is stored, encoded"
    drawn = again(image_srgb, disparity, focus=0.3).images_srgb
    assert_close(drawn, fused(image_srgb, disparity, focus=0.3).images_srgb)
    back = BokehDiffPipeline.from_pretrained(folder, timestep=499)
    assert torch.allclose(back(image_srgb, disparity, focus=0.3, preserve_focus=False).images_srgb, expected, atol=1e-3)
    with pytest.raises(InputError, match="is there already"):
        fused.save_pretrained(folder)
    with pytest.raises(InputError, match="has its adapter in its weights already"):
        BokehDiffPipeline.from_pretrained(folder, adapter=adapter)


def test_offloading_moves_one_network_at_a_time_and_changes_nothing(tiny_base, pipeline, monkeypatch):
    image_srgb, disparity = scene((64, 64))
    lenses = [Lens(0.2, 10.0), Lens(0.8, 30.0)]
    expected = [one.images_srgb for one in pipeline.render_lenses(image_srgb, disparity, lenses)]
    told, offloading = [], BokehDiffPipeline.from_pretrained(tiny_base)
    offloading.enable_model_cpu_offload("cpu")
    for name in ("unet", "vae"):
        hook = getattr(offloading.generator, name)._hf_hook
        bring = hook.pre_forward
        monkeypatch.setattr(
            hook,
            "pre_forward",
            lambda *args, name=name, bring=bring, **named: told.append(name) or bring(*args, **named),
        )
    take_away = offloading._unet_hook.offload
    monkeypatch.setattr(offloading._unet_hook, "offload", lambda: told.append("away") or take_away())
    got = [one.images_srgb for one in offloading.render_lenses(image_srgb, disparity, lenses)]
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert told == ["vae", "unet", "unet", "away", "vae", "vae"], "once there, once back, whatever the number of lenses"
    with pytest.raises(InputError, match="moved as they are needed"):
        offloading.to("cpu")


def test_half_precision_stays_near(tiny_base, pipeline):
    image_srgb, disparity = scene((96, 96))
    expected = pipeline(image_srgb, disparity, focus=0.3, preserve_focus=False).images_srgb
    other = BokehDiffPipeline.from_pretrained(tiny_base).to(dtype=torch.bfloat16)
    assert other.generator.vae.dtype == torch.float32
    assert psnr(other(image_srgb, disparity, focus=0.3, preserve_focus=False).images_srgb, expected) > 30
    assert other.to(vae_dtype=torch.bfloat16).generator.vae.dtype == torch.bfloat16
    assert other(image_srgb, disparity, focus=0.3).images_srgb.dtype == torch.float32


def test_memory_decides_on_tiles(pipeline, monkeypatch, caplog):
    plan = partial(plan_memory, n_images=1, unet_dtype=torch.bfloat16, vae_dtype=torch.float32, multiple=32)
    gib = 2**30
    assert plan((2048, 2048), free_bytes=18 * gib) == MemoryPlan(0, False), "2048 px whole beside the UNet in 24 GiB"
    assert plan((2048, 2048), free_bytes=8 * gib) == MemoryPlan(0, True)
    small = plan((4096, 4096), free_bytes=2 * gib)
    assert small.in_strips
    assert 512 <= small.tile_px < 4096
    assert small.tile_px % 32 == 0
    assert plan((4096, 4096), free_bytes=0).tile_px == 512
    assert free_bytes_of(torch.device("cpu")) > gib // 4
    monkeypatch.setattr(pipeline_module, "free_bytes_of", lambda device: 0)
    caplog.set_level("INFO")
    image_srgb, disparity = scene((64, 64))
    in_strips = pipeline(image_srgb, disparity).images_srgb
    assert "are encoded and decoded in strips: memory is short" in caplog.text
    monkeypatch.undo()
    assert_close(in_strips, pipeline(image_srgb, disparity).images_srgb)


def test_upsampling_keeps_the_size(pipeline):
    image_srgb, disparity = scene((40, 48))
    assert pipeline(image_srgb, disparity, upsample=2).images_srgb.shape == image_srgb.shape


@pytest.mark.parametrize("visibility", ["thin_lens", "released"])
def test_adapter_says_what_it_was_trained_with(tiny_base, tmp_path, visibility):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    save_adapter(tmp_path, networks.unet, networks.vae, metadata={"visibility": visibility})
    pipeline = BokehDiffPipeline.from_pretrained(tiny_base, adapter=tmp_path)
    assert pipeline.convention == visibility
    image_srgb, disparity = scene((64, 64))
    assert torch.isfinite(pipeline(image_srgb, disparity).images_srgb).all()


def test_adapter_of_an_unknown_convention_is_refused(tiny_base, tmp_path):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    save_adapter(tmp_path, networks.unet, networks.vae, metadata={"visibility": "magic"})
    with pytest.raises(InputError, match="trained with visibility 'magic'"):
        BokehDiffPipeline.from_pretrained(tiny_base, adapter=tmp_path)


def test_adapter_is_run_at_the_timestep_it_was_trained_at(tiny_base, tmp_path):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    for written, timestep in (("99", 99), (None, 499)):
        folder = tmp_path / str(timestep)
        save_adapter(folder, networks.unet, networks.vae, metadata={"train_T": written} if written else {})
        assert BokehDiffPipeline.from_pretrained(tiny_base, adapter=folder).generator.timestep == timestep
        assert BokehDiffPipeline.from_pretrained(tiny_base, adapter=folder, timestep=7).generator.timestep == 7
    save_adapter(tmp_path, networks.unet, networks.vae, metadata={"train_T": "late"})
    with pytest.raises(InputError, match=r"^--train-T: .* trained at timestep 'late'"):
        BokehDiffPipeline.from_pretrained(tiny_base, adapter=tmp_path)


def test_adapter_of_an_ablation_is_refused(tiny_base, tmp_path):
    networks = load_sdxl(tiny_base)
    add_lora(networks.unet, rank=2)
    save_adapter(tmp_path, networks.unet, networks.vae, metadata={"ablation": "occlusion"})
    with pytest.raises(InputError, match=r"^--resume-from-checkpoint: .* trained with --ablation occlusion"):
        BokehDiffPipeline.from_pretrained(tiny_base, adapter=tmp_path)


def test_missing_weights_name_the_flag(tiny_base):
    with pytest.raises(MissingWeightsError, match=r"^--pretrained-model-name-or-path: .*nobase"):
        BokehDiffPipeline.from_pretrained("./nobase")
    with pytest.raises(MissingWeightsError, match=r"^--resume-from-checkpoint: .*noadapter"):
        BokehDiffPipeline.from_pretrained(tiny_base, adapter="./noadapter")


def test_what_does_not_fit_is_refused(pipeline):
    image_srgb, disparity = scene((64, 64))
    with pytest.raises(InputError, match=r"size of the image, \[64, 64\]; got \[64, 60\]"):
        pipeline(image_srgb, disparity[..., :60])
    with pytest.raises(InputError, match="one for each image; got 1 for 2"):
        pipeline(image_srgb.expand(2, -1, -1, -1), disparity)
    with pytest.raises(InputError, match=r"disparity must be in \[0, 1\]; got 0 to 255"):
        pipeline(image_srgb, 255.0 * disparity)
    with pytest.raises(InputError, match=r"must be float \[b, 3, h, w\] in \[0, 1\]; got torch.uint8"):
        pipeline((255 * image_srgb).byte(), disparity)
    with pytest.raises(InputError, match="photographs of one size"):
        pipeline([to_pil_image(image_srgb[0]), to_pil_image(image_srgb[0, :, :32])], disparity)
    with pytest.raises(InputError, match="tile_px must be a multiple of 16 for this backbone; got 50"):
        pipeline(image_srgb, disparity, tile_px=50)
