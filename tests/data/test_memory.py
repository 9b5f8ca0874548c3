"""Composing for days takes no more memory than composing for minutes; and procedural files never repeat."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from bokehdiff.data import (
    OnTheFlyDataset,
    preset,
    synthetic_background,
    synthetic_foreground,
    training_loader,
    write_training_set,
)
from bokehdiff.data.randomness import generator_for

MIB = 2**20
PURPOSES = ("foreground", "background")
SMAPS = Path("/proc/self/smaps_rollup")

needs_proc = pytest.mark.skipif(not SMAPS.exists(), reason="memory is read from Linux' /proc")


def memory_bytes(process_id: int | str = "self") -> int:
    """What a process takes of the machine's memory; what several share counts once, in parts (PSS).

    Without files it maps: libraries are shared with whatever other programs happen to run.
    """
    lines = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@needs_proc
@pytest.mark.parametrize("name", ["published", "bokehdiff"])
def test_a_sample_leaves_nothing_behind(training_root, name):
    """Forty samples that nobody keeps; kept, they alone would take 20 MiB."""
    quick = replace(preset(name, resolution_px=128, strength_range_px=(3.0, 12.0)), n_samples=4)
    dataset = OnTheFlyDataset(training_root, seed=1, composition=quick, cache_bytes=MIB)
    for n in range(12):
        dataset[n]
    before, tensors = memory_bytes(), live_tensors()
    for n in range(12, 52):
        dataset[n]
    assert live_tensors() == tensors
    assert memory_bytes() - before < 10 * MIB


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("name", ["published", "bokehdiff"])
def test_memory_is_flat_over_ten_thousand_samples(tmp_path, name):
    """Two workers and this process together take as much at the end as after 3 000 samples: to 5 % of it.

    What one moment shows differs by as much, so means of four are compared: 4 KiB kept per sample would show. The cache
    holds less than half of what the files would take, so that it is full and turns over all the time.
    """
    write_training_set(tmp_path, n_foregrounds=48, n_backgrounds=24, size_px=256, seed=1)
    composition = preset(name, resolution_px=48)
    dataset = OnTheFlyDataset(tmp_path, seed=1, composition=composition, cache_bytes=8 * MIB)
    loader = training_loader(dataset, batch_size=4, n_samples=10_000, n_workers=2)
    taken = {}
    for i, _ in enumerate(loader, start=1):
        if i % 250 == 0:
            workers = [child.pid for child in multiprocessing.active_children()]
            taken[4 * i] = memory_bytes() + sum(memory_bytes(worker) for worker in workers)
    print(f"{name}:", ", ".join(f"{n} {n_bytes / MIB:.1f} MiB" for n, n_bytes in taken.items()))
    assert len(taken) == 10
    early, late = (fmean(taken[n] for n in range(first, first + 4000, 1000)) for first in (2000, 7000))
    assert late < 1.05 * early


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_procedural_files_never_repeat():
    """What each is drawn from differs for thousands of numbers and between purposes; and so do tiny drawings of it."""
    dice = [generator_for(5, n, purpose=purpose).bytes(16) for purpose in PURPOSES for n in range(2000)]
    assert len(set(dice)) == len(dice)
    for draw in (synthetic_foreground, synthetic_background):
        images = [draw(5, n, size_px=16) for n in range(20)]
        seen = {digest((image * 255).round().byte().numpy().tobytes()) for image in images}
        assert len(seen) == len(images)
