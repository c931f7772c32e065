"""A disk that fills up or cannot be written: the sentence says so, what was finished is whole, and the work goes on."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from model import load_model, save_model
from model.checkpoints import ModelLoadError
from model.training import train
from model.training.metrics import read_metrics
from model.training.saving import STATE
from probes import Store
from probes.harvest import harvest
from probes.study import Study, read_results, run_study
from tests.checkpoint_dirs import assert_same, random_model
from tests.faults.disks import FailingWrites, read_only, resized, small_disk
from tests.harvest_runs import files_of, id_documents
from tests.models import small_model
from tests.study_runs import fields, planted_corpus
from tests.training_runs import config

SAYS = r"(could not be written|No space left|cannot be made|Read-only)"
HARVEST = {"features": ["residual", "parts"], "shard_bytes": 3000}


def until_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work, check) -> int:
    """Fail the first step of writing, then the second, ...: each time the message says so and `check` holds; at last
    `work` comes to its end. Returns how many faults there were."""
    for number in itertools.count(1):
        with FailingWrites(tmp_path / "out", number).applied(monkeypatch) as failing:
            try:
                work()
            except (ValueError, OSError) as error:
                assert "\n" not in str(error)  # noqa: PT017
                assert "space" in str(error).lower(), error  # noqa: PT017
            else:
                assert failing.steps < number, "a step of writing failed and nobody was told"
                return number - 1
        check()
    raise AssertionError


def test_a_model_is_saved_whole_or_the_old_one_stays_whichever_write_fails(tmp_path, monkeypatch, record_property):
    old, new = random_model(seed=1), random_model(seed=2)
    save_model(old, tmp_path / "out/m")

    def check() -> None:
        loaded = load_model(tmp_path / "out/m", device="cpu")
        held = old if torch.equal(loaded.embed.W_E, old.embed.W_E) else new
        assert_same(loaded, held)

    faults = until_it_works(tmp_path, monkeypatch, lambda: save_model(new, tmp_path / "out/m"), check)
    record_property("failed writes", faults)
    assert faults >= 4
    assert_same(load_model(tmp_path / "out/m", device="cpu"), new)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m"]


def test_a_harvest_goes_on_to_the_same_bytes_whichever_write_fails(tmp_path, monkeypatch, record_property):
    model = small_model()

    def work(out: Path = tmp_path / "out/store") -> None:
        harvest(model, id_documents((5, 9)), out, **HARVEST)

    def nothing_half_written_is_read() -> None:
        try:
            Store.open(tmp_path / "out/store").verify()
        except ValueError as error:
            assert "is not finished" in str(error) or "is no store" in str(error)  # noqa: PT017

    work(tmp_path / "whole")
    faults = until_it_works(tmp_path, monkeypatch, work, nothing_half_written_is_read)
    record_property("failed writes", faults)
    assert faults >= 8
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out/store")


def test_a_training_run_goes_on_to_the_same_bits_whichever_write_fails(tmp_path, monkeypatch, record_property):
    settings = {"steps": 3, "save_every": 1, "kept_checkpoints": 1}
    train(config(tmp_path / "whole", **settings))
    done = 0

    def no_saved_step_is_lost() -> None:
        nonlocal done
        path = tmp_path / "out" / STATE
        if path.exists():
            step = torch.load(path, weights_only=True)["step"]
            assert step >= done
            done = step

    faults = until_it_works(
        tmp_path, monkeypatch, lambda: train(config(tmp_path / "out", **settings)), no_saved_step_is_lost
    )
    record_property("failed writes", faults)
    assert faults >= 8
    whole, resumed = (load_model(tmp_path / name / "final", device="cpu") for name in ("whole", "out"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [line["loss"] for line in read_metrics(tmp_path / "out")] == [
        line["loss"] for line in read_metrics(tmp_path / "whole")
    ]


def test_a_study_goes_on_to_the_same_tables_whichever_write_fails(tmp_path, monkeypatch, record_property):
    study = Study.from_dict(
        fields(*planted_corpus(tmp_path), references=["constant"], random_init=False, labels=["mark"])
    )
    run_study(study, tmp_path / "whole")

    def what_is_read_is_whole() -> None:
        try:
            _, tables, _ = read_results(tmp_path / "out")
        except ValueError as error:
            assert re.search(r"is not finished|holds no study", str(error))  # noqa: PT017
        else:
            pd.testing.assert_frame_equal(tables["probing"], read_results(tmp_path / "whole")[1]["probing"])

    faults = until_it_works(tmp_path, monkeypatch, lambda: run_study(study, tmp_path / "out"), what_is_read_is_whole)
    record_property("failed writes", faults)
    assert faults >= 8
    assert (tmp_path / "out/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()


# -- real file systems -----------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["0k", "16k", "40k"])
def test_on_a_disk_that_is_full_a_model_that_was_there_stays(tmp_path, room):
    old, new = random_model(seed=1), random_model(seed=2)
    with small_disk(tmp_path / "disk", "1m") as disk:
        save_model(old, disk / "m")
        filled = shutil.disk_usage(disk).free - int(room[:-1]) * 1024
        (disk / "ballast").write_bytes(bytes(filled))
        with pytest.raises(
            ModelLoadError, match=rf"{disk}/m could not|could not be written to {disk}/m .*What stood there"
        ):
            save_model(new, disk / "m")
        assert_same(load_model(disk / "m", device="cpu"), old)
        (disk / "ballast").unlink()
        save_model(new, disk / "m")
        assert_same(load_model(disk / "m", device="cpu"), new)


def test_on_a_disk_that_is_full_a_harvest_and_a_run_go_on_after_room_is_made(tmp_path):
    whole = harvest(small_model(), id_documents((5, 9)), tmp_path / "whole", **HARVEST)
    assert whole is not None
    train(config(tmp_path / "run", steps=3))
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises((ValueError, OSError), match=SAYS + "|needs"):
            train(config(disk / "run", steps=3))
        resized(disk, "8m")
        train(config(disk / "run", steps=3))
        assert files_of(disk / "run" / "final") == files_of(tmp_path / "run" / "final")
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 20 * 1024))
        with pytest.raises((ValueError, OSError), match=SAYS + "|free"):
            harvest(small_model(), id_documents((5, 9)), disk / "store", **HARVEST)
        (disk / "ballast").unlink()
        harvest(small_model(), id_documents((5, 9)), disk / "store", **HARVEST)
        assert files_of(disk / "store") == files_of(tmp_path / "whole")


def test_on_a_read_only_disk_everything_says_so_and_what_is_there_is_read(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        model = random_model()
        save_model(model, disk / "m")
        harvest(small_model(), id_documents((5,)), disk / "store", ["residual"])
        read_only(disk)
        try:
            for work in (
                lambda: save_model(model, disk / "m"),
                lambda: save_model(model, disk / "other"),
                lambda: train(config(disk / "run")),
                lambda: harvest(small_model(), id_documents((5,)), disk / "new", ["residual"]),
            ):
                with pytest.raises((ValueError, OSError), match=r"[Rr]ead-only") as caught:
                    work()
                assert str(disk) in str(caught.value)
                assert "\n" not in str(caught.value)
            assert_same(load_model(disk / "m", device="cpu"), model)
            Store.open(disk / "store").verify()
            harvest(small_model(), id_documents((5,)), disk / "store", ["residual"])  # finished: nothing to write
        finally:
            read_only(disk, on=False)
