"""A slow browser: what a person does while an old address is still on its way is not undone by it."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.browser_tools import ROOT
from workbench.pages import address

FIRST, SECOND, THIRD = (f"Mary has {thing}." for thing in ("an apple", "a violin", "a bus"))


@pytest.fixture
def clock(monkeypatch):
    """Moves the time of the address on: clock(seconds)."""
    at = [1000.0]
    monkeypatch.setattr(address.time, "monotonic", lambda: at[0])
    return lambda seconds: at.__setitem__(0, at[0] + seconds)


def typed(page: AppTest, prompt: str) -> AppTest:
    return page.text_area(key="prompt").set_value(prompt).run()


def opened() -> AppTest:
    return AppTest.from_file(str(ROOT / "workbench/pages/explore.py"), default_timeout=240).run()


@pytest.mark.parametrize("late_s", [0.5, 30, 600])
def test_a_prompt_typed_before_the_browser_heard_of_the_new_address_stays(clock, late_s):
    page = typed(opened(), FIRST)
    old = dict(page.query_params)
    typed(page, SECOND)
    assert page.query_params["prompt"] == SECOND
    clock(late_s)
    page.query_params.clear()
    page.query_params.update(old)  # the browser's message was on its way with it
    typed(page, THIRD)
    assert page.text_area(key="prompt").value == THIRD
    assert page.query_params["prompt"] == THIRD


@pytest.mark.parametrize("late_s", [0.5, 30, 600])
def test_an_address_that_was_replaced_before_the_browser_told_of_it_undoes_nothing(clock, late_s):
    """Two answers are on their way: the browser tells of the first when the second has been written."""
    page = opened()
    old = dict(page.query_params)
    first = dict(typed(page, FIRST).query_params)
    for seen, prompt in ((old, SECOND), (first, THIRD)):
        clock(late_s)
        page.query_params.clear()
        page.query_params.update(seen)
        typed(page, prompt)
        assert page.text_area(key="prompt").value == prompt
        assert page.query_params["prompt"] == prompt


def test_the_back_button_goes_back(clock):
    page = typed(opened(), FIRST)
    old = dict(page.query_params)
    typed(page, SECOND)
    clock(10)
    page.query_params.clear()
    page.query_params.update(old)
    page.run()  # nothing was touched: the address alone changed
    assert page.text_area(key="prompt").value == FIRST
    assert page.query_params["prompt"] == FIRST
