"""Studies: the file is checked, the tables are the library's, a stopped study goes on, and the words keep to them."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from playwright.sync_api import expect

from probes.harvest import harvest
from probes.probing import ProbeCell, probe_cells
from probes.store import Store
from probes.study import Study, findings, read_results, run_study
from probes.study.dynamic_share import dynamic_share
from probes.study.run import bases
from tests.browser_tools import open_browser
from tests.models import small_model
from tests.study_runs import PLANTED, fields, fits, kill_after, planted_corpus, random_documents, start, written
from workbench.cli import main
from workbench.study_report import study_html


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, Path]:
    return planted_corpus(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def study(planted) -> Study:
    return Study.from_dict(fields(*planted, question="Is it?", analyses=["probing", "dynamic_share"]))


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory) -> Path:
    """The folder of the finished study."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    run_study(study, folder)
    return folder


def assert_same(given: dict[str, pd.DataFrame], truth: dict[str, pd.DataFrame]) -> None:
    assert given.keys() == truth.keys()
    for name, table in truth.items():
        pd.testing.assert_frame_equal(given[name], table, check_exact=True)


def test_a_study_survives_its_own_file(tmp_path, study):
    assert Study.read(written(tmp_path / "again.yaml", json.loads(json.dumps(study.to_dict())))) == study


# -- the tables --------------------------------------------------------------------------------------


def test_results_are_those_of_probe_cells_on_the_stores(finished, study):
    store, untrained = (Store.open(finished / "stores" / name) for name in ("tiny", "tiny-random"))

    def flat(of: Store, name: str) -> np.ndarray:
        return of.read(name).astype(np.float32).reshape(len(of), -1)

    cells = [
        ProbeCell({"feature": kind, "layer": 1, "where": where}, flat(store, name), "residual@1", flat(untrained, name))
        for name, kind, where in ((PLANTED, "query_part", "post"), ("entropy@1.raw", "entropy", "raw"))
    ]
    table = store.table()
    truth = probe_cells(
        cells, {name: table[name] for name in study.labels}, table.document, positions=table.position,
        token_ids=table.token_id, residuals={"residual@1": flat(store, "residual@1")}, folds=3,
    )  # fmt: skip
    given = read_results(finished)[1]["probing"]
    assert (given.model == "tiny").all()
    assert set(given.against) == {
        "constant", "shuffled_labels", "control_task", "position", "token_identity", "residual", "residual_pca",
        "residual_projection", "random_init",
    }  # fmt: skip
    pd.testing.assert_frame_equal(given.drop(columns=["model", "seed"]), truth)


def test_csv_and_parquet_hold_the_same(finished):
    for name, table in read_results(finished)[1].items():
        stem = {"probing": "results"}.get(name, name)
        text = pd.read_csv(finished / f"{stem}.csv", keep_default_na=False, na_values=["nan"])
        assert list(text.columns) == list(table.columns)
        assert len(text) == len(table)


def test_config_says_what_it_was_made_with(finished, study, planted):
    _, _, config = read_results(finished)
    assert config["versions"].keys() >= {"python", "torch", "scikit-learn"}
    stores = Store.open(finished / "stores" / "tiny").manifest
    assert config["stores"]["tiny"]["model"]["weights_sha256"] == stores.model["weights_sha256"]
    assert config["stores"]["tiny"]["tokens"] == stores.rows


def test_numbers_and_several_seeds(planted, tmp_path):
    asked = Study.from_dict(
        fields(*planted, features=[PLANTED], labels=["height"], numbers=["height"], probes=["ridge"], seeds=[1, 4],
               references=["constant", "shuffled_labels"], random_init=False)
    )  # fmt: skip
    table = run_study(asked, tmp_path / "study")["probing"]
    assert set(table.seed) == {1, 4}
    assert set(table.score) == {"r2"}
    assert table.value.min() > 0.95
    (found,) = findings(table, asked)
    assert found.found
    assert "R²" in found.text or "r²" in found.text


def test_a_class_in_too_few_documents_is_an_error_or_is_dropped(planted, tmp_path):
    rows = [json.loads(line) for line in planted[1].read_text().splitlines()]
    rows[0]["mark"][0] = "once"
    corpus = tmp_path / "rare.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = {"features": ["entropy@1"], "labels": ["mark"], "references": ["constant"], "random_init": False}
    with pytest.raises(ValueError, match="'once'"):
        run_study(Study.from_dict(fields(planted[0], corpus, **few)), tmp_path / "one")
    table = run_study(Study.from_dict(fields(planted[0], corpus, drop_rare=True, **few)), tmp_path / "two")["probing"]
    assert set(table.classes) == {2}


# -- the dynamic share -------------------------------------------------------------------------------


def shares_by_loops(store: Store, names: list[str], base: np.ndarray, member: np.ndarray) -> dict[str, float]:
    """E_class ||part - E[part]||^2 / E ||M||^2 with M of every pair of tokens, one after the other."""
    parts = {name.partition("_")[0]: whole_matrices(store.read(name).astype(np.float64), len(base)) for name in names}
    zero = np.zeros_like(next(iter(parts.values())))
    query, key = parts.get("query", zero), parts.get("key", zero)
    size = np.mean([np.sum((base + q + k) ** 2) for q, k in product(query, key)])
    return {
        side: float(np.mean([np.sum((one - part.mean(0)) ** 2) for one in part[member]]) / size)
        for side, part in parts.items()
    }


def whole_matrices(part: np.ndarray, heads: int) -> np.ndarray:
    if part.ndim == 3:
        return part
    whole = np.zeros((len(part), heads, heads))
    for token, group in product(range(len(part)), range(part.shape[1])):
        at = group * part.shape[2]
        whole[token, at : at + part.shape[2], at : at + part.shape[2]] = part[token, group]
    return whole


@pytest.mark.parametrize("variant", ["llama", "groups", "post only", "query side", "key side", "static and dynamic"])
def test_dynamic_shares_equal_loops_over_all_pairs(tmp_path, variant):
    model = small_model(variant)
    store = harvest(model, random_documents((5, 31, 1, 13)), tmp_path, ["parts"], [], dtype="float64")
    assert store is not None
    rng = np.random.default_rng(2)
    label = pd.Series(rng.choice(["a", "b", "c"], len(store))).where(rng.random(len(store)) > 0.2, None)
    table = dynamic_share(store, bases(model), {"kind": label})
    for (layer, site), rows in table.groupby(["layer", "site"]):
        names = [name for name in store.features if name.endswith(f"@{layer}.{site}")]
        base = bases(model)[layer, site]
        for row in rows.itertuples():
            member = np.ones(len(store), bool) if row.label == "all" else (label == row[5]).to_numpy()
            assert row.share == pytest.approx(shares_by_loops(store, names, base, member)[row.side], rel=1e-5)
            assert row.tokens == member.sum()
    assert set(table.site) == set(model.cfg.mixed_sites)
    assert set(table.side) == set(model.cfg.dynamic_sides)


def test_the_mean_over_classes_is_the_share_of_all_their_tokens(finished):
    table = read_results(finished)[1]["dynamic_share"]
    for _, rows in table[table.label == "mark"].groupby(["layer", "site", "side"]):
        whole = table[(table.label == "all") & (table.side == rows.side.iloc[0])]
        assert rows.tokens.sum() == whole.tokens.iloc[0]
        assert np.average(rows.share, weights=rows.tokens) == pytest.approx(whole.share.iloc[0], rel=1e-9)
        assert (rows.low <= rows.share).all()
        assert (rows.share <= rows.high).all()


def test_both_sides_are_measured_where_one_is_asked_for(finished):
    assert set(read_results(finished)[1]["dynamic_share"].side) == {"query", "key"}


def test_a_store_of_one_side_of_two_has_no_dynamic_share(tmp_path):
    model = small_model("llama")
    store = harvest(model, random_documents((9, 5)), tmp_path, [PLANTED], [])
    assert store is not None
    with pytest.raises(ValueError, match=r"lacks key_part@1\.post"):
        dynamic_share(store, bases(model), {})


def test_what_has_no_parts_has_no_dynamic_share(planted, tmp_path):
    asked = Study.from_dict(fields(*planted, features=["residual@1"], analyses=["dynamic_share"]))
    with pytest.raises(ValueError, match="dynamic_share needs query_part or key_part"):
        run_study(asked, tmp_path / "study")


# -- the words ---------------------------------------------------------------------------------------


def test_the_planted_label_is_found_in_its_feature_and_noise_nowhere(finished, study):
    by_place = {(one.label, one.feature): one for one in findings(read_results(finished)[1]["probing"], study)}
    planted = by_place["mark", "query_part"]
    assert planted.found
    assert "mark is readable from query_part" in planted.text
    assert "beyond every control in 1 of 1 places" in planted.text
    assert f"{planted.best.value:.3f} [{planted.best.low:.3f}, {planted.best.high:.3f}]" in planted.text
    for feature in ("query_part", "entropy"):
        noise = by_place["noise", feature]
        assert not noise.found
        assert f"noise was not shown to be readable from {feature}" in noise.text
        assert "Not better than" in noise.text


# -- stopping and going on ---------------------------------------------------------------------------


class Stop(Exception):
    pass


def test_a_study_stopped_midway_goes_on_and_fits_nothing_twice(finished, study, tmp_path):
    counted: list[int] = []

    def stop(done: int, total: int) -> None:
        counted.append(done)
        if done > total / 2:
            raise Stop

    folder = tmp_path / "study"
    with pytest.raises(Stop):
        run_study(study, folder, watch=stop)
    with pytest.raises(ValueError, match=r"is not finished\. Run it again"):
        read_results(folder)
    again: list[int] = []
    assert_same(run_study(study, folder, watch=lambda done, total: again.append(done)), read_results(finished)[1])
    assert min(again) > max(counted)
    nothing_left: list[int] = []
    run_study(study, folder, watch=lambda done, total: nothing_left.append(done))
    assert not nothing_left


def test_a_killed_study_goes_on_and_gives_the_same_tables(finished, study, planted, tmp_path, record_property):
    path = written(tmp_path / "study.yaml", json.loads(json.dumps(study.to_dict())))
    folder, whole = tmp_path / "study", fits(finished)
    kill_after(start(["study", "run", str(path), "--out", str(folder)]), folder, whole // 3)
    record_property("kills", 1)
    assert 0 < fits(folder) < whole
    assert_same(run_study(study, folder), read_results(finished)[1])


def test_a_study_killed_before_its_config_stood_goes_on(study, finished, tmp_path):
    (tmp_path / "config.json.tmp").write_text("{")
    assert_same(run_study(study, tmp_path), read_results(finished)[1])


def test_another_studys_folder_is_refused_and_other_words_are_not(planted, finished, tmp_path):
    same = {"question": "Is it?", "analyses": ["probing", "dynamic_share"]}
    other = Study.from_dict(fields(*planted, **same, labels=["mark"]))
    with pytest.raises(ValueError, match=r"holds another study \(other labels\). Choose another folder"):
        run_study(other, finished)
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(ValueError, match="holds something else than a study"):
        run_study(other, tmp_path)
    worded = Study.from_dict(fields(*planted, **same, title="In other words"))
    run_study(worded, finished)
    assert read_results(finished)[0].title == "In other words"


def test_a_mistake_found_before_anything_was_harvested_can_be_mended_in_the_same_folder(planted, tmp_path):
    few = {"labels": ["mark"], "references": ["constant"], "random_init": False}
    with pytest.raises(ValueError, match=r"Model tiny: There is no 'entropy@9'"):
        run_study(Study.from_dict(fields(*planted, features=["entropy@9"], **few)), tmp_path / "study")
    assert not (tmp_path / "study").exists()
    with pytest.raises(ValueError, match="no column 'marks'"):
        run_study(Study.from_dict(fields(*planted, **few | {"labels": ["marks"]})), tmp_path / "study")
    assert run_study(Study.from_dict(fields(*planted, features=["entropy@1"], **few)), tmp_path / "study")


@pytest.mark.parametrize("content", [None, "[]", "{", '{"model_type": "dcformer"}'])
def test_a_folder_without_a_study_is_said_so(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="holds no study"):
        read_results(tmp_path)


def test_a_damaged_table_is_named(finished, tmp_path):
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    (tmp_path / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"results\.parquet cannot be read"):
        read_results(tmp_path)


# -- report and commands -----------------------------------------------------------------------------


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_the_report_needs_nothing_else_and_says_what_was_found(finished, study):
    page = study_html(finished)
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*\s(?:src|href)=", page)
    for one in findings(read_results(finished)[1]["probing"], study):
        assert one.text.replace("'", "&#39;") in page
    assert page.index("What was found") < page.index("What was not found")
    assert read_results(finished)[2]["stores"]["tiny"]["model"]["weights_sha256"] in page


@pytest.mark.browser
def test_the_report_opens_in_a_browser_without_a_request(finished, study, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(study_html(finished), encoding="utf-8")
    with open_browser() as browser:
        tab, asked, errors = browser.new_page(), [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(path.as_uri())
        expect(tab.locator("h1")).to_be_visible()
        expect(tab.locator(".plot .main-svg").first).to_be_visible()
        drawn = tab.locator(".js-plotly-plot").count()
        assert drawn == 2 * len(study.labels) + len(study.labels)  # scores and differences; shares
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert not errors


def test_the_command_runs_reports_and_runs_again(planted, tmp_path):
    few = {
        "labels": ["mark"],
        "features": [PLANTED],
        "references": ["constant", "shuffled_labels"],
        "random_init": False,
    }
    path, out = written(tmp_path / "small.yaml", fields(*planted, **few)), tmp_path / "out"
    done = run("study", "run", str(path), "--out", str(out), "--backend", "threading", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "mark is readable from query_part" in done.output
    assert (out / "report.html").is_file()
    table = read_results(out)[1]["probing"]
    (out / "report.html").unlink()
    assert run("study", "report", str(out)).exit_code == 0
    assert (out / "report.html").is_file()
    assert run("study", "run", str(path), "--out", str(out)).exit_code == 0
    assert_same({"probing": read_results(out)[1]["probing"]}, {"probing": table})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "--scheduler belongs to --backend dask"),
        (["--backend", "dask"], "needs --scheduler"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_so(planted, tmp_path, arguments, message):
    path = written(tmp_path / "small.yaml", fields(*planted))
    done = run("study", "run", str(path), "--out", str(tmp_path / "out"), *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_reporting_what_is_no_study_is_one_sentence(tmp_path):
    done = run("study", "report", str(tmp_path))
    assert done.exit_code == 2
    assert "holds no study" in done.output


# -- on a cluster ------------------------------------------------------------------------------------


def kill_a_worker_after(cluster: Any, folder: Path, count: int, killed: list[int]) -> None:
    """SIGKILL one of the cluster's worker processes once so many fits are finished; killed gets how many were."""
    while fits(folder) < count:
        time.sleep(0.005)
    os.kill(cluster.workers[0].process.process.pid, signal.SIGKILL)
    killed.append(fits(folder))


def test_a_dask_cluster_that_loses_a_worker_finds_what_loky_finds(planted, tmp_path, record_property):
    path = written(tmp_path / "study.yaml", fields(*planted, seeds=[0, 1]))
    on_dask, on_loky, killed = tmp_path / "dask", tmp_path / "loky", []
    with LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        killer = threading.Thread(target=kill_a_worker_after, args=(cluster, on_dask, 4, killed), daemon=True)
        killer.start()
        scheduler = ["--backend", "dask", "--scheduler", cluster.scheduler_address]
        done = run("study", "run", str(path), "--out", str(on_dask), *scheduler)
        assert done.exit_code == 0, done.output
    killer.join(10)
    record_property("kills", len(killed))
    assert 0 < killed[0] < fits(on_dask)
    done = run("study", "run", str(path), "--out", str(on_loky), "--backend", "loky", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert_same(read_results(on_dask)[1], read_results(on_loky)[1])
