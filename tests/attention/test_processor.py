"""PISA in a diffusers UNet: put in, used, taken out."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F

from bokehdiff.attention import INFERENCE_HARDNESS, PISA_LAYERS, PisaInputs, install_pisa, processor, remove_pisa
from bokehdiff.errors import InputError
from tests.attention.scenes import layered_disparity, optics_of
from tests.helpers import assert_close

GRID_HW = (4, 6)  # of down_blocks.1, for latents of 8 x 12
CHOSEN = [f"{PISA_LAYERS}.transformer_blocks.{i}.attn1" for i in (0, 1)]


@pytest.fixture
def unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2, 1),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=20,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
    ).eval()


def pisa_inputs(*, strength_px=60.0, hardness=INFERENCE_HARDNESS, **options):
    scenes = torch.cat([layered_disparity(seed, (GRID_HW[0] * 16, GRID_HW[1] * 16)) for seed in (1, 2)])
    return PisaInputs(optics_of(scenes, GRID_HW, strength_px=strength_px), hardness, **options)


def call(unet, pisa=None):
    generator = torch.Generator().manual_seed(1)
    return unet(
        torch.randn(2, 4, 8, 12, generator=generator),
        499,
        torch.randn(2, 7, 20, generator=generator),
        added_cond_kwargs={
            "text_embeds": torch.randn(2, 16, generator=generator),
            "time_ids": torch.ones(2, 6),
        },
        cross_attention_kwargs=None if pisa is None else {"pisa": pisa},
    ).sample


@pytest.fixture
def diffusers_log():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("diffusers").addHandler(handler)
    yield records
    logging.getLogger("diffusers").removeHandler(handler)


def test_removing_restores_the_very_processors_and_numbers(unet):
    before, objects = call(unet).detach(), dict(unet.attn_processors)
    install_pisa(unet)
    inside = call(unet, pisa_inputs()).detach()
    remove_pisa(unet)
    after = unet.attn_processors
    assert after.keys() == objects.keys()
    assert all(after[name] is objects[name] for name in objects)
    assert torch.equal(call(unet), before)
    assert not torch.allclose(inside, before)


def test_only_the_chosen_self_attention_is_physics_inspired(unet):
    names = set(unet.state_dict())
    install_pisa(unet)
    chosen = [
        name.removesuffix(".processor")
        for name, installed in unet.attn_processors.items()
        if isinstance(installed, processor.PisaProcessor)
    ]
    assert chosen == CHOSEN
    assert set(unet.state_dict()) == names
    remove_pisa(unet)
    install_pisa(unet, [CHOSEN[1], "mid_block"])
    kinds = unet.attn_processors
    assert isinstance(kinds[f"{CHOSEN[1]}.processor"], processor.PisaProcessor)
    assert isinstance(kinds[f"{CHOSEN[0]}.processor"], processor.OrdinaryProcessor)
    assert isinstance(kinds["mid_block.attentions.0.transformer_blocks.0.attn1.processor"], processor.PisaProcessor)


def test_around_the_attention_all_is_as_in_diffusers(unet, monkeypatch):
    """With ordinary attention in the place of PISA the UNet is bit-equal: heads, norms, projections, residuals."""
    before = call(unet)
    monkeypatch.setattr(
        processor, "pisa_attention", lambda q, k, v, optics, **options: F.scaled_dot_product_attention(q, k, v)
    )
    install_pisa(unet)
    assert torch.equal(call(unet, pisa_inputs()), before)


@pytest.mark.parametrize(
    "options", [{"residual_connection": True, "rescale_output_factor": 2.0}, {"qk_norm": "layer_norm"}]
)
def test_attention_layers_with_more_to_them(monkeypatch, options):
    """Images as input, group norm, norms of query and key, residual: as diffusers' own processor."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    layer = Attention(16, heads=2, dim_head=8, norm_num_groups=4, processor=AttnProcessor2_0(), **options).eval()
    image = torch.randn(2, 16, *GRID_HW)
    before = layer(image)
    monkeypatch.setattr(
        processor, "pisa_attention", lambda q, k, v, optics, **options: F.scaled_dot_product_attention(q, k, v)
    )
    layer.set_processor(processor.PisaProcessor(layer.processor, 0))
    assert torch.equal(layer(image, pisa=pisa_inputs()), before)


def test_calls_are_quiet(unet, diffusers_log):
    install_pisa(unet)
    call(unet, pisa_inputs())
    assert [record.getMessage() for record in diffusers_log] == []


def test_blur_changes_what_the_layer_does(unet):
    install_pisa(unet)
    assert not torch.allclose(call(unet, pisa_inputs()), call(unet, pisa_inputs(strength_px=0.0)), atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("backend", ["reference", "local"])
def test_gradients_survive_checkpointing(unet, dropout, backend):
    """Two forward passes before one backward: state in the processors would show."""
    unet.train()
    install_pisa(unet)

    def gradients():
        unet.zero_grad()
        soft = call(unet, pisa_inputs(dropout=dropout, seed=3, backend=backend))
        blurred = call(unet, pisa_inputs(strength_px=20.0, dropout=dropout, seed=4, backend=backend))
        (soft.square().mean() + blurred.mean()).backward()
        return {name: parameter.grad.clone() for name, parameter in unet.named_parameters()}

    plain = gradients()
    unet.enable_gradient_checkpointing()
    checkpointed = gradients()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert plain[f"{CHOSEN[0]}.to_q.weight"].abs().sum() > 0


def test_each_layer_drops_other_weights(unet):
    install_pisa(unet)
    assert torch.equal(call(unet, pisa_inputs(dropout=0.2, seed=1)), call(unet, pisa_inputs(dropout=0.2, seed=1)))
    layers = [module.processor.layer for name, module in unet.named_modules() if name in CHOSEN]
    assert layers == [0, 1]


def test_lora_layers_learn_inside_physics_inspired_attention(unet):
    from peft import LoraConfig

    install_pisa(unet)
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=["to_q", "to_k", "to_v"])
    )
    call(unet, pisa_inputs()).square().mean().backward()
    learning = {
        name: parameter.grad
        for name, parameter in unet.named_parameters()
        if name.startswith(CHOSEN[0]) and "lora_B" in name
    }
    assert len(learning) == 3
    assert all(bool(grad.isfinite().all()) and grad.abs().sum() > 0 for grad in learning.values())
    remove_pisa(unet)


def test_a_layer_without_inputs_does_not_fall_back(unet):
    install_pisa(unet)
    with pytest.raises(InputError, match=r"got no PisaInputs: pass cross_attention_kwargs"):
        call(unet)


def test_optics_of_another_grid_are_refused(unet):
    install_pisa(unet)
    pisa = PisaInputs(optics_of(layered_disparity(1, (64, 64)), (4, 4)), INFERENCE_HARDNESS)
    with pytest.raises(InputError, match="got 1 images of 4 x 4 tokens for 2 sequences of 24"):
        call(unet, pisa)


def test_physics_inspired_attention_is_self_attention():
    from diffusers.models.attention_processor import Attention

    layer = Attention(16, heads=2, dim_head=8)
    layer.set_processor(processor.PisaProcessor(layer.processor, 0))
    with pytest.raises(InputError, match="self-attention without a mask; got other tokens or a mask"):
        layer(torch.randn(2, 24, 16), encoder_hidden_states=torch.randn(2, 24, 16), pisa=pisa_inputs())


def test_layers_that_are_not_there_are_refused_with_those_that_are(unet):
    objects = dict(unet.attn_processors)
    with pytest.raises(
        InputError, match=r"called 'down_blocks.7'; this UNet has down_blocks.1.attentions.0, .*mid_block"
    ):
        install_pisa(unet, ["mid_block", "down_blocks.7"])
    with pytest.raises(InputError, match="no self-attention in a layer called 'down_blocks.1.attentions.0.transf'"):
        install_pisa(unet, "down_blocks.1.attentions.0.transf")
    assert unet.attn_processors == objects


def test_installing_twice_and_removing_nothing_are_refused(unet):
    with pytest.raises(InputError, match="nothing to remove"):
        remove_pisa(unet)
    install_pisa(unet)
    with pytest.raises(InputError, match="installed already"):
        install_pisa(unet)


def test_a_processor_with_weights_is_not_hidden(unet):
    class Weighty(torch.nn.Module):
        def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            return hidden_states

    unet.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(Weighty())
    with pytest.raises(InputError, match=r"attn2 has weights of its own \(Weighty\)"):
        install_pisa(unet)


@pytest.fixture
def unchecked_shapes():
    """Graphs cannot hold the checks of shapes that tests run under."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_layer_compiles_whole_and_once_for_all_images(dropout):
    """Another image, hardness and seed: other blocks, at most one more graph for numbers that are no constants."""
    from diffusers.models.attention_processor import Attention
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    layer = Attention(16, heads=2, dim_head=8)
    layer.set_processor(processor.PisaProcessor(layer.processor, 0))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    tokens = torch.randn(2, GRID_HW[0] * GRID_HW[1], 16)
    for step, strength_px in enumerate((5.0, 90.0, 20.0, 40.0)):
        pisa = pisa_inputs(strength_px=strength_px, hardness=3.0 + step, dropout=dropout, seed=step, backend="local")
        expected, got = layer(tokens, pisa=pisa), compiled(tokens, pisa=pisa)
        assert torch.equal(got, expected)
        weights = list(layer.parameters())
        gradients = torch.autograd.grad(got.square().sum(), weights)
        assert_close(
            torch.cat([g.flatten() for g in gradients]),
            torch.cat([g.flatten() for g in torch.autograd.grad(expected.square().sum(), weights)]),
        )
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_unet_compiles_without_graph_break(unet, checkpointing):
    torch._dynamo.reset()
    install_pisa(unet)
    if checkpointing:
        from torch.utils.checkpoint import checkpoint

        def recompute(module, *inputs):  # diffusers' own asks for torch's version, at which the compiler gives up
            return checkpoint(module, *inputs, use_reentrant=False)

        unet.train().enable_gradient_checkpointing(recompute)
    compiled = torch.compile(unet, fullgraph=True, backend="aot_eager")
    for strength_px in (60.0, 10.0):
        pisa = pisa_inputs(strength_px=strength_px, backend="local")
        got = call(compiled, pisa)
        assert_close(got, call(unet, pisa))
        got.square().mean().backward()
        assert all(
            bool(parameter.grad.isfinite().all()) for parameter in unet.parameters() if parameter.grad is not None
        )
        assert unet.get_parameter(f"{CHOSEN[0]}.to_q.weight").grad.abs().sum() > 0
