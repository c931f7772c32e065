"""Work in blocks, side by side: the same answers in the same order, and nothing of it stays behind."""

import multiprocessing
import sys
import threading

import pytest
import torch

from model import capture, threads
from model.threads import side_by_side, this_thread_only
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
