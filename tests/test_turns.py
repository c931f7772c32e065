"""A model serves its callers in the order in which they came, and tells them their place."""

from __future__ import annotations

import threading

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.browser_tools import ROOT
from workbench.pages import shared
from workbench.turns import Turn, telling
from workbench.views import Selection

PATIENCE = 20


def in_line(turn: Turn, count: int) -> None:
    """Wait until so many hold or want the turn."""
    done = threading.Event()
    for _ in range(PATIENCE * 100):
        if len(turn) >= count:
            return
        done.wait(0.01)
    raise AssertionError(f"{len(turn)} in line, not {count}")


def test_callers_are_served_in_the_order_they_came():
    turn, served, threads = Turn(), [], []

    def take(number: int) -> None:
        with turn:
            served.append(number)

    with turn:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            in_line(turn, number + 2)
    for thread in threads:
        thread.join(PATIENCE)
    assert served == [0, 1, 2, 3, 4]
    assert len(turn) == 0


def test_who_waits_is_told_the_place_and_then_that_it_is_their_turn():
    turn, told, first = Turn(), [], threading.Event()

    def take() -> None:
        with telling(lambda before: (told.append(before), first.set())), turn:
            pass

    with turn:
        waiting = threading.Thread(target=take)
        waiting.start()
        assert first.wait(PATIENCE)
    waiting.join(PATIENCE)
    assert told[0] == 1
    assert told[-1] == 0


def test_nobody_is_told_anything_where_nobody_waits():
    told: list[int] = []
    with telling(told.append), Turn():
        pass
    assert told == []


def test_who_gives_up_leaves_the_line_and_the_next_is_served():
    turn, served, raised = Turn(), [], []

    def leave(before: int) -> None:
        raise KeyError("the page is gone")

    def impatient() -> None:
        try:
            with telling(leave), turn:
                served.append("impatient")
        except KeyError as error:
            raised.append(error)

    def patient() -> None:
        with turn:
            served.append("patient")

    with turn:
        threads = [threading.Thread(target=impatient), threading.Thread(target=patient)]
        for thread in threads:
            thread.start()
        threads[0].join(PATIENCE)
        in_line(turn, 2)
    threads[1].join(PATIENCE)
    assert served == ["patient"]
    assert len(raised) == 1


def test_an_error_inside_frees_the_turn():
    turn = Turn()
    with pytest.raises(ZeroDivisionError), turn:
        raise ZeroDivisionError
    with turn:
        assert len(turn) == 1


def test_a_line_has_an_end_and_who_is_turned_away_leaves_it_as_it_was(monkeypatch):
    monkeypatch.setattr("workbench.turns.MOST_WAITING", 3)
    turn, served = Turn(), []

    def take() -> None:
        with turn:
            served.append(1)

    threads = [threading.Thread(target=take) for _ in range(3)]
    with turn:
        for number, thread in enumerate(threads):
            thread.start()
            in_line(turn, number + 2)
        for _ in range(5):
            with pytest.raises(ValueError, match="3 requests wait for this model already"), turn:
                served.append("never")
        assert len(turn) == 4
    for thread in threads:
        thread.join(PATIENCE)
    assert served == [1, 1, 1]
    with turn:  # and it takes in again
        assert len(turn) == 1


# -- on the pages ------------------------------------------------------------------------------------


@pytest.fixture
def bench():
    """A workbench that holds no answers yet, the same that the pages get."""
    st.cache_resource.clear()
    yield shared.workbench()
    st.cache_resource.clear()


def opened(page: str, **said: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / f"workbench/pages/{page}.py"), default_timeout=120)
    for name, value in said.items():
        app.query_params[name] = value
    return app.run()


PAGES = [
    ("explore", "maps"),
    ("intervene", "maps"),
    ("compare", "maps"),
    ("virtual_heads", "heads"),
    ("heads", "heads"),
]


@pytest.mark.parametrize(("page", "work"), PAGES)
def test_a_page_says_that_the_line_is_full_and_works_once_it_is_not(bench, monkeypatch, page, work):
    monkeypatch.setattr("workbench.turns.MOST_WAITING", 0)
    with bench._turn((work, "demo/dcformer")):
        app = opened(page, at="2.5.9.3") if page == "explore" else opened(page)
        assert not app.exception
        assert [one.value for one in app.error] == [
            "0 requests wait for this model already\\. Try again in a minute\\."
        ]
    app.run()
    assert not app.exception
    assert not app.error
    if page == "explore":  # and what the link said is not forgotten
        assert app.session_state.selection == Selection(2, 5, 9, 3)


@pytest.mark.parametrize(("page", "work"), PAGES)
def test_a_page_that_waits_says_how_many_come_first(bench, monkeypatch, page, work):
    told, held, first = [], threading.Event(), threading.Event()

    def hold() -> None:
        with bench._turn((work, "demo/dcformer")):
            held.set()
            first.wait(PATIENCE * 6)

    def show(line: object, before: int) -> None:
        told.append(before)
        first.set()

    monkeypatch.setattr(shared._Line, "show", show)
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    app = opened(page)
    first.set()
    thread.join(PATIENCE)
    assert not app.exception
    assert told[0] == 1
    assert told[-1] == 0
