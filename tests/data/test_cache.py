from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch

from bokehdiff.data.cache import SharedCache


def image(key, height=4):
    return torch.full((2, height, 3), float(key), dtype=torch.float16)


def makes(made, key, **size):
    def make():
        made.append(key)
        return image(key, **size)

    return make


def test_what_fits_is_made_once():
    cache, made = SharedCache(4 * 48, n_keys=10), []
    for key in (0, 1, 2, 3, 0, 1, 2, 3):
        assert torch.equal(cache.get(key, makes(made, key)), image(key))
    assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("n_bytes", [0, 40, 48, 100, 150, 1000])
def test_any_size_gives_the_same_images(n_bytes):
    cache, made = SharedCache(n_bytes, n_keys=9), []
    order = torch.randint(9, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    for key in order:
        size = {"height": 1 + key % 5}
        assert torch.equal(cache.get(key, makes(made, key, **size)), image(key, **size))
    assert len(made) == 200 if n_bytes == 0 else len(made) <= 200


def test_the_oldest_makes_room():
    cache, made = SharedCache(2 * 48, n_keys=3), []
    for key in (0, 1, 2, 1, 0):
        cache.get(key, makes(made, key))
    assert made == [0, 1, 2, 0]


def test_a_stored_image_is_not_changed_by_its_user():
    cache, made = SharedCache(480, n_keys=1), []
    cache.get(0, makes(made, 0))
    cache.get(0, makes(made, 0)).fill_(7.0)
    assert torch.equal(cache.get(0, makes(made, 0)), image(0))


def fetch(cache, key, queue):
    made = []
    cache.get(key, makes(made, key))
    queue.put(made)


def fetched(cache, key, method):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    worker = context.Process(target=fetch, args=(cache, key, queue))
    worker.start()
    made = queue.get()
    worker.join()
    return made


def test_forked_processes_share_it_others_have_their_own():
    cache = SharedCache(480, n_keys=4)
    assert fetched(cache, 1, "fork") == [1]
    assert fetched(cache, 1, "fork") == []
    made = []
    cache.get(1, makes(made, 1))
    assert made == []
    copy = pickle.loads(pickle.dumps(cache))
    copy.get(1, makes(made, 1))
    assert made == [1]
    assert copy.capacity == cache.capacity


def test_a_lock_that_nobody_gives_back_stops_nobody(monkeypatch):
    monkeypatch.setattr("bokehdiff.data.cache.WAIT_S", 0.01)
    cache, made = SharedCache(480, n_keys=4), []
    cache._lock.acquire()
    for _ in range(2):
        assert torch.equal(cache.get(1, makes(made, 1)), image(1))
    assert made == [1, 1]
