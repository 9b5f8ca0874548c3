"""xFormers for the attention layers that stay ordinary: asked for by the seed's command lines, used where it works."""

from __future__ import annotations

import logging

import torch
from diffusers import UNet2DConditionModel

from bokehdiff.errors import first_line

logger = logging.getLogger(__name__)


def use_xformers(unet: UNet2DConditionModel, device: torch.device) -> bool:
    """Let a UNet's attention run on xFormers if it works on this device; else say why not, once, and change nothing.

    Call it before physics-inspired attention is installed: xFormers replaces every processor.

    Args:
        unet: A diffusers UNet.
        device: Where it will run.

    Returns:
        Whether xFormers is used.
    """
    problem = xformers_problem(device)
    if problem is not None:
        logger.warning("xFormers is not used, torch's own attention is: %s", problem)
        return False
    unet.enable_xformers_memory_efficient_attention()
    return True


def xformers_problem(device: torch.device) -> str | None:
    """What keeps xFormers from working here, tried out on a few numbers; None if nothing does.

    Args:
        device: Where it would run.
    """
    if device.type != "cuda":
        return f"it needs an NVIDIA card; this is {device.type}"
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.zeros(1, 8, 1, 32, device=device, dtype=torch.float16)
        memory_efficient_attention(probe, probe, probe)
    except Exception as error:  # a broken installation fails in many ways, none of which may stop a run
        return f"{type(error).__name__}: {first_line(error)}"
    return None
