"""Tokens and names stand on every figure as they were typed: what looks like markup is text to a person too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Browser, Page
from plotly.offline import get_plotlyjs

from workbench import figures
from workbench.figures import LayerPanel

TOKENS = ["<b>bold</b>", "&lt;", "7<br>8", "%{x}"]
NAME = '<i>a</i> &amp; %{y} "b"'
PATIENCE = 60_000  # ms; a busy machine is slow, and no test here measures speed
N = len(TOKENS)


@dataclass(frozen=True)
class Case:
    """A figure made of TOKENS and NAME.

    drawn: what its texts must hold, each in one of them. hovered: (curve, point or (row, column), subplot) -> what
    hovering must say.
    """

    figure: go.Figure
    drawn: list[str]
    hovered: dict[tuple, list[str]] = field(default_factory=dict)


def by_layer() -> Case:
    table = pd.DataFrame({"layer": [0, 1], "stage": ["raw", "raw"], "a": [1.0, 2.0]})
    figure = figures.by_layer_figure(table, "stage", [LayerPanel("a", TOKENS[0], NAME, 0.0)])
    return Case(figure, [TOKENS[0], NAME], {(0, 1, "xy"): [NAME]})


def changed_tokens() -> Case:
    intact, changed = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 5])
    figure = figures.changed_tokens_figure(intact, changed, intact, TOKENS, 1, (NAME, "changed"))
    said = [f"after {at} {token}" for at, token in enumerate(TOKENS)]
    bars = {(0, at, "xy2"): [said[at], NAME] for at in range(N)}
    return Case(figure, TOKENS, bars | {(2, at, "xy"): [said[at]] for at in range(N)})


def component_scores() -> Case:
    return Case(figures.component_scores_figure(np.array([0.1, 0.2, -0.5]), NAME), [NAME])


def dynamic_share() -> Case:
    rows = [
        {"side": side, "class": token, "place": NAME, "share": 0.5, "low": 0.4, "high": 0.6}
        for side in ("query", "key")
        for token in [*TOKENS, "3", "11"]
    ]
    figure = figures.dynamic_share_figure(pd.DataFrame(rows), NAME)
    hovered = {(0, (row, 0), "xy"): [token, NAME] for row, token in enumerate(TOKENS)}
    return Case(figure, [*TOKENS, NAME, "3", "11"], hovered)


def head_matrices() -> Case:
    figure = figures.head_matrices_figure({token: np.eye(3) for token in TOKENS}, NAME)
    return Case(figure, [*TOKENS, NAME], {(1, (1, 2), "x2y2"): [NAME]})


def head_scatter() -> Case:
    table = pd.DataFrame({"layer": [0, 1], "head": [2, 3], "stage": ["raw", "composed"], "a": [1.0, 2], "b": [3.0, 4]})
    return Case(figures.head_scatter_figure(table, "a", "b", (NAME, TOKENS[1])), [NAME, TOKENS[1]])


def metric_pairs() -> Case:
    table = pd.DataFrame({"layer": [0], "head_a": [1], "head_b": [2], "stage": ["raw"], "a": [1.0], "b": [2.0]})
    return Case(figures.metric_pairs_figure(table, NAME), [f"A ({NAME})", f"B ({NAME})"])


def next_token_pairs() -> Case:
    p = np.array([0.1, 0.2, 0.3, 0.4])
    hovered = {(curve, at, "xy"): [TOKENS[at]] for curve in (1, 2) for at in range(N)}
    return Case(figures.next_token_pairs_figure(TOKENS, p, p / 2), TOKENS, hovered)


def probe_differences() -> Case:
    rows = [
        {
            "cell": cell,
            "against": NAME,
            "difference": 0.1,
            "difference_low": 0.0,
            "difference_high": 0.2,
            "p_holm": 0.01,
        }
        for cell in TOKENS
    ]
    figure = figures.probe_differences_figure(pd.DataFrame(rows), TOKENS[0], TOKENS[1])
    return Case(figure, [*TOKENS, NAME], {(0, (row, 0), "xy"): [TOKENS[row], NAME] for row in range(N)})


def probe_scores() -> Case:
    cells = pd.DataFrame(
        {"feature": NAME, "place": TOKENS, "value": 0.5, "low": 0.4, "high": 0.6},
    )
    figure = figures.probe_scores_figure(cells, {TOKENS[0]: 0.2}, {TOKENS[1]: [0.1] * N}, TOKENS[2], NAME, TOKENS[3])
    hovered = {(0, at, "xy"): [TOKENS[at], NAME] for at in range(N)}
    return Case(figure, [*TOKENS, NAME], hovered | {(1, 0, "xy"): [TOKENS[0], NAME], (2, 0, "xy"): [TOKENS[1], NAME]})


def source_heads() -> Case:
    return Case(figures.source_heads_figure(np.array([0.1, -0.2, 0.3]), 1, NAME), [NAME])


def sweep_cells() -> Case:
    figure = figures.sweep_cells_figure({NAME: np.ones((N, N))}, TOKENS, TOKENS[::-1], ("row", NAME), TOKENS[1])
    hovered = {(0, (row, N - 1 - row), "xy"): [f"row {TOKENS[row]}, {NAME} {TOKENS[row]}"] for row in range(N)}
    return Case(figure, [*TOKENS, NAME], hovered)


def task_accuracy() -> Case:
    rows = [
        {"group": group, "model": NAME, "exact_match": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1, "answers": 9}
        for group in TOKENS
    ]
    figure = figures.task_accuracy_figure(pd.DataFrame(rows))
    return Case(figure, [*TOKENS, NAME], {(1, at, "xy"): [TOKENS[at], NAME] for at in range(N)})


def task_differences() -> Case:
    rows = [
        {"group": group, "against": NAME, "difference": 0.5, "low": 0.4, "high": 0.6, "p_holm": 0.1} for group in TOKENS
    ]
    figure = figures.task_differences_figure(pd.DataFrame(rows), TOKENS[0])
    drawn = [*TOKENS, NAME, f"{TOKENS[0]} minus the other"]
    return Case(figure, drawn, {(1, at, "xy"): [TOKENS[at], NAME] for at in range(N)})


def virtual_head_keys() -> Case:
    values = np.array([0.1, 0.2, 0.3, -0.4])
    figure = figures.virtual_head_keys_figure(values, values, values, TOKENS, first=3)
    return Case(figure, TOKENS, {(0, at, "xy3"): [f"key {at + 3}: {TOKENS[at]}"] for at in range(N)})


CASES = (
    by_layer, changed_tokens, component_scores, dynamic_share, head_matrices, head_scatter, metric_pairs,
    next_token_pairs, probe_differences, probe_scores, source_heads, sweep_cells, task_accuracy, task_differences,
    virtual_head_keys,
)  # fmt: skip
ONLY_NUMBERS = {"mixing_matrix_figure", "virtual_head_flow_figure"}
"""They take neither tokens nor names."""


def test_every_figure_is_among_the_cases():
    known = {f"{case.__name__}_figure" for case in CASES} | ONLY_NUMBERS
    assert known == {name for name in figures.__all__ if name.endswith("_figure")}


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    opened = browser.new_page(viewport={"width": 1400, "height": 1400})
    opened.set_default_timeout(PATIENCE)
    opened.set_content('<!doctype html><meta charset="utf-8"><div id="figure"></div>')
    opened.add_script_tag(content=get_plotlyjs())
    return opened


DRAW = """async (figure) => {
    const place = document.getElementById("figure");
    Plotly.purge(place);
    await Plotly.newPlot(place, figure.data, figure.layout);
    return [...place.querySelectorAll("svg text")].map((one) => one.textContent);
}"""
HOVER = """([curveNumber, point, subplot]) => {
    const at = Array.isArray(point) ? {yval: point[0], xval: point[1]} : {pointNumber: point};
    const place = document.getElementById("figure");
    Plotly.Fx.unhover(place);
    Plotly.Fx.hover(place, [{curveNumber, ...at}], [subplot]);
    return [...place.querySelectorAll(".hoverlayer text")].map((one) => one.textContent).join(" ");
}"""


@pytest.mark.browser
@pytest.mark.parametrize("case", CASES)
def test_what_is_drawn_and_hovered_is_what_was_typed(page, case):
    asked = case()
    drawn = page.evaluate(DRAW, json.loads(asked.figure.to_json()))
    for text in asked.drawn:
        assert any(text in one for one in drawn), (text, drawn)
    for point, texts in asked.hovered.items():
        said = page.evaluate(HOVER, list(point))
        for text in texts:
            assert text in said, (point, said)
