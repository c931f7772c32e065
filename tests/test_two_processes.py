"""Two processes that write the same: one is refused, or the last one's stays whole; kills leave nothing half."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from model import load_model, save_model
from model.checkpoints import replacing
from model.locks import Busy, locked
from model.training import train
from model.training.saving import LOCK, only_one
from probes.study import Study, run_study
from tests.checkpoint_dirs import assert_same, random_model, write_published
from tests.study_runs import fields, planted_corpus
from tests.training_runs import config

ROOT = Path(__file__).parent.parent
KILLS = 3
SAVES = """
import sys
from model import save_model
from tests.checkpoint_dirs import random_model
model = random_model(seed=int(sys.argv[2]))
print("ready", flush=True)
while True:
    save_model(model, sys.argv[1])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_second_training_into_a_folder_is_refused(tmp_path):
    out = tmp_path / "run"
    with only_one(out), pytest.raises(ValueError, match=r"Another process is training into .*/run\. Wait for it"):
        train(config(out, steps=3))
    assert train(config(out, steps=3)).finished  # the lock of a process that is gone holds nobody up
    assert (out / LOCK).exists()


def test_a_second_run_of_a_study_is_refused(tmp_path):
    study = Study.from_dict(fields(*planted_corpus(tmp_path)))
    with locked(tmp_path / "out/study.lock"), pytest.raises(ValueError, match="Another process is at this study in"):
        run_study(study, tmp_path / "out")


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from model.locks import locked\nwith locked(Path(sys.argv[1])):\n"
    )
    process = start(code + "    print('ready', flush=True); time.sleep(600)", str(tmp_path / "a.lock"))
    with pytest.raises(Busy, match="in use"), locked(tmp_path / "a.lock", "in use"):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path / "a.lock"):
        pass


def test_the_lock_of_a_folder_that_is_not_there_makes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone", folder=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_save_over_each_other_leave_one_whole_model_at_every_moment(tmp_path):
    models = {seed: random_model(seed=seed) for seed in (1, 2)}
    save_model(models[1], tmp_path / "m")
    processes = [start(SAVES, str(tmp_path / "m"), str(seed)) for seed in models]
    seen = set()
    end = time.monotonic() + 40
    while time.monotonic() < end and not (len(seen) == 2 and end - time.monotonic() < 38):
        try:
            loaded = load_model(tmp_path / "m", device="cpu")
        except ValueError as error:
            # a reader whose files are replaced while it reads is told which, and reads again
            assert str(tmp_path / "m") in str(error)  # noqa: PT017
            continue
        seed = next(seed for seed, model in models.items() if torch.equal(loaded.embed.W_E, model.embed.W_E))
        seen.add(seed)
    for process in processes:
        assert process.poll() is None, "saving failed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert seen == {1, 2}
    save_model(models[1], tmp_path / "m")
    assert_same(load_model(tmp_path / "m", device="cpu"), models[1])
    assert [path.name for path in tmp_path.iterdir()] == ["m"], "what the killed left is cleared away"


def test_a_model_is_there_after_every_kill_while_it_is_replaced(tmp_path, record_property):
    rng, models = random.Random(time.time_ns()), {seed: random_model(seed=seed) for seed in (1, 2)}
    save_model(models[1], tmp_path / "m")
    record_property("kills", KILLS)
    for _ in range(KILLS):
        process = start(SAVES, str(tmp_path / "m"), "2")
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        loaded = load_model(tmp_path / "m", device="cpu")
        assert any(torch.equal(loaded.embed.W_E, model.embed.W_E) for model in models.values())


def test_a_model_between_its_two_names_comes_back(tmp_path, monkeypatch):
    """Where the system cannot exchange names, a kill between the two steps leaves the old model under another name."""
    model = random_model()
    save_model(model, tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / f".m.{uuid4().hex}.old")
    (tmp_path / f".m.{uuid4().hex}.new").mkdir()
    replacing.clear_dead(tmp_path / "m")
    assert_same(load_model(tmp_path / "m", device="cpu"), model)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_card_and_a_licence_beside_a_model_stay_when_it_is_replaced(tmp_path):
    write_published(random_model(seed=1), tmp_path / "m")
    for name in ("MODEL_CARD.md", "README.md", "LICENSE"):
        (tmp_path / "m" / name).write_text(f"the {name}")
    save_model(random_model(seed=2), tmp_path / "m")
    assert_same(load_model(tmp_path / "m", device="cpu"), random_model(seed=2))
    assert all(
        (tmp_path / "m" / name).read_text() == f"the {name}" for name in ("MODEL_CARD.md", "README.md", "LICENSE")
    )


def test_a_process_without_memory_says_so_and_leaves_nothing(tmp_path):
    """An address space too small for the model: an error, no half-read model, and no file."""
    resource = pytest.importorskip("resource", reason="address spaces are limited on Unix alone")
    save_model(random_model(d_model=240, d_mlp=2000, d_vocab=20_000, n_heads=6), tmp_path / "big")

    def work(pipe) -> None:
        torch.set_num_threads(1)
        size = next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if "VmSize" in x)
        resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + 30 * 2**20,) * 2)
        try:
            load_model(tmp_path / "big", device="cpu")
            pipe.send("loaded")
        except BaseException as error:
            pipe.send(f"{type(error).__name__}: {error}")

    if not Path("/proc/self/status").exists():
        pytest.skip("the size of a process is read from /proc, which Linux alone has")
    here, there = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    said = here.recv()
    process.join()
    assert said.startswith("ModelLoadError"), said
    assert "memory" in said
    assert [path.name for path in tmp_path.iterdir()] == ["big"]
