"""Figures of heads and virtual heads: what is drawn is what was given, on scales that are centred and shared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.figures import (
    LayerPanel,
    by_layer_figure,
    head_matrices_figure,
    head_scatter_figure,
    virtual_head_flow_figure,
    virtual_head_keys_figure,
)
from workbench.figures.head_scatter import Scale

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
NO_REPEATS = " Mary has an apple"
PATIENCE = 60_000  # ms; a busy machine is slow, and no test here measures speed
T, H = 11, 4


@pytest.fixture
def heads() -> pd.DataFrame:
    rows = [(0, 0, "raw", 0.1, 1.0), (0, 0, "composed", -8.0, np.nan), (0, 1, "raw", 0.2, 2.0)]
    return pd.DataFrame([*rows, (0, 1, "composed", 12.0, -3.0)], columns=["layer", "head", "stage", "a", "b"])


def test_matrices_share_one_scale_centred_on_0_and_the_frame_is_in_its_panel():
    panels = {f"layer {n}": np.full((3, 3), value) for n, value in enumerate((0.5, -2.0, 1.0, 0.1, 0.2))}
    figure = head_matrices_figure(panels, "logits", (1, 2, 0))
    colours = figure.layout.coloraxis
    assert (colours.cmin, colours.cmax) == (-2, 2)
    for trace, values in zip(figure.data, panels.values(), strict=True):
        np.testing.assert_array_equal(trace.z, values)
    frame = figure.layout.shapes[0]
    assert (frame.xref, frame.yref, frame.x0, frame.y0) == ("x2", "y2", -0.5, 1.5)
    assert "source 2 → target 0" in figure.data[1].text[2, 0]


def test_sums_stand_below_a_gap_and_count_for_the_scale():
    values = np.array([[1.0, -1.0], [2.0, -3.0]])
    figure = head_matrices_figure({"": values}, "score", sums=True)
    shown = figure.data[0].z
    np.testing.assert_array_equal(shown[[0, 1, 3]], [[1, -1], [2, -3], [3, -4]])
    assert np.isnan(shown[2]).all()
    assert figure.layout.coloraxis.cmax == 4
    assert head_matrices_figure({"": np.zeros((2, 2))}, "score").layout.coloraxis.cmax == 1


def test_the_flow_holds_the_largest_virtual_heads_with_their_signs():
    figure = virtual_head_flow_figure(np.array([[0.1, -3.0], [2.0, 0.0]]), count=2)
    links, nodes = figure.data[0].link, figure.data[0].node.label
    flows = [(nodes[a], nodes[b], w) for a, b, w in zip(links.source, links.target, links.value)]
    assert flows == [
        ("pattern of source 0", "values of target 1", 3.0),
        ("pattern of source 1", "values of target 0", 2.0),
    ]
    assert links.customdata.tolist() == [-3.0, 2.0]
    assert links.color[0] != links.color[1]


def test_bars_of_a_virtual_head_stand_at_the_positions_of_their_keys():
    row = np.array([0.25, 0.75]), np.array([-1.0, 2.0]), np.array([-0.5, 0.25])
    figure = virtual_head_keys_figure(*row, ["a", "b"], first=6)
    for bars, values in zip(figure.data, row, strict=True):
        np.testing.assert_array_equal(bars.x, [6, 7])
        np.testing.assert_array_equal(bars.y, values)
    assert list(figure.layout.xaxis.ticktext) == ["a", "b"]
    many = np.ones(65)
    assert virtual_head_keys_figure(many, many, many, ["a"] * 65).layout.xaxis.ticktext is None


def test_the_scatter_joins_the_two_points_of_a_head_and_leaves_out_what_a_metric_refuses(heads):
    joins, raw, composed = head_scatter_figure(heads, "a", "b", ("A", "B"), robust=False).data
    np.testing.assert_array_equal(joins.x, [0.2, 12.0, np.nan])
    np.testing.assert_array_equal(joins.y, [2.0, -3.0, np.nan])
    np.testing.assert_array_equal(raw.x, [0.1, 0.2])
    np.testing.assert_array_equal(composed.customdata, [3])
    assert "layer 0, head 1, composed" in composed.hovertext[0]
    assert raw.marker.symbol != composed.marker.symbol


def test_filtered_heads_stand_out(heads):
    joins, raw, _ = head_scatter_figure(heads, "a", "b", ("A", "B"), {(0, 0)}).data
    assert len(joins.x) == 0
    assert raw.marker.opacity[0] > raw.marker.opacity[1]


def test_the_robust_scale_keeps_order_and_its_ticks_stand_at_their_values():
    values = np.array([-12.4, -0.3, 0.0, 0.02, 0.5, 38.1])
    scale = Scale.of(values)
    assert (np.diff(scale.place(values)) > 0).all()
    axis = scale.axis(values)
    ticks = np.array([float(text) for text in axis["ticktext"]])
    np.testing.assert_allclose(scale.place(ticks), axis["tickvals"])
    assert {-10.0, 0.0, 10.0} <= set(ticks)
    assert np.diff(axis["tickvals"]).min() > 0.05 * np.ptp(scale.place(values))
    assert np.ptp(scale.place(values)) < 15  # 38.1 is 76 times 0.5
    assert "tickvals" not in Scale.of(np.zeros(3)).axis(np.zeros(3))


def test_by_layer_draws_a_line_for_each_stage_that_a_metric_takes():
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "stage": ["raw", "composed"] * 2,
                          "a": [1.0, 2.0, 3.0, 4.0], "b": [5.0, np.nan, 6.0, np.nan]})  # fmt: skip
    panels = [LayerPanel("a", "A", "nats", 0.0), LayerPanel("b", "B", "share", 1.0)]
    figure = by_layer_figure(table, "stage", panels)
    drawn = {(line.name, line.yaxis): list(line.y) for line in figure.data}
    assert drawn == {("raw", "y"): [1, 3], ("composed", "y"): [2, 4], ("raw", "y2"): [5, 6], ("composed", "y2"): []}
    assert [shape.y0 for shape in figure.layout.shapes] == [0.0, 1.0]
