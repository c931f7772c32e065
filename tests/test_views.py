"""What the page and the report show is what the library computes."""

import numpy as np
import pytest
import torch

from model import capture
from tests.models import VARIANTS, small_model, some_tokens
from workbench import views
from workbench.figures import mixing_matrix_figure, source_heads_figure
from workbench.viewer.encoding import MAX_PX, encode_view
from workbench.views import Selection

T = 11


@pytest.fixture(scope="module")
def run():
    return capture(small_model("llama windows"), some_tokens(T))


def test_the_overview_is_the_distance_from_identity(run):
    view = views.overview(run, Selection(2, 1, 0, 0))
    assert view.selected == (2, 1)
    for panel, site in zip(view.panels, ("pre", "post"), strict=True):
        for layer in range(3):
            truth = run.mixing(layer, site).distance_from_identity()
            np.testing.assert_allclose(panel.values[layer], truth.numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", views.KINDS)
def test_maps_show_raw_composed_and_their_difference_on_one_scale(run, kind):
    maps = {name: value[0] for name, value in run.maps(0, heads=3).items()}
    view = views.head_maps(maps, run, Selection(0, 3, 5, 4), kind)
    raw, composed, difference = (panel.values for panel in view.panels)
    seen = torch.isfinite(run.scores(0, heads=3)[0]).numpy()
    assert (np.isnan(raw) == ~seen).all()
    assert (np.isnan(composed) == ~seen).all()
    np.testing.assert_allclose(composed[seen], getattr(run, kind)(0, heads=3)[0].numpy()[seen])
    np.testing.assert_allclose(difference[seen], (composed - raw)[seen])
    largest = max(np.abs(values[seen]).max() for values in (raw, composed, difference))
    assert [panel.full_scale for panel in view.panels] == [pytest.approx(largest)] * 3


def test_a_window_of_a_map_is_cut_from_the_whole(run):
    maps = {name: value[0] for name, value in run.maps(1, heads=0).items()}
    whole = views.head_maps(maps, run, Selection(1, 0, 5, 4), "pattern")
    part = views.head_maps(maps, run, Selection(1, 0, 5, 4), "pattern", window=((3, 9), (2, 6)))
    for one, other in zip(part.panels, whole.panels, strict=True):
        np.testing.assert_array_equal(one.values, other.values[3:9, 2:6])
        assert one.full_scale == other.full_scale  # colours keep their meaning while zooming


@pytest.mark.parametrize("window", [None, ((3, 440), (2, 430)), ((90, 100), (0, 450))])
@pytest.mark.parametrize("kind", views.KINDS)
def test_maps_reduced_in_parts_are_sent_as_the_same_bytes(kind, window):
    run = capture(small_model("llama windows", n_ctx=450), some_tokens(450))
    maps = {name: value[0] for name, value in run.maps(1, heads=3).items()}
    at = Selection(1, 3, 95, 94)
    whole = views.head_maps(maps, run, at, kind, window)
    scale = views.reduced_head_maps(maps, run, at, kind).panels[0].full_scale
    reduced = views.reduced_head_maps(maps, run, at, kind, window, scale)
    assert encode_view(reduced, name="x") == encode_view(whole, name="x")
    assert all(max(panel.values.shape) <= MAX_PX for panel in reduced.panels)


def test_a_click_on_a_reduced_map_means_its_strongest_cell():
    composed = torch.full((1000, 1000), 0.1)
    composed[700, 300], composed[500, 501] = -4.0, float("-inf")
    maps = {"pattern_composed": composed, "scores_composed": composed}
    assert views.snap(maps, "pattern", (701, 301), None) == (700, 300)  # under the same pixel of 384
    assert views.snap(maps, "pattern", (701, 301), ((600, 900), (200, 400))) == (701, 301)  # shown cell by cell
    hidden = {"scores_composed": torch.full((1000, 1000), float("-inf"))}
    assert views.snap(hidden, "scores", (3, 800), None) == (3, 800)


@pytest.mark.parametrize("kind", views.KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cell_reading_adds_up(variant, kind):
    run = capture(small_model(variant), some_tokens(T))
    cell = views.read_cell(run, Selection(1, 2, 8, 7), kind)
    np.testing.assert_allclose(cell.raw @ cell.matrix, cell.composed, atol=1e-5)
    np.testing.assert_allclose(sum(cell.branches.values()), cell.matrix, atol=1e-5)
    assert cell.parts.sum() == pytest.approx(cell.composed[2], abs=1e-5)
    assert cell.composed_error < 1e-5
    assert cell.branch_error < 1e-5
    assert cell.visible
    assert cell.row_sum == pytest.approx(float(run.pattern(1, heads=2, queries=8).sum()), abs=1e-6)


def test_a_pair_that_may_not_be_seen_says_so(run):
    later = views.read_cell(run, Selection(1, 2, 3, 9), "pattern")
    outside = views.read_cell(run, Selection(0, 2, 9, 2), "scores")  # layer 0 sees 3 keys
    assert not later.visible
    assert not outside.visible
    assert np.isfinite(outside.composed).all()


def test_the_first_selection_is_the_most_mixed_head_at_its_heaviest_key(run):
    first = views.first_selection(run)
    total = sum(views.distances(run).values())
    assert total[first.layer, first.head] == total.max()
    row = run.pattern(first.layer, heads=first.head, queries=first.query)[0, 0].abs()
    assert (first.query, first.key) == (T - 1, int(row.argmax()))


def test_chosen_places_are_kept_and_checked(run):
    assert views.chosen_selection(run, layer=1, head=-1, query=4, key=2) == Selection(1, 3, 4, 2)
    with pytest.raises(ValueError, match="Layer 3 does not exist: there are 3, 0 to 2"):
        views.chosen_selection(run, layer=3)


def test_next_tokens_are_the_models_own(run):
    found = views.next_tokens(run, 6, lambda ids: f"<{ids[0]}>", count=3)
    values, ids = run.logits[6].softmax(-1).topk(3)
    assert [token for token, _ in found] == [f"<{i}>" for i in ids.tolist()]
    assert [p for _, p in found] == pytest.approx(values.tolist())


def test_the_mixing_figure_holds_the_matrix_and_its_branches_on_one_scale(run):
    cell = views.read_cell(run, Selection(1, 2, 8, 7), "scores")
    figure = mixing_matrix_figure(cell.matrix, cell.branches, target=2)
    shown = [np.asarray(trace.z) for trace in figure.data]
    np.testing.assert_allclose(shown[0], cell.matrix)
    np.testing.assert_allclose(sum(shown[1:]), cell.matrix, atol=1e-5)
    assert len({(trace.zmin, trace.zmax) for trace in figure.data}) == 1
    assert figure.data[0].zmin == -figure.data[0].zmax


def test_the_source_figure_holds_the_parts(run):
    cell = views.read_cell(run, Selection(1, 2, 8, 7), "pattern")
    np.testing.assert_allclose(source_heads_figure(cell.parts, 2, "weight").data[0].y, cell.parts)


def test_the_mixing_view_holds_the_matrix_and_its_branches_on_one_scale(run):
    cell = views.read_cell(run, Selection(1, 2, 8, 7), "scores")
    view = views.matrix_view(cell, 2)
    whole, *branches = (panel.values for panel in view.panels)
    np.testing.assert_array_equal(whole, run.mixing(1, "pre").matrix(8, 7).numpy())
    np.testing.assert_allclose(sum(branches), whole, atol=1e-5)
    assert len({panel.full_scale for panel in view.panels}) == 1
    assert view.column == 2


def test_the_sources_of_a_head_are_a_row_that_sums_to_its_composed_value(run):
    cell = views.read_cell(run, Selection(1, 2, 8, 7), "pattern")
    [panel] = views.sources_view(cell, 2, "pattern").panels
    np.testing.assert_array_equal(panel.values, cell.parts[None])
    assert panel.values.sum() == pytest.approx(float(run.pattern(1, heads=2, queries=8, keys=7)), abs=1e-6)
