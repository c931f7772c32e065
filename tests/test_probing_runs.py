"""Where and in which order cells run changes nothing; a stopped run goes on."""

import json

import joblib
import numpy as np
import pandas as pd
import pytest

from probes.probing import ProbeCell, probe_cells
from probes.probing.cells import Source, digest
from probes.probing.jobs import run_job
from tests.probing_data import corpus, linear_classes

TEXT = corpus(documents=20, seed=0)
RESIDUAL = TEXT.noise(9)
PROBES = ["linear", "ridge", "online_code"]


class Loaded:
    """Features that are loaded where they are needed, as from a store."""

    def __init__(self, columns: tuple[int, ...]):
        self.columns = columns

    def __call__(self) -> np.ndarray:
        return RESIDUAL[:, list(self.columns)]


def cells():
    return [
        ProbeCell({"layer": 0}, RESIDUAL[:, :4], residual="stream", random_init=TEXT.rng.normal(size=(len(TEXT), 4))),
        ProbeCell({"layer": 1}, Loaded((2, 5)), residual="stream"),
    ]


CELLS = cells()
LABELS = {"y": linear_classes(RESIDUAL[:, :3], 3, TEXT.rng), "loss": RESIDUAL[:, 5] + TEXT.noise(1)[:, 0]}


def probe(chosen=CELLS, labels=LABELS, probes=PROBES, **options):
    return probe_cells(
        chosen, labels, TEXT.documents, positions=TEXT.positions, token_ids=TEXT.token_ids, probes=probes,
        residuals={"stream": RESIDUAL}, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return probe()


def ordered(table):
    return table.sort_values([*table.columns[:4], "score", "against"]).reset_index(drop=True)


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_the_result_is_the_same_in_any_backend(whole, backend):
    """Two processes, two threads, and a backend that gives its results all together."""
    with joblib.parallel_config(backend=backend, n_jobs=2):
        pd.testing.assert_frame_equal(probe(), whole)


def test_probes_that_start_at_random_give_the_same_anywhere():
    given = {"chosen": CELLS[1:], "labels": {"y": LABELS["y"]}, "probes": ["mlp"], "references": ["constant"]}
    here = probe(**given)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        pd.testing.assert_frame_equal(probe(**given), here)


def test_the_result_is_the_same_in_any_order(whole):
    found = probe(CELLS[::-1], dict(reversed(LABELS.items())), PROBES[::-1])
    pd.testing.assert_frame_equal(ordered(found), ordered(whole), rtol=1e-12)


def test_a_cell_alone_has_the_values_that_it_has_among_others(whole):
    alone = probe(CELLS[1:])
    among = whole[whole.layer == 1].reset_index(drop=True)
    corrected = ["p_holm", "p_bh"]
    pd.testing.assert_frame_equal(alone.drop(columns=corrected), among.drop(columns=corrected))


def test_another_seed_is_another_split(whole):
    assert not np.allclose(probe(seed=1).value, whole.value)


class Enough(Exception):
    pass


def test_a_stopped_run_goes_on(whole, tmp_path, monkeypatch):
    out = tmp_path / "fits.jsonl"

    def stop(done, total):
        if done >= 12:
            raise Enough

    with pytest.raises(Enough):
        probe(out=out, watch=stop)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])  # killed while it wrote
    ran = count_fits(monkeypatch)
    pd.testing.assert_frame_equal(probe(out=out), whole)
    kept = [json.loads(line) for line in lines[1:-1]]
    keys = {(line["source"], line["label"], line["probe"], line["target"]) for line in kept}
    assert len(keys) > 10
    assert not keys & set(ran)  # nothing is done twice
    ran.clear()
    pd.testing.assert_frame_equal(probe(out=out), whole)
    assert not ran


def count_fits(monkeypatch):
    ran = []

    def counted(job):
        ran.extend((job.source.key, job.label.name, *pair) for pair in job.wanted)
        return run_job(job)

    monkeypatch.setattr("probes.probing.jobs.run_job", counted)
    return ran


def test_a_file_serves_further_cells_labels_and_probes(whole, tmp_path, monkeypatch):
    out = tmp_path / "fits.jsonl"
    probe(CELLS[:1], {"y": LABELS["y"]}, ["linear"], out=out)
    ran = count_fits(monkeypatch)
    pd.testing.assert_frame_equal(probe(out=out), whole)
    assert ran
    assert not {pair for pair in ran if pair[0] == 'cell {"layer": 0}' and pair[1:3] == ("y", "linear")}


def test_features_that_changed_are_fitted_anew(tmp_path):
    out = tmp_path / "fits.jsonl"
    first = probe(CELLS[:1], probes=["linear", "ridge"], out=out)
    changed = ProbeCell({"layer": 0}, RESIDUAL[:, 4:8], residual="stream", random_init=CELLS[0].random_init)
    again = probe([changed], probes=["linear", "ridge"], out=out)
    pd.testing.assert_frame_equal(again, probe([changed], probes=["linear", "ridge"]))
    assert not np.allclose(again.value, first.value)


def test_a_file_of_other_documents_folds_or_seed_is_refused(tmp_path):
    out = tmp_path / "fits.jsonl"
    probe(CELLS[:1], probes=["linear", "ridge"], out=out)
    with pytest.raises(ValueError, match=r"fits.jsonl holds another probing \(other documents, folds or seed\)"):
        probe(CELLS[:1], probes=["linear", "ridge"], out=out, seed=3)


def test_references_that_cells_share_are_fitted_once(monkeypatch):
    ran = count_fits(monkeypatch)
    probe(probes=["linear", "ridge"])
    assert len(ran) == len(set(ran))
    assert sum(key[0] == "residual stream" for key in ran) == 3  # linear and ridge of y, ridge of loss


def test_a_residual_stream_is_reduced_to_as_many_dimensions_as_the_cell_has():
    stream = Source("residual stream", RESIDUAL, digest(RESIDUAL), 9)
    pca = stream.reduced_to("pca", 4, seed=0).load()
    assert pca.shape == (len(TEXT), 4)
    centred = RESIDUAL - RESIDUAL.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(pca), np.abs(centred @ directions[:4].T), atol=1e-8)
    projection = stream.reduced_to("projection", 4, seed=3).load()
    np.testing.assert_array_equal(projection, stream.reduced_to("projection", 4, seed=3).load())
    np.testing.assert_allclose(projection, RESIDUAL @ np.linalg.lstsq(RESIDUAL, projection)[0], atol=1e-8)
