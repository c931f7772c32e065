"""The canvas viewer: what is sent to the browser and what is refused; test_viewer_browser.py looks at it drawn."""

from __future__ import annotations

import json
import math
import re
import zlib
from itertools import pairwise

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from workbench.viewer import (
    Labels,
    MapEvent,
    MapView,
    Panel,
    encode_view,
    max_abs,
    notebook_html,
    reduce_map,
    standalone_html,
)
from workbench.viewer.events import parse_event
from workbench.viewer.view import visible_token

NAN = np.nan


def noise(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def causal_noise(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    values = noise(rows, cols, seed)
    values[np.triu_indices(rows, 1, cols)] = NAN
    return values


def view_of(*maps: np.ndarray, **options: object) -> MapView:
    panels = [Panel(f"panel {index}", values) for index, values in enumerate(maps)]
    return MapView(panels, Labels("query"), Labels("key"), **options)  # type: ignore[arg-type]


def decode(payload: bytes) -> tuple[dict, np.ndarray]:
    """Header, and values [panel, rows, cols] with NaN for absent cells: the format as encoding.py documents it."""
    raw = zlib.decompress(payload)
    end = 4 + int.from_bytes(raw[:4], "little")
    header = json.loads(raw[4:end])
    shape = len(header["panels"]), *header["grid"]
    codes = np.frombuffer(raw, np.uint8, math.prod(shape), offset=end).reshape(shape).astype(float)
    scales = np.array([panel["scale"] for panel in header["panels"]])[:, None, None]
    return header, np.where(codes == 0, NAN, (codes - 128) / 127 * scales)


# ---------------------------------------------------------------------------------------------------- reduction


def reduce_by_loops(values: np.ndarray, max_px: int) -> np.ndarray:
    rows, cols = (np.arange(min(n, max_px) + 1) * n // min(n, max_px) for n in values.shape)
    reduced = np.full((len(rows) - 1, len(cols) - 1), NAN)
    for i, (r0, r1) in enumerate(pairwise(rows)):
        for j, (c0, c1) in enumerate(pairwise(cols)):
            present = [float(v) for v in values[r0:r1, c0:c1].ravel() if np.isfinite(v)]
            reduced[i, j] = max(present, key=lambda v: (abs(v), v), default=NAN)
    return reduced


@pytest.mark.parametrize(("rows", "cols"), [(53, 41), (53, 11), (11, 53)])
def test_reduction_keeps_the_value_of_largest_magnitude_of_each_block(rows: int, cols: int) -> None:
    values = noise(rows, cols)
    values[:9, : cols // 2] = NAN  # whole blocks without a present cell
    values[-7:, 3] = -np.inf
    values[10, 4], values[10, 5] = 5.0, -5.0  # a tie: the positive one is kept
    np.testing.assert_array_equal(reduce_map(values, 17), reduce_by_loops(values, 17).astype(np.float32))


def test_a_map_that_fits_is_sent_as_it_is() -> None:
    values = causal_noise(31, 17)
    assert reduce_map(values, 31) is values


def test_a_negative_diagonal_one_cell_wide_survives_the_reduction() -> None:
    values = np.full((1000, 1000), 0.01, np.float32)
    np.fill_diagonal(values, -1)
    assert (np.diagonal(reduce_map(values, 384)) == -1).all()


# ----------------------------------------------------------------------------------------------------- encoding


def test_encoded_values_are_within_1_254_of_the_scale_and_absent_cells_stay_absent() -> None:
    maps = causal_noise(23, 19, seed=1), causal_noise(23, 19, seed=2) * 100
    header, decoded = decode(encode_view(view_of(*maps)))
    for panel, values, got in zip(header["panels"], maps, decoded, strict=True):
        assert panel["scale"] == max_abs(values)
        assert np.nanmax(np.abs(got - values)) <= panel["scale"] / 254 * (1 + 1e-6)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(values))


def test_zero_and_both_ends_of_the_scale_are_exact() -> None:
    _, decoded = decode(encode_view(view_of(np.array([[-3.0, 0.0, 3.0, -np.inf]]))))
    np.testing.assert_array_equal(decoded, [[[-3.0, 0.0, 3.0, NAN]]])


def test_values_beyond_a_given_scale_saturate_and_the_panel_says_so() -> None:
    panels = [Panel("inside", np.array([[0.5, -0.9]]), scale=1), Panel("outside", np.array([[0.5, -7.0]]), scale=1)]
    header, decoded = decode(encode_view(MapView(panels, Labels("query"), Labels("key"))))
    assert [panel["saturates"] for panel in header["panels"]] == [False, True]
    assert decoded[1, 0, 1] == -1


@pytest.mark.parametrize("side", [64, 65])
def test_small_views_are_followed_by_their_values(side: int) -> None:
    maps = causal_noise(side, 64, seed=1), causal_noise(side, 64, seed=2)  # 8192 cells, and more
    payload = encode_view(view_of(*maps))
    header, decoded = decode(payload)
    rest = zlib.decompress(payload)[-2 * side * 64 * 4 :]
    assert header["exact"] == (side == 64)
    if header["exact"]:
        np.testing.assert_array_equal(np.frombuffer(rest, "<f4").reshape(decoded.shape), np.stack(maps))


def test_a_column_outside_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="column 3 lies outside the 2 x 3 map"):
        view_of(np.zeros((2, 3)), column=3)


def test_a_map_of_zeros_has_a_scale() -> None:
    header, decoded = decode(encode_view(view_of(np.zeros((2, 3)))))
    assert header["panels"][0]["scale"] == 1
    assert (decoded == 0).all()


def test_half_precision_is_encoded_as_precisely_as_single() -> None:
    values = (noise(5, 7) * 1e-4).astype(np.float16)
    np.testing.assert_array_equal(
        decode(encode_view(view_of(values)))[1], decode(encode_view(view_of(values.astype(np.float32))))[1]
    )


def test_three_incompressible_panels_of_384_pixels_with_their_labels_stay_under_500_kb() -> None:
    names = [f" token{index}" for index in range(1024)]
    panels = [Panel(f"panel {seed}", noise(1024, 1024, seed)) for seed in range(3)]
    payload = encode_view(MapView(panels, Labels("query", names), Labels("key", names)))
    assert decode(payload)[0]["grid"] == [384, 384]
    assert len(payload) < 500_000


def test_header_carries_what_the_browser_needs_to_place_a_window_in_the_full_map() -> None:
    view = view_of(noise(20, 30), window=((100, 120), (40, 70)), size=(500, 300), selected=(101, 42))
    header, _ = decode(encode_view(view, height=240))
    expected = {"window": [[100, 120], [40, 70]], "size": [500, 300], "selected": [101, 42], "height": 240}
    assert {name: header[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"), ("\n", "↵"), ("  \n ", "··↵·"), ("", "∅"), ("a b", "a b"), ("a\tb\r", "a⇥b␍"),
        ("<b>", "<b>"), ("\u200b\u202ex", "��x"), ("\ud800", "�"), ("   ", "···"), ("é猫", "é猫"),
    ],
)  # fmt: skip
def test_tokens_are_shown_as_one_line_of_visible_characters(token: str, shown: str) -> None:
    assert visible_token(token) == shown


# ------------------------------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Panel("p", np.zeros(3)), "shape [3]"),
        (lambda: Panel("p", np.zeros((2, 3), int)), "type int64"),
        (lambda: Panel("p", np.array([[np.inf]])), "contains +inf"),
        (lambda: Panel("p", np.zeros((2, 3)), scale=0), "scale 0"),
        (lambda: Panel("p", np.array([[1.0, -0.5]]), signed=False), "unsigned but goes down to -0.5"),
        (lambda: view_of(), "panels have shapes []"),
        (lambda: view_of(noise(2, 3), noise(3, 2)), "shapes [(2, 3), (3, 2)]"),
        (lambda: view_of(noise(2, 3), selected=(0, 3)), "(0, 3) lies outside the 2 x 3 map"),
        (lambda: view_of(noise(2, 3), window=((0, 2), (0, 3))), "without size"),
        (lambda: view_of(noise(2, 3), window=((0, 2), (5, 8)), size=(4, 7)), "does not lie inside the 4 x 7 map"),
        (lambda: view_of(noise(2, 3), window=((0, 1), (0, 3)), size=(4, 7)), "2 x 3 values"),
        (lambda: MapView([Panel("p", noise(2, 3))], Labels("query", ["a"]), Labels("key")), "1 names for 2 positions"),
    ],
)
def test_contradictory_input_is_refused_in_one_sentence(build, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_unsigned_panels_accept_rounding_below_zero() -> None:
    assert Panel("p", np.array([[1.0, -1e-7]]), signed=False).full_scale == 1


def test_events_from_the_browser_are_read_and_nonsense_is_dropped() -> None:
    size = (5, 7)
    assert parse_event([4, 6], [[0, 5], [2, 7]], size) == MapEvent((4, 6), ((0, 5), (2, 7)))
    for pick in (None, "x", [4], [4, 7], [-1, 0], [1.5, 2], [True, 0], {"row": 1}):
        assert parse_event(pick, None, size) == MapEvent()
    for window in (None, [[0, 5]], [[0, 6], [0, 7]], [[3, 3], [0, 7]], [["0", 5], [0, 7]], [[0, 5], None]):
        assert parse_event(None, window, size) == MapEvent()


# ---------------------------------------------------------------------------------------------------- documents


def test_documents_fetch_nothing_and_survive_any_encoding() -> None:
    view = MapView([Panel("</script>", noise(3, 4))], Labels("query", ["é", "<b>", "\n"]), Labels("key"))
    document = standalone_html(view, title="a <title>")
    assert document.isascii()
    named = document.replace("http://www.w3.org/2000/svg", "")  # a name of the SVG language: nothing is fetched from it
    assert not re.search(r"https?:|@import|url\(|src=", named)
    assert document.count("</script>") == 1  # titles and labels travel inside the payload
    assert "a &lt;title&gt;" in document
    assert view._repr_html_() == notebook_html(view)
    assert "<script" not in notebook_html(view)  # escaped into the attribute


def test_the_viewer_runs_without_a_browser_in_an_app_test() -> None:
    def page() -> None:
        import numpy as np
        import streamlit as st

        from workbench.viewer import Labels, MapView, Panel
        from workbench.viewer.component import map_viewer, read_event

        before = read_event("map", (2, 3))
        event = map_viewer(MapView([Panel("p", np.ones((2, 3)))], Labels("query"), Labels("key")), key="map")
        st.text(f"{before} {event}")

    app = AppTest.from_function(page).run()
    assert not app.exception
    assert app.text[0].value == f"{MapEvent()} {MapEvent()}"
