"""The URL of a page that ends early: it says the state, and what was said wrongly does not come back."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from tests.browser_tools import ROOT

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"


def opened(page: str, **parameters: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / f"workbench/pages/{page}.py"), default_timeout=120)
    for name, value in parameters.items():
        app.query_params[name] = value
    return app.run()


def test_a_link_without_a_prompt_can_be_typed_into():
    page = opened("explore", prompt="")
    assert "Type a prompt on the left" in page.info[0].value
    page.text_area(key="prompt").set_value(PROMPT).run()
    assert page.text_area(key="prompt").value == PROMPT
    assert page.query_params["prompt"] == PROMPT
    assert not page.exception


def test_a_page_that_ends_early_says_its_state():
    page = opened("intervene", prompt=PROMPT)
    page.selectbox(key="model").select("demo/transformer").run()
    assert "mixes no heads" in page.info[0].value
    assert page.query_params["model"] == "demo/transformer"
    page.selectbox(key="model").select("demo/dcformer").run()
    assert "model" not in page.query_params
    assert page.text_area(key="prompt").value == PROMPT


def test_a_refused_prompt_can_be_replaced():
    page = opened("heads", prompt="word " * 2000)
    assert "the context of this model is 1024" in page.error[0].value
    page.text_area(key="prompt").set_value(PROMPT).run()
    assert page.text_area(key="prompt").value == PROMPT
    assert not page.error
