"""What the Intervene page shows is what the library computes: readings, maps, sweeps as panels, and figures."""

import numpy as np
import pytest
import torch

from model import capture
from probes import Intervention, MeanMixing, comparison, uncomposed_twin
from probes.examples import text_examples
from probes.interventions import to_json
from probes.measures import measured
from probes.sweeps import sweep
from tests.models import small_model, some_tokens
from workbench import changes, drafts
from workbench.figures import changed_tokens_figure, sweep_cells_figure
from workbench.sweeping import GRIDS, SweepRequest, sweep_panels

T = 11


@pytest.fixture(scope="module")
def model():
    return small_model("llama windows")


@pytest.fixture(scope="module")
def runs(model):
    return capture(model, some_tokens(T)), capture_under(model, uncomposed_twin())


def capture_under(model, change):
    with change.applied(model):
        return capture(model, some_tokens(T))


def test_a_reading_is_what_the_measures_say(model, runs, monkeypatch):
    monkeypatch.setattr(comparison, "POSITIONS_AT_ONCE", 4)  # pieces that do not divide the length
    reading = changes.read_change(*runs)
    examples = text_examples(model, some_tokens(1, T))
    intact, changed = measured(model, examples), measured(model, examples, ["loss", "kl"], uncomposed_twin())
    truth = intact["loss"].mean, changed["loss"].mean, changed["kl"].mean
    assert reading.means == pytest.approx(truth, rel=1e-5)
    assert reading.totals == pytest.approx((intact["loss"].sums[0], changed["loss"].sums[0]), rel=1e-5)
    assert np.isnan(reading.loss_intact[-1])
    assert np.isnan(reading.loss_changed[-1])
    assert np.isfinite(reading.kl).all()


def test_one_token_has_no_loss_but_a_divergence(model):
    with uncomposed_twin().applied(model):
        changed = capture(model, some_tokens(1))
    reading = changes.read_change(capture(model, some_tokens(1)), changed)
    assert np.isnan(reading.means).all()
    assert len(reading.kl) == 1


def test_runs_of_other_prompts_are_refused(model, runs):
    with pytest.raises(ValueError, match="different tokens"):
        changes.read_change(runs[0], capture(model, some_tokens(T, seed=9)))


def test_pattern_distances_are_l1_of_rows(runs):
    found = changes.pattern_distances(*runs, query=8)
    for layer in range(3):
        rows = [run.pattern(layer)[:, 8] for run in runs]
        torch.testing.assert_close(found[layer], (rows[1] - rows[0]).abs().sum(-1))
    assert changes.distance_overview(found, 8, (2, 1)).selected == (2, 1)


def test_maps_show_intact_changed_and_difference_on_one_scale(runs):
    maps = [{name: value[0] for name, value in run.maps(0, heads=2).items()} for run in runs]
    view = changes.changed_maps(*maps, runs[0], (5, 4), None)
    before, after, difference = (panel.values for panel in view.panels)
    seen = torch.isfinite(runs[0].scores(0, heads=2)[0]).numpy()
    assert (np.isnan(before) == ~seen).all()
    np.testing.assert_allclose(before[seen], runs[0].pattern(0, heads=2)[0].numpy()[seen])
    np.testing.assert_allclose(after[seen], runs[1].pattern(0, heads=2)[0].numpy()[seen])
    np.testing.assert_allclose(difference[seen], (after - before)[seen])
    assert len({panel.full_scale for panel in view.panels}) == 1
    part = changes.changed_maps(*maps, runs[0], (5, 4), ((3, 9), (2, 6)))
    np.testing.assert_array_equal(part.panels[0].values, before[3:9, 2:6])
    assert part.panels[0].full_scale == view.panels[0].full_scale


# -- the form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        Intervention(),
        uncomposed_twin(),
        Intervention(layers=[2, 0], sites=["pre"], branches=["key_gate"], sources=[1], targets=[3], positions=[4, 6]),
        Intervention(mode="scale", amount=-1.5),
        Intervention(mode="set", value=2.0, sources=[1], targets=[0]),
        Intervention(mode="shuffle", seed=4),
    ],
)
def test_a_form_gives_back_what_it_was_filled_with(part):
    assert to_json(drafts.intervention(drafts.form_fields(part))) == to_json(part)


def test_what_the_form_cannot_show_is_left_to_json(model):
    mean = MeanMixing.over(model, [some_tokens(1, 5)])
    for part in (
        Intervention(mode="mean", mean=mean),
        Intervention(mode="scale", amount=9.0),
        Intervention(mode="set", value=torch.zeros(4, 4)),
        Intervention(layers=[-1]),
        Intervention(positions=[[1], [2]]),
        Intervention(mode="patch", prompt="Mary"),
    ):
        assert drafts.form_fields(part) is None


# -- sweeps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_panels_hold_every_cell_in_its_place(model, grid):
    request = SweepRequest("", "", grid, "loss", layers=(0, 2))
    table = sweep(model, text_examples(model, some_tokens(1, T)), request.cells(model.cfg, T), ["loss"])
    shown = sweep_panels(table, grid)
    assert sum(int(np.isfinite(values).sum()) for values in shown.panels.values()) == len(table)
    for row in table.itertuples():
        title = {
            "edge": lambda r: f"layer {r.layer}, M_{r.site}",
            "head": lambda r: f"M_{r.site}, head as {r.role}",
        }.get(grid, lambda r: f"M_{r.site}")(row)
        place = shown.rows.index(str(getattr(row, shown.row_title)))
        column = shown.cols.index(str(getattr(row, shown.col_title)).replace("_", " "))
        assert shown.panels[title][place, column] == row.change


def test_a_request_passes_its_mode_on(model):
    mean = MeanMixing.over(model, [some_tokens(1, 5)])
    for change, field, value in (
        ((("mode", "scale"), ("amount", 0.5)), "amount", 0.5),
        ((("mode", "random"), ("seed", 7)), "seed", 7),
        ((("mode", "mean"),), "mean", mean),
        ((("mode", "set"), ("value", 0.0)), "value", 0.0),
    ):
        (cell, *_) = SweepRequest("", "", "branch", "loss", change).cells(model.cfg, T, mean)
        assert cell.change.mode == change[0][1]
        assert getattr(cell.change, field) == value


# -- figures -----------------------------------------------------------------------------------------


def test_the_token_figure_holds_losses_and_divergence(runs):
    reading = changes.read_change(*runs)
    figure = changed_tokens_figure(reading.loss_intact, reading.loss_changed, reading.kl, ["a"] * T, position=3)
    change, intact, kl = figure.data
    np.testing.assert_allclose(np.asarray(change.base, dtype=float) + np.asarray(change.y), reading.loss_changed)
    np.testing.assert_allclose(intact.y, reading.loss_intact)
    np.testing.assert_allclose(kl.y, reading.kl)
    rose = np.nan_to_num(reading.loss_changed - reading.loss_intact) >= 0
    assert len(set(np.asarray(change.marker.color)[rose])) == 1
    assert not set(np.asarray(change.marker.color)[rose]) & set(np.asarray(change.marker.color)[~rose])
    assert list(figure.layout.xaxis.ticktext) == ["a"] * T  # equal tokens stay apart


def test_a_sweep_figure_is_centred_on_zero_and_its_panels_do_not_overlap():
    panels = {f"panel {n}": np.full((3, 5), float(n - 4)) for n in range(6)}
    panels["panel 0"][1, 2] = np.nan
    figure = sweep_cells_figure(panels, list("abc"), list("vwxyz"), ("layer", "branch"), "nats")
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax == -4.0
    for trace, values in zip(figure.data, panels.values(), strict=True):
        np.testing.assert_array_equal(trace.z, values)
    boxes = []
    for n in range(6):
        x, y = (figure.layout[f"{axis}axis{'' if n == 0 else n + 1}"].domain for axis in "xy")
        assert 0 <= x[0] < x[1] <= 1.0001
        assert 0 <= y[0] < y[1] <= 1.0001
        boxes.append((*x, *y))
    for i, (x0, x1, y0, y1) in enumerate(boxes):
        for u0, u1, v0, v1 in boxes[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0


def test_a_sweep_without_any_change_is_drawn():
    figure = sweep_cells_figure({"M_pre": np.zeros((2, 2))}, ["0", "1"], ["a", "b"], ("layer", "branch"), "nats")
    assert figure.layout.coloraxis.cmax == 1.0
