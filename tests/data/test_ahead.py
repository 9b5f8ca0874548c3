from __future__ import annotations

import threading

import pytest
import torch

from bokehdiff.data import (
    MixedDataset,
    OnTheFlyDataset,
    TrainSample,
    ahead,
    collate,
    preset,
    training_batches,
    training_loader,
)
from bokehdiff.data.ahead import CudaSideStream, render_parts, rendered_ahead
from bokehdiff.errors import InputError, MissingDependencyError

CPU = torch.device("cpu")
TINY = preset("bokehdiff", resolution_px=16)


class RecordingStream:
    """Does work at once, and writes down what was asked of it and in which order."""

    def __init__(self):
        self.log = []
        self.marks = 0

    def run(self, work):
        batch = work()
        self.log.append(("rendered", batch.n))
        return batch

    def mark(self):
        self.marks += 1
        return self.marks

    def hand_over(self, mark, tensors):
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)
        self.log.append(("handed over", mark))


def flat(n):
    level = torch.full((2, 2), float(n))
    return TrainSample(level.expand(3, 2, 2), level.expand(3, 2, 2), level, level, 0.5, 1.0, n)


@pytest.fixture
def dataset(training_root):
    return OnTheFlyDataset(training_root, seed=4, composition=TINY)


def test_batches_come_in_order_each_handed_over_after_it_was_rendered():
    stream = RecordingStream()
    batches = rendered_ahead(([flat(2 * i), flat(2 * i + 1)] for i in range(5)), collate, stream)
    assert [batch.n for batch in batches] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    rendered = [entry[1] for entry in stream.log if entry[0] == "rendered"]
    assert rendered == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert [entry[1] for entry in stream.log if entry[0] == "handed over"] == [1, 2, 3, 4, 5]
    for i in range(5):
        assert stream.log.index(("rendered", (2 * i, 2 * i + 1))) < stream.log.index(("handed over", i + 1))


def test_one_batch_is_rendered_while_another_is_used_and_no_more():
    """The first batch is in use; the second gets rendered meanwhile, the third is not even asked for."""
    second_done, asked = threading.Event(), []

    def parts():
        for i in range(4):
            asked.append(i)
            yield [flat(i)]

    def render(batch_parts):
        batch = collate(batch_parts)
        if batch.n == (1,):
            second_done.set()
        return batch

    batches = rendered_ahead(parts(), render, RecordingStream())
    first = next(batches)
    assert first.n == (0,)
    assert second_done.wait(10), "the second batch is not rendered while the first is used"
    assert asked == [0, 1]
    assert next(batches).n == (1,)
    assert asked == [0, 1, 2]
    assert [batch.n for batch in batches] == [(2,), (3,)]


def test_rendering_happens_in_a_thread_without_gradients():
    seen = []

    def render(batch_parts):
        seen.append((threading.current_thread() is threading.main_thread(), torch.is_grad_enabled()))
        return collate(batch_parts)

    list(rendered_ahead([[flat(0)]], render, RecordingStream()))
    assert seen == [(False, False)]


def test_an_error_comes_where_its_batch_would_have():
    def render(batch_parts):
        if batch_parts[0].n == 1:
            raise InputError("sample 1 is odd")
        return collate(batch_parts)

    batches = rendered_ahead(([flat(i)] for i in range(3)), render, RecordingStream())
    assert next(batches).n == (0,)
    with pytest.raises(InputError, match="sample 1 is odd"):
        next(batches)


def test_a_consumer_may_stop_at_any_time():
    batches = rendered_ahead(([flat(i)] for i in range(100)), collate, RecordingStream())
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compositor")]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_the_devices_path_gives_the_samples_of_the_workers_path(dataset, monkeypatch, n_workers):
    """The same numbers in the same order, and on the same device the same bytes."""
    monkeypatch.setattr(ahead, "_renders_on_device", lambda dataset, device, compose_on: compose_on == "gpu")
    monkeypatch.setattr(ahead, "CudaSideStream", lambda device: RecordingStream())
    arguments = {"device": CPU, "batch_size": 2, "first_sample": 3, "n_samples": 5, "n_workers": n_workers}
    one, other = (list(training_batches(dataset, compose_on=where, **arguments)) for where in ("gpu", "cpu"))
    assert [batch.n for batch in one] == [batch.n for batch in other] == [(3, 4), (5, 6), (7,)]
    for a, b in zip(one, other, strict=True):
        for (name, x), (_, y) in zip(a.tensors(), b.tensors(), strict=True):
            assert torch.equal(x, y), name


def test_batches_are_those_of_the_loader(dataset):
    arguments = {"batch_size": 2, "n_samples": 4, "rank": 1, "world_size": 2}
    got = list(training_batches(dataset, device=CPU, **arguments))
    expected = list(training_loader(dataset, **arguments))
    assert [batch.n for batch in got] == [batch.n for batch in expected] == [(2, 3)]
    assert torch.equal(got[0].target_srgb, expected[0].target_srgb)


def test_a_mixture_hands_over_what_is_whole_and_what_is_not(dataset):
    class Whole:
        def __len__(self):
            return 100

        def __getitem__(self, n):
            level = torch.full((16, 16), 0.5)
            return TrainSample(level.expand(3, 16, 16), level.expand(3, 16, 16), None, None, None, None, n)

    mixed = MixedDataset([dataset, Whole()], [1.0, 1.0], seed=0)
    batch = render_parts([mixed.uncomposed(n) for n in range(6)], "cpu")
    assert {mixed.which(n) for n in range(6)} == {0, 1}
    assert torch.equal(batch.target_srgb, collate([mixed[n] for n in range(6)]).target_srgb)
    assert batch.known_coc_px is None


def test_the_device_is_chosen_where_it_can_render(dataset, monkeypatch, caplog):
    chosen = ahead._renders_on_device
    cuda = torch.device("cuda:0")
    monkeypatch.setattr(ahead, "find_spec", lambda name: object())
    assert chosen(dataset, cuda, "auto")
    assert chosen(MixedDataset([dataset], [1.0], seed=0), cuda, "gpu")
    assert not chosen(dataset, cuda, "cpu")
    assert not chosen(dataset, CPU, "auto")
    with pytest.raises(InputError, match="'gpu' composes samples .* on a CUDA device; got OnTheFlyDataset, cpu"):
        chosen(dataset, CPU, "gpu")
    monkeypatch.setattr(ahead, "find_spec", lambda name: None)
    assert not chosen(dataset, cuda, "auto")
    with pytest.raises(MissingDependencyError, match=r"CuPy is needed .*: pip install bokehdiff\[gpu\]"):
        chosen(dataset, cuda, "gpu")


@pytest.mark.gpu
def test_on_a_gpu_pictures_are_those_of_the_cpu(training_root):
    cuda = torch.device("cuda")
    for name in ("published", "bokehdiff"):
        dataset = OnTheFlyDataset(training_root, seed=4, composition=preset(name, resolution_px=96))
        arguments = {"batch_size": 2, "n_samples": 8, "n_workers": 2}
        on_gpu = list(training_batches(dataset, device=cuda, compose_on="gpu", **arguments))
        on_cpu = list(training_batches(dataset, device=cuda, compose_on="cpu", **arguments))
        for a, b in zip(on_gpu, on_cpu, strict=True):
            assert a.n == b.n
            for (field, x), (_, y) in zip(a.tensors(), b.tensors(), strict=True):
                torch.testing.assert_close(x, y, atol=5e-3, rtol=1e-3, msg=field)


@pytest.mark.gpu
def test_a_cuda_stream_hands_over_finished_tensors():
    stream = CudaSideStream(torch.device("cuda"))
    for i in range(20):
        made = stream.run(lambda i=i: torch.full((1000, 1000), float(i), device="cuda").cumsum(0))
        stream.hand_over(stream.mark(), [made])
        assert float(made[-1, 0]) == 1000 * i


def test_an_unknown_place_is_refused(dataset):
    import inspect

    with pytest.raises(InputError, match="compose_on must be one of auto, cpu, gpu; got 'tpu'"):
        inspect.unwrap(ahead._renders_on_device)(dataset, CPU, "tpu")
