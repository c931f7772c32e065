"""Work in blocks, side by side: each block on one thread.

The operations of a block are many and small. Spread over threads, each of them waits until the last thread has woken,
and where more threads wait than there are cores that is most of the time; blocks need no one but themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

MOST_THREADS = 8
"""Each holds a block and what is made from it."""

Block = TypeVar("Block")
Answer = TypeVar("Answer")

_here = local()


def side_by_side(work: Callable[[Block], Answer], blocks: Iterable[Block]) -> list[Answer]:
    """What some work gives for each block, in order, on up to MOST_THREADS of torch's threads; the same on any number.

    Within a block every operation runs on one thread, and so does work that itself comes here.

    Raises:
        Exception: what the work raises for the first block that fails.
    """
    blocks, threads = list(blocks), min(torch.get_num_threads(), MOST_THREADS)
    if threads == 1 or len(blocks) < 2 or getattr(_here, "worker", False):
        with this_thread_only():
            return [work(block) for block in blocks]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def as_here(block: Block) -> Answer:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(block)

    return list(_pool(threads, os.getpid()).map(as_here, blocks))


@contextmanager
def this_thread_only() -> Iterator[None]:
    """OpenMP's operations of this thread run on it alone; other threads keep theirs."""
    torch.get_num_threads()  # a thread that asks for the first time would set its number anew
    with _openmp().limit(limits=1, user_api="openmp"):
        yield


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept for the life of a process: to a fork, its parent's threads are gone."""
    return ThreadPoolExecutor(threads, "block", _start_worker)


def _start_worker() -> None:
    _here.worker = True
    torch.get_num_threads()
    _openmp().limit(limits=1, user_api="openmp")  # not as a context manager: for good


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()
