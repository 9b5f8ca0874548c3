"""How hard the edge of the soft disc is: a pure function of how far training has come."""

from __future__ import annotations

import math

from bokehdiff.errors import InputError

FIRST_HARD = 3.0  # BokehDiff's training begins with sigmoid(ln(3) * x)
HARD_PER_SAMPLE = 2.0  # and adds 1 per attention call: two layers, one image per step
INFERENCE_HARDNESS = math.log(1e7)  # 16.1: the published inference; the edge is then a hundredth of a token wide


def training_hardness(n_samples_seen: int) -> float:
    """Hardness h of the soft disc after `n_samples_seen` training images; the published schedule.

    Concretely, h = min(ln(3 + 2 n), ln(1e7)): the released processor kept a counter that began at 3 and grew by one per
    call, twice per step of one image. Here it is a function of progress, so that a resumed run and a recomputed
    (checkpointed) forward pass see the same number.

    Args:
        n_samples_seen: Images that training has seen before this step, over all ranks; 0 at the start.
    """
    if n_samples_seen < 0:
        raise InputError(f"n_samples_seen must be 0 or more; got {n_samples_seen}")
    return min(math.log(FIRST_HARD + HARD_PER_SAMPLE * n_samples_seen), INFERENCE_HARDNESS)
