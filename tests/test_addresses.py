"""Every state of a page has a URL that restores it in a new session, and a wrong URL is answered, not obeyed."""

from __future__ import annotations

import base64
import zlib

import pytest
from streamlit.testing.v1 import AppTest

from probes import Intervention
from probes.interventions import to_json
from tests.browser_tools import ROOT
from workbench.links import PACKED, pack_text

CHANGE = to_json(Intervention(layers=[1, 3], sites=["post"], branches=["query_lowrank"], mode="scale", amount=0.25))
PROMPT = "< Rose has a wolf. >. Who has a wolf?"

HALF = (
    '{"model": "demo/dcformer", "features": ["residual@2"], "labels": ["casing"], "probes": ["ridge"], '
    '"families": [], "rows": 2, "text": "half \\ud83d", "per_document": 45, "dynamic_share": false}'
)
"""A small study whose text is no text."""
PACKED_HALF = PACKED + base64.urlsafe_b64encode(zlib.compress(b"half \xed\xa0\xbd")).decode().rstrip("=")

STATES = {
    "explore": {
        "model": "demo/transformer", "prompt": PROMPT, "measure": "first_token", "map": "scores", "heads": "difference",
        "look": "whole column", "at": "2.5.9.3", "window": "2-11.0-9",
    },
    "explore under a change": {"prompt": PROMPT, "under": CHANGE, "at": "1.4.8.8"},
    "heads": {
        "prompt": PROMPT, "show": "row_sum", "stage": "raw", "side": "at most", "threshold": "0.75",
        "across": "row_sum", "up": "entropy", "robust": "no", "head": "1.6",
    },
    "heads on random tokens": {"text": "repeated random tokens", "tokens-in-a-block": "21", "repeats": "3", "seed": "8",
                               "table": "diversity"},
    "virtual_heads": {"prompt": PROMPT, "query": "6", "key": "2", "layer": "1", "source-head": "4", "target-head": "7"},
    "intervene": {"prompt": PROMPT, "change": CHANGE, "position": "5", "head": "3.7", "cell": "9.4",
                  "window": "0-10.0-10"},
    "intervene, a sweep": {"section": "sweep", "grid": "head", "sweep-layers": "0,2", "sweep-sites": "post",
                           "sweep-head-mode": "scale", "sweep-head-amount": "0.25", "sweep-seed": "4",
                           "over-2": "held-out task rows", "sweep-rows": "3", "sweep-measure": "accuracy"},
    "probing, a study": {"study": "task_roles"},
    "probing, a small study": {"section": "run a small study", "small": (
        '{"model": "demo/dcformer", "features": ["residual@2"], "labels": ["task_family"], "probes": ["ridge"], '
        '"families": [], "rows": 2, "text": null, "per_document": 45, "dynamic_share": false}'
    )},
}  # fmt: skip


def opened(page: str, parameters: dict[str, str]) -> AppTest:
    app = AppTest.from_file(str(ROOT / f"workbench/pages/{page}.py"), default_timeout=120)
    for name, value in parameters.items():
        app.query_params[name] = pack_text(value) if len(value) > 300 else value
    return app.run()


def said(app: AppTest) -> dict[str, str]:
    return {name: value[0] if isinstance(value, list) else value for name, value in app.query_params.items()}


@pytest.mark.parametrize("name", list(STATES))
def test_a_link_opens_its_state_in_a_new_session_and_stays(name):
    app = opened(name.split(",")[0].split(" ")[0], STATES[name])
    assert not app.exception
    assert not app.error
    assert [one.value for one in app.warning if "link" in one.value.lower()] == []
    after = said(app)
    assert {key: after.get(key) for key in STATES[name]} == STATES[name]
    app.run()  # and another run changes nothing
    assert said(app) == after


def test_a_link_shows_what_it_says():
    app = opened("explore", STATES["explore under a change"])
    assert app.selectbox(key="under").value == CHANGE
    assert app.text_area(key="prompt").value == PROMPT
    assert any("Layer 1, head 4" in heading.value for heading in app.markdown)
    app = opened("virtual_heads", STATES["virtual_heads"])
    assert (app.selectbox(key="vh layer").value, app.selectbox(key="vh source head").value) == (1, 4)
    app = opened("intervene", STATES["intervene"])
    assert app.slider[0].value == 0.25
    app = opened("probing", STATES["probing, a small study"])
    assert app.multiselect(key="small features demo/dcformer").value == ["residual@2"]


@pytest.mark.parametrize(
    ("page", "parameters", "words"),
    [
        ("explore", {"model": "no/such"}, "model"),
        ("explore", {"at": "99.0.0.0"}, "Layer 99 does not exist"),
        ("explore", {"at": "1.2.3"}, "4 whole numbers"),
        ("explore", {"map": "<img src=x onerror=alert(1)>"}, "one of scores, pattern"),
        ("explore", {"prompt": "~broken!"}, "damaged"),
        ("explore", {"prompt": PACKED_HALF}, "damaged"),
        ("probing", {"section": "run a small study", "small": HALF}, "half a character"),
        ("heads", {"threshold": "nan"}, "finite number"),
        ("heads", {"seed": "-1"}, "0 to"),
        ("virtual_heads", {"layer": "one"}, "whole number"),
        ("intervene", {"change": '[{"mode": "nonsense"}]'}, "cannot be made"),
        ("intervene", {"change": "{" * 5000}, "cannot be made"),
        ("probing", {"section": "run a small study", "small": "{}"}, "cannot be read"),
        ("probing", {"section": "elsewhere"}, "one of a study"),
    ],
)
def test_a_wrong_link_is_answered_in_one_sentence_and_the_page_still_works(page, parameters, words):
    app = opened(page, parameters)
    assert not app.exception
    warnings = [one.value.replace("\\", "") for one in app.warning]
    assert len([one for one in warnings if words in one]) == 1, warnings
    assert not app.error


@pytest.mark.parametrize("change", ["[1, 2", "[" * 100_000, '[{"mode": "nonsense"}]'], ids=("cut", "deep", "unknown"))
def test_a_change_that_a_link_puts_in_place_and_nobody_can_read_is_left_out_with_a_warning(change):
    app = opened("explore", {"under": change, "map": "scores"})
    assert not app.exception
    assert not app.error
    assert len([one for one in app.warning if "names a change that cannot be made" in one.value]) == 1
    assert len(app.metric) == 4
    assert said(app).keys() == {"map", "at"}
    app.text_area(key="prompt").set_value(PROMPT).run()  # and nothing of it is left
    assert not app.exception
    assert not app.error
    assert not app.warning
    assert len(app.metric) == 4
