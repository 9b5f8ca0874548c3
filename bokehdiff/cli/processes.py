"""Work shared out to processes: what one of them does, or its death, stops none of the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

DIED = "the process that worked on it was killed, most likely for want of memory"

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    items: Sequence[Item], work: Callable[[Item], Result], *, jobs: int
) -> Iterator[tuple[Item, Result | None]]:
    """Each item with what `work` makes of it, in the order they are done; None where its process was killed.

    What a killed process takes down with it is worked on once more, each item alone. An error of `work` is raised here.
    On the way out, also by Ctrl-C, processes are asked to end, so that they can clean up behind them.

    Args:
        items: Picklable.
        work: A function that other processes can import, or a picklable object to call.
        jobs: Number of processes; the cores are shared out among them.
    """
    waiting = deque(items)
    while waiting:
        victims: list[Item] = []
        yield from _until_one_dies(waiting, work, jobs, victims)
        for item in victims:
            again: list[Item] = []
            yield from _until_one_dies(deque([item]), work, 1, again)
            yield from ((item, None) for item in again)


def _until_one_dies(
    waiting: deque[Item], work: Callable[[Item], Result], jobs: int, victims: list[Item]
) -> Iterator[tuple[Item, Result]]:
    """Work on what is waiting until all is done, or a process dies: what was being worked on then are the victims."""
    running: dict[Future[Result], Item] = {}
    with _pool(jobs) as pool:
        while (waiting or running) and not victims:
            while waiting and len(running) < jobs:
                with _deaf_to_interrupts():
                    future = pool.submit(work, waiting[0])
                running[future] = waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item = running.pop(future)
                try:
                    yield item, future.result()
                except BrokenProcessPool:
                    victims.append(item)
    victims += running.values()


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end when the block does, at once if it fails."""
    older = set(multiprocessing.active_children())
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # A forked process would inherit torch's threads in a state of which nobody knows.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - older:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that begin here do not hear Ctrl-C, which a terminal sends to all of them: this one tells them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _begin(threads: int) -> None:
    """In a new process: its share of the cores, and a way to end that runs what cleans up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _end(signal_number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; a second would cut the cleaning short
    raise SystemExit(128 + signal_number)
