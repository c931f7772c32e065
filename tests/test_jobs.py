"""Work in a thread: watched, cancelled, waiting for its turn, and ended when nobody holds it."""

import gc
import threading
import weakref
from contextlib import suppress

import pytest

from workbench.jobs import Cancelled, Job


def counting(started: threading.Event, go_on: threading.Event, pieces: int = 100_000):
    def work(watch):
        for done in range(pieces):
            watch(done, pieces)
            started.set()
            go_on.wait(10)
        return "all of it"

    return work


def open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def test_a_job_gives_what_its_work_gives():
    job = Job(counting(threading.Event(), open_gate(), pieces=3))
    job.wait(10)
    assert not job.running
    assert job.value() == "all of it"
    assert job.progress == (2, 3)


def test_a_cancelled_job_ends_between_pieces():
    started, gate = threading.Event(), threading.Event()
    job = Job(counting(started, gate))
    started.wait(10)
    job.cancel()
    assert job.cancelling
    with pytest.raises(RuntimeError, match="has not ended"):
        job.value()
    gate.set()
    job.wait(10)
    assert job.cancelled
    with pytest.raises(Cancelled):
        job.value()


def test_an_error_belongs_to_whoever_asks_for_the_value():
    def work(watch):
        raise ValueError("no such layer")

    job = Job(work)
    job.wait(10)
    assert not job.cancelled
    with pytest.raises(ValueError, match="no such layer"):
        job.value()


class Weights:
    """Something large that stands in a frame."""


@pytest.mark.parametrize("how", ["alone", "as a cause", "as a context", "in a circle"])
def test_a_job_that_failed_keeps_nothing_of_its_work_but_the_error(how):
    held = []

    def inner():
        large = Weights()
        held.append(weakref.ref(large))
        raise ValueError("no room")

    def work(watch):
        if how == "alone":
            inner()
        try:
            inner()
        except ValueError as error:
            if how == "as a context":
                raise TypeError("no such layer")  # noqa: B904
            outer = TypeError("no such layer")
            if how == "in a circle":
                error.__context__ = outer
            raise outer from error

    job = Job(work)
    job.wait(10)
    gc.collect()
    assert [ref() for ref in held] == [None]
    with pytest.raises((ValueError, TypeError)) as raised:
        job.value()
    assert "in inner" in raised.value.__notes__[0]  # where it came up is told all the same


def test_who_asks_for_the_value_of_a_failed_job_again_finds_nothing_of_who_asked_before():
    def work(watch):
        raise ValueError("no such layer")

    def ask() -> weakref.ref[Weights]:
        large = Weights()
        with suppress(ValueError):
            job.value()
        return weakref.ref(large)

    job = Job(work)
    job.wait(10)
    before = ask()
    ask()
    gc.collect()
    assert before() is None


def test_jobs_take_turns_and_can_be_cancelled_while_they_wait():
    turns, started, gate = threading.BoundedSemaphore(1), threading.Event(), threading.Event()
    first = Job(counting(started, gate, pieces=2), turns)
    started.wait(10)
    second, third = (Job(counting(threading.Event(), open_gate(), pieces=2), turns) for _ in range(2))
    assert second.waiting
    third.cancel()
    third.wait(10)
    assert third.cancelled
    gate.set()
    second.wait(10)
    assert (first.value(), second.value()) == ("all of it", "all of it")


def test_a_job_that_nobody_holds_ends():
    started, ended = threading.Event(), threading.Event()

    def work(watch):
        try:
            while True:
                watch(0, 0)
                started.set()
        finally:
            ended.set()

    job = Job(work)
    started.wait(10)
    del job
    gc.collect()
    assert ended.wait(10)


def test_workers_that_raise_give_their_turn_back():
    turns = threading.BoundedSemaphore(2)

    def fall_over(watch):
        raise MemoryError("no room")

    for _ in range(5):  # more than there are turns
        job = Job(fall_over, turns)
        job.wait(10)
        with pytest.raises(MemoryError, match="no room"):
            job.value()
    after = Job(counting(threading.Event(), open_gate(), pieces=3), turns)
    after.wait(10)
    assert after.value() == "all of it"
