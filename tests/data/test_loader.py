from __future__ import annotations

import itertools

import pytest
import torch

from bokehdiff.data import Composition, OnTheFlyDataset, TrainSample, collate, training_loader
from bokehdiff.errors import InputError

TINY = Composition(resolution_px=24)


class Counting:
    """Samples that hold nothing but their number."""

    def __init__(self, length=10**12):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, n):
        flat = torch.full((2, 2), float(n))
        return TrainSample(flat.expand(3, 2, 2), flat.expand(3, 2, 2), flat, flat, 0.5, 1.0, n)


def numbers(loader):
    return [batch.n for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on machines of fewer cores
@pytest.mark.parametrize("n_workers", [1, 4])
def test_workers_change_nothing(training_root, n_workers):
    dataset = OnTheFlyDataset(training_root, seed=4, composition=TINY)
    expected = list(training_loader(dataset, batch_size=2, n_samples=6))
    got = list(training_loader(dataset, batch_size=2, n_samples=6, n_workers=n_workers))
    assert [batch.n for batch in got] == [(0, 1), (2, 3), (4, 5)]
    for one, other in zip(expected, got, strict=True):
        for name in ("image_srgb", "target_srgb", "disparity", "coc_px", "focus_disparity", "strength_px"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_restart_goes_on_where_it_stopped(training_root):
    dataset = OnTheFlyDataset(training_root, seed=4, composition=TINY)
    whole = list(training_loader(dataset, batch_size=2, n_samples=6))
    rest = list(training_loader(dataset, batch_size=2, first_sample=4, n_samples=2))
    assert torch.equal(whole[2].target_srgb, rest[0].target_srgb)
    assert whole[2].n == rest[0].n == (4, 5)


@pytest.mark.parametrize(("batch_size", "world_size"), list(itertools.product((1, 3), (1, 2, 5))))
def test_ranks_share_the_samples_out(batch_size, world_size):
    n_samples = batch_size * world_size * 3
    parts = [
        numbers(
            training_loader(
                Counting(),
                batch_size=batch_size,
                first_sample=100,
                n_samples=n_samples,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]
    assert all(len(part) == 3 for part in parts)
    in_step = [n for batches in zip(*parts, strict=True) for batch in batches for n in batch]
    assert in_step == list(range(100, 100 + n_samples))


def test_nothing_is_dropped_by_one_process():
    assert numbers(training_loader(Counting(), batch_size=3, n_samples=7)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert numbers(training_loader(Counting(), batch_size=2, first_sample=10**11, n_samples=2)) == [
        (10**11, 10**11 + 1)
    ]


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    numbers(training_loader(Counting(), batch_size=1, n_samples=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"n_samples": 0}, "n_samples must be at least 1; got 0"),
        ({"first_sample": -1}, "first_sample must be 0 or more; got -1"),
        ({"rank": 2, "world_size": 2}, "rank must be in 0 ... 1; got 2"),
        ({"n_samples": 3, "batch_size": 1, "world_size": 2}, "multiple of batch_size \\* world_size = 2.* got 3"),
        ({"n_samples": 9}, "samples up to 9 are asked for; the dataset has 8"),
    ],
)
def test_loaders_that_cannot_be_are_refused(changes, message):
    arguments = {"batch_size": 2, "n_samples": 4} | changes
    with pytest.raises(InputError, match=message):
        training_loader(Counting(8), **arguments)


def test_collate_stacks_in_order_and_refuses_mixed_sizes():
    batch = collate([Counting()[4], Counting()[2]])
    assert batch.n == (4, 2)
    assert len(batch) == 2
    assert batch.image_srgb.shape == (2, 3, 2, 2)
    assert batch.disparity[:, 0, 0].tolist() == [4.0, 2.0]
    moved = batch.to("meta")
    assert moved.coc_px.device.type == "meta"
    assert moved.n == (4, 2)
    larger = TrainSample(torch.zeros(3, 3, 3), torch.zeros(3, 3, 3), torch.zeros(3, 3), torch.zeros(3, 3), 0.5, 1.0, 0)
    with pytest.raises(InputError, match=r"samples of one size; got 2 samples of sizes \[\(2, 2\), \(3, 3\)\]"):
        collate([Counting()[0], larger])
    with pytest.raises(InputError, match="got 0 samples"):
        collate([])
