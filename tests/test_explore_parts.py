"""What Explore shows beside single maps: overviews, small maps of all heads, whole lines, captures as files."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from model import capture
from probes.metrics import HEAD_METRICS, head_metrics, raw_to_composed
from tests.models import VARIANTS, small_model, some_tokens
from workbench.all_heads import STAGES, small_maps, small_view
from workbench.export import capture_npz
from workbench.lines import line_view, read_line
from workbench.overviews import MEASURES, overview_view, pictures
from workbench.viewer import reduce_map
from workbench.viewer.files import MAX_CSV_CELLS, csv_refusal, view_csv
from workbench.views import KINDS, Selection, head_maps

MIXED = sorted(name for name in VARIANTS if not name.startswith("plain"))
TOKENS = 13


@pytest.fixture(scope="module", params=["llama windows", "groups", "static and dynamic", "query side", "talking heads"])
def run(request):
    return capture(small_model(request.param), some_tokens(TOKENS))


@pytest.fixture(scope="module")
def windowed():
    return capture(small_model("llama windows"), some_tokens(TOKENS))


# -- lines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("along", ["row", "column"])
def test_every_value_of_a_line_is_the_cells_written_out(run, kind, along):
    at = Selection(layer=0, head=3, query=9, key=7)
    line, mix = read_line(run, at, kind, along), run.mixing(0, KINDS[kind])
    for place, position in enumerate(range(line.positions.start, line.positions.stop)):
        query, key = (9, position) if along == "row" else (position, 7)
        raw = getattr(run, kind)(0, "raw", queries=query, keys=key)[:, 0, 0].numpy()
        parts = {name: part.numpy()[:, 3] for name, part in mix.branches(query, key).items()}
        np.testing.assert_allclose(line.by_source[:, place], raw * sum(parts.values()), atol=2e-6)
        for name, column in parts.items():
            assert line.by_branch[name][place] == pytest.approx(float(raw @ column), abs=2e-6)
    assert line.error < 1e-5


@pytest.mark.parametrize("along", ["row", "column"])
def test_a_line_holds_just_the_positions_that_see_each_other(windowed, along):
    line = read_line(windowed, Selection(layer=0, head=1, query=9, key=7), "pattern", along)  # this layer sees 3 keys
    assert (line.positions.start, line.positions.stop) == (7, 10)


def test_the_picture_of_a_line_has_its_parts_and_says_what_is_not_on_it(windowed):
    at = Selection(layer=0, head=1, query=9, key=7)
    line = read_line(windowed, at, "pattern", "row")
    view = line_view(windowed, at, "pattern", "row", line)
    values = view.panels[0].values
    assert list(view.rows.names) == [f"source {h}" for h in range(4)] + [
        "—", "base", "query lowrank", "query gate", "key lowrank", "key gate", "composed",
    ]  # fmt: skip
    np.testing.assert_allclose(values[:4, 7:10].sum(0), values[-1, 7:10], atol=1e-6)
    np.testing.assert_allclose(values[5:10, 7:10].sum(0), values[-1, 7:10], atol=1e-6)
    assert np.isnan(values[:, :7]).all()
    assert np.isnan(values[:, 10:]).all()
    assert view.selected == (10, 7)


# -- overviews ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["pre", "post"])
def test_off_diagonal_mass_of_a_head_is_summed_over_all_pairs(windowed, site):
    found = next(p for p in pictures(windowed, "off_diagonal") if p.where == site)
    for layer in range(3):
        total, own = np.zeros(4), np.zeros(4)
        for query in range(TOKENS):
            for key in range(*windowed.keys_seen(layer, query).indices(TOKENS)):
                squares = windowed.mixing(layer, site).matrix(query, key).double().numpy() ** 2
                total, own = total + squares.sum(0), own + squares.diagonal()
        np.testing.assert_allclose(found.values[layer], 1 - own / total, rtol=1e-5)


def test_measures_of_heads_are_the_metrics(windowed):
    for metric in HEAD_METRICS:
        if metric.answerable(windowed):
            table = head_metrics(windowed, [metric.name])
            for picture in pictures(windowed, metric.name):
                rows = table[table.stage == picture.where].sort_values(["layer", "head"])
                np.testing.assert_array_equal(picture.values.reshape(-1), rows.value.to_numpy())
    table = raw_to_composed(windowed).sort_values(["layer", "head"])
    for picture, name in zip(pictures(windowed, "raw_to_composed"), ("score_divergence", "pattern_distance")):
        np.testing.assert_array_equal(picture.values.reshape(-1), table[table.metric == name].value.to_numpy())


@pytest.mark.parametrize("measure", list(MEASURES))
@pytest.mark.parametrize("variant", ["llama windows", "post only", "plain"])
def test_every_measure_is_drawn_or_refused_in_a_sentence(measure, variant):
    made = capture(small_model(variant), some_tokens(TOKENS))
    metric = MEASURES[measure]
    needs_mixing = measure == "off_diagonal" and not made.cfg.mixed_sites
    if needs_mixing or not getattr(metric, "answerable", lambda run: True)(made):
        with pytest.raises(ValueError, match=r"\.$"):
            pictures(made, measure)
        return
    found = pictures(made, measure)
    view = overview_view(found, (2, 1))
    assert all(panel.values.shape == (3, 4) for panel in view.panels)
    assert MEASURES[measure].definition


# -- all heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("length", [13, 301])
def test_small_maps_are_the_large_ones_reduced(kind, stage, length):
    run = capture(small_model("llama windows", n_ctx=400, visible_keys=(50, None, 70)), some_tokens(length))
    small = small_maps(run, 0, kind, stage)
    assert small.shape == (4, min(length, 96), min(length, 96))
    raw, composed = (getattr(run, kind)(0, one).numpy() for one in ("raw", "composed"))
    seen = np.isfinite(run.scores(0, "composed").numpy())
    whole = {"raw": raw, "composed": composed}.get(stage)
    whole = np.where(seen, np.where(seen, composed, 0) - np.where(seen, raw, 0) if whole is None else whole, np.nan)
    for head in range(4):
        np.testing.assert_allclose(small[head], reduce_map(whole[head], 96), atol=1e-6)
    assert len(small_view(run, kind, small).panels) == 4


# -- files -------------------------------------------------------------------------------------------


def test_a_capture_is_rebuilt_from_its_file(run):
    file = np.load(io.BytesIO(capture_npz(run, "some model", "a prompt")))  # refuses pickles
    about = json.loads(str(file["metadata"]))
    assert (about["model"], about["prompt"], about["layers"]) == ("some model", "a prompt", [0, 1, 2])
    assert about["str_tokens"] == run.str_tokens
    assert about["config"] == json.loads(json.dumps(run.cfg.to_json_dict()))
    np.testing.assert_array_equal(file["tokens"], run.tokens.numpy())
    np.testing.assert_array_equal(file["logits"], run.logits.numpy())
    raw = np.einsum("tnk,snk->nts", file["blocks.1.q"], file["blocks.1.k"]) / np.sqrt(file["blocks.1.q"].shape[-1])
    np.testing.assert_allclose(raw, run.scores(1, "raw").numpy(), atol=1e-5)
    for site in ("pre", "post"):
        for name, factor in getattr(run.layers[1], site).factors().items():
            np.testing.assert_array_equal(file[f"blocks.1.{site}.{name}"], factor[0].numpy())


def test_half_precision_is_widened_in_the_file():
    run = capture(small_model("llama", dtype=torch.bfloat16), some_tokens(5))
    file = np.load(io.BytesIO(capture_npz(run, "m")))
    assert file["blocks.0.q"].dtype == np.float32
    np.testing.assert_array_equal(file["blocks.0.q"], run.layers[0].q.float().numpy())


def test_the_csv_of_maps_has_a_line_a_cell(windowed):
    at = Selection(layer=0, head=1, query=9, key=7)
    maps = {name: values[0] for name, values in windowed.maps(0, heads=1).items()}
    window = ((4, 11), (2, 9))
    lines = view_csv(head_maps(maps, windowed, at, "pattern", window)).splitlines()
    assert lines[0].startswith("query,key,query name,key name,")
    assert len(lines) == 1 + 7 * 7
    row = next(line.split(",") for line in lines if line.startswith("9,7,"))
    assert float(row[5]) == pytest.approx(float(windowed.pattern(0, heads=1, queries=9, keys=7)))
    hidden = next(line.split(",") for line in lines if line.startswith("4,8,"))
    assert hidden[4:] == ["", "", ""]


def test_a_map_too_large_for_a_table_is_refused_with_what_to_do(windowed):
    at = Selection(layer=0, head=1, query=0, key=0)
    size = int((MAX_CSV_CELLS / 3) ** 0.5) + 2
    run = capture(small_model("llama", n_ctx=size), some_tokens(size))
    maps = {name: values[0] for name, values in run.maps(0, heads=1).items()}
    assert "Zoom in first" in csv_refusal(head_maps(maps, run, at, "pattern"))
    with pytest.raises(ValueError, match="Zoom in first"):
        view_csv(head_maps(maps, run, at, "pattern"))
    assert csv_refusal(head_maps(maps, run, at, "pattern", ((0, 9), (0, 9)))) is None
