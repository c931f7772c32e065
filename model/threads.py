"""Work in blocks, side by side: each block on one thread.

The operations of a block are many and small. Spread over threads, each of them waits until the last thread has woken,
and where more threads wait than there are cores that is most of the time; blocks need no one but themselves.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
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
    """What some work gives for each block, in order, on up to MOST_THREADS of torch's threads.

    Within a block every operation runs on one thread, and so does work that itself comes here: the number of threads
    changes no answer. Callers at the same time take turns, a few blocks each.

    Raises:
        Exception: what the work raises for the first block that fails; then no block is at work any more.
    """
    blocks, threads = list(blocks), min(torch.get_num_threads(), MOST_THREADS)
    if threads == 1 or len(blocks) < 2 or getattr(_here, "worker", False):
        with this_thread_only():
            return [work(block) for block in blocks]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def as_here(block: Block) -> Answer:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return work(block)

    pool, answers = _pool(threads, os.getpid()), []
    at_work: deque[Future[Answer]] = deque()
    try:
        for block in blocks:
            if len(at_work) == threads:
                answers.append(at_work.popleft().result())
            at_work.append(pool.submit(as_here, block))
        while at_work:
            answers.append(at_work.popleft().result())
    finally:
        for future in at_work:
            future.cancel()
        wait(at_work)
    return answers


@contextmanager
def this_thread_only() -> Iterator[None]:
    """What this thread computes runs on it alone; other threads keep theirs."""
    torch.get_num_threads()  # a thread that asks for the first time would set its number anew
    before = _set_mkl(1)
    try:
        with _openmp().limit(limits=1, user_api="openmp"):
            yield
    finally:
        _set_mkl(before)


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept for the life of a process: to a fork, its parent's threads are gone."""
    return ThreadPoolExecutor(threads, "block", _start_worker)


def _start_worker() -> None:
    _here.worker = True
    torch.get_num_threads()
    _openmp().limit(limits=1, user_api="openmp")  # not as a context manager: for good
    _set_mkl(1)


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController()


def _set_mkl(threads: int) -> int:
    """Threads of MKL in this thread, 0 = as many as everywhere; returns what it was. Nothing where there is no MKL.

    MKL within torch obeys OpenMP's number only until somebody calls torch.set_num_threads.
    """
    switch = _mkl()
    return 0 if switch is None else switch(threads)


@cache
def _mkl() -> Callable[[int], int] | None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.CDLL(str(library)).MKL_Set_Num_Threads_Local  # type: ignore[no-any-return]
    except (OSError, AttributeError):  # another system, or a build of torch without MKL
        return None
