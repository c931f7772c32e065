"""Work in blocks, side by side: the same answers in the same order, and nothing of it stays behind."""

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch

from model import capture, threads
from model.threads import side_by_side, this_thread_only
from tests.browser_tools import ROOT
from tests.models import small_model, some_tokens


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 3)


def test_answers_come_in_order_from_several_threads_at_once(three_threads):
    together = threading.Barrier(3, timeout=60)  # passed only by three at once

    def work(block):
        together.wait()
        return block * block, threading.current_thread().name

    answers, names = zip(*side_by_side(work, range(9)), strict=True)
    assert answers == tuple(block * block for block in range(9))
    assert len(set(names)) == 3
    assert threading.current_thread().name not in names


def test_a_block_that_fails_says_so_and_the_next_work_goes_on(three_threads):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda block: 1 / block, [2, 1, 0, 3])
    assert side_by_side(lambda block: 1 / block, [2, 1]) == [0.5, 1.0]


def test_work_that_comes_here_from_a_block_stays_on_its_thread(three_threads):
    def inner(block):
        return threading.current_thread().name

    for names in side_by_side(lambda block: side_by_side(inner, range(4)), range(6)):
        assert len(set(names)) == 1


def test_modes_of_the_caller_hold_in_every_block(three_threads):
    def modes(block):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    assert side_by_side(modes, range(5)) == [(True, False)] * 5
    with torch.no_grad():
        assert side_by_side(modes, range(5)) == [(False, False)] * 5
    with torch.inference_mode():
        assert side_by_side(modes, range(5)) == [(False, True)] * 5


def test_a_thread_has_its_number_of_threads_back_afterwards():
    seen = {}

    def several():
        torch.set_num_threads(2)
        try:
            with this_thread_only():
                seen["within"] = torch.get_num_threads()
            seen["after"] = torch.get_num_threads()
        finally:
            torch.set_num_threads(1)

    thread = threading.Thread(target=several)
    thread.start()
    thread.join()
    assert seen == {"within": 1, "after": 2}


ALONE = """
import torch
from model.threads import _mkl, side_by_side, this_thread_only

if {explicit}:
    torch.set_num_threads(2)

def threads():
    return torch.get_num_threads(), _mkl()(1) if _mkl() else 1  # MKL's switch says what it was

assert set(side_by_side(lambda block: threads(), range(20))) == {{(1, 1)}}
with this_thread_only():
    assert threads() == (1, 1)
assert torch.get_num_threads() == 2
assert not _mkl() or _mkl()(0) == (2 if {explicit} else 0)
"""


@pytest.mark.parametrize("explicit", [True, False])
def test_within_a_block_everything_runs_on_one_thread(explicit):
    """In a process of its own, whose number of threads nothing has replaced."""
    script, environment = ALONE.format(explicit=explicit), os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_at_most_a_few_blocks_of_a_caller_are_under_way(three_threads):
    begun, go_on = [], threading.Event()

    def work(block):
        begun.append(block)
        go_on.wait(60)

    caller = threading.Thread(target=side_by_side, args=(work, range(50)))
    caller.start()
    while len(begun) < 3:
        pass
    # another caller's blocks come next, not after the other 47
    others = threading.Thread(target=side_by_side, args=(lambda block: begun.append("other"), range(2)))
    others.start()
    go_on.set()
    others.join(60)
    caller.join(60)
    assert begun.index("other") <= 12


def test_after_a_failure_no_block_is_at_work(three_threads):
    ended, begun = [], threading.Event()

    def work(block):
        if block == 0:
            begun.wait(60)
            raise ZeroDivisionError
        begun.set()
        ended.append(block)

    with pytest.raises(ZeroDivisionError):
        side_by_side(work, range(50))
    count = len(ended)
    assert count < 10
    side_by_side(abs, range(20))  # every worker has had another turn
    assert len(ended) == count


def test_maps_are_the_same_bits_on_any_number_of_threads(monkeypatch):
    run = capture(small_model("groups"), some_tokens(20))
    monkeypatch.setattr(sys.modules["model.capture"], "BLOCK_CELLS", 4 * 20 * 3)  # three queries a block
    alone = run.maps(1)
    for number in (2, 5):
        monkeypatch.setattr(threads.torch, "get_num_threads", lambda number=number: number)
        for name, values in run.maps(1).items():
            assert torch.equal(values, alone[name])


def test_a_fork_has_threads_of_its_own(three_threads):
    assert side_by_side(abs, [-1, -2]) == [1, 2]  # the pool stands before the process divides
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(side_by_side(abs, [-3, -4])))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get() == [3, 4]
