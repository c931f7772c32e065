"""A clock that jumps changes no bit; a file that vanishes while it is in use is named, with what to do."""

from __future__ import annotations

import itertools
import shutil
import time

import pytest
import torch

from model import load_model, save_model
from model.checkpoints import ModelLoadError, load
from model.training import train
from model.training.saving import STATE
from probes import Store
from probes.harvest import harvest
from probes.study import Study, run_study
from tests.checkpoint_dirs import random_model
from tests.harvest_runs import files_of, id_documents
from tests.models import small_model
from tests.study_runs import fields, planted_corpus
from tests.training_runs import config


@pytest.fixture
def jumping_clock(monkeypatch):
    """Years forward and back at every look, and seconds that stand still."""
    years = itertools.cycle([0, 20 * 365 * 86_400.0, -20 * 365 * 86_400.0])
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + next(years))
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks) % 3))


def test_a_clock_that_jumps_changes_no_bit_of_a_harvest_a_study_or_a_run(tmp_path, jumping_clock, monkeypatch):
    study = Study.from_dict(fields(*planted_corpus(tmp_path), references=["constant"], random_init=False))

    def everything(out) -> None:
        harvest(small_model(), id_documents((5, 9)), out / "store", ["residual"], shard_bytes=3000)
        run_study(study, out / "study")
        train(config(out / "run", steps=3))

    everything(tmp_path / "jumping")
    monkeypatch.undo()
    everything(tmp_path / "steady")
    assert files_of(tmp_path / "jumping/store") == files_of(tmp_path / "steady/store")
    assert files_of(tmp_path / "jumping/run/final") == files_of(tmp_path / "steady/run/final")
    name = "study/results.csv"
    assert (tmp_path / "jumping" / name).read_bytes() == (tmp_path / "steady" / name).read_bytes()


def test_weights_that_vanish_between_the_configuration_and_the_reading_are_named(tmp_path, monkeypatch):
    save_model(random_model(), tmp_path / "m")
    true = load.check_tensors

    def and_then_gone(*given) -> None:
        true(*given)
        (tmp_path / "m/model.safetensors").unlink()

    monkeypatch.setattr(load, "check_tensors", and_then_gone)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors: .* cannot be read .*Fetch the file again"):
        load_model(tmp_path / "m", device="cpu")


def test_a_shard_that_vanishes_from_an_open_store_is_named(tmp_path):
    made = harvest(small_model(), id_documents((5, 9)), tmp_path / "store", ["residual@1"], shard_bytes=3000)
    assert made is not None
    store = Store.open(tmp_path / "store")
    for end, read in (("safetensors", lambda: store.read("residual@1")), ("parquet", lambda: store.table())):
        (tmp_path / "store" / f"shard-00000.{end}").unlink()
        with pytest.raises(ValueError, match=rf"shard-00000\.{end} .*Put it back from a copy, or harvest again"):
            read()


def test_a_state_that_vanishes_starts_anew_and_a_folder_that_vanishes_is_said(tmp_path):
    out = tmp_path / "run"
    train(config(out, steps=3))
    first = torch.load(out / STATE, weights_only=True)["model"]
    (out / STATE).unlink()
    train(config(out, steps=3))
    again = torch.load(out / STATE, weights_only=True)["model"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("a file where the folder was")
    with pytest.raises((ValueError, OSError), match="run"):
        train(config(out, steps=3))
