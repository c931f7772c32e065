"""Stopped runs go on as if nothing had happened, and several processes train what one trains."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from model import load_model
from model.training import train
from model.training.metrics import read_metrics
from model.training.saving import STATE
from tests.training_runs import config, start


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / STATE, weights_only=True)


def tensors_of(tree: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in nested dicts, by its path."""
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    items = tree.items() if isinstance(tree, dict) else []
    return {path: tensor for key, part in items for path, tensor in tensors_of(part, f"{name}/{key}").items()}


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out)]


def test_a_run_killed_three_times_ends_with_the_same_bits(tmp_path, record_property):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config(whole, steps=60))
    rng = random.Random(time.time_ns())
    points = sorted(rng.sample(range(2, 58), 3))
    for point in points:
        process = start(killed, steps=60)
        while process.poll() is None and len(read_metrics(killed)) < point:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    record_property("kills", len(points))
    assert not (killed / "final").exists(), points
    last = start(killed, steps=60)
    assert b"final" in last.communicate()[0]
    assert last.returncode == 0
    first, second = tensors_of(state_of(whole)), tensors_of(state_of(killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first), points
    assert losses(whole) == losses(killed), points
    models = load_model(whole / "final"), load_model(killed / "final")
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_a_stop_request_ends_after_the_step_and_the_run_goes_on(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config(whole))
    outcome = train(config(stopped, evaluator="tests.training_runs:ask_to_stop"))
    assert (outcome.step, outcome.finished, outcome.model) == (5, False, None)
    assert state_of(stopped)["step"] == 5
    assert train(config(stopped)).finished
    assert losses(stopped) == losses(whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_lines_of_lost_steps_are_removed(tmp_path):
    stopped = tmp_path / "stopped"
    train(config(stopped, evaluator="tests.training_runs:ask_to_stop"))
    with open(stopped / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    train(config(stopped))
    assert [line["step"] for line in read_metrics(stopped)] == list(range(1, 13))


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the manual"),
              RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_a_state_for_which_memory_runs_out_is_not_called_damaged(error, tmp_path, monkeypatch):
    train(config(tmp_path, steps=2))
    before = (tmp_path / STATE).read_bytes()

    def run_out(*arguments, **options):
        raise error

    monkeypatch.setattr("model.training.saving.set_optimizer_state_dict", run_out)
    with pytest.raises(ValueError, match=r"not enough memory to go on from .*resume\.pt \(.+\)\. The file") as refused:
        train(config(tmp_path, steps=2))
    assert "damaged" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (tmp_path / STATE).read_bytes() == before


def test_a_damaged_state_is_refused(tmp_path):
    out = tmp_path / "out"
    train(config(out, steps=3))
    (out / STATE).write_bytes(b"half")
    with pytest.raises(ValueError, match=r"resume\.pt is damaged"):
        train(config(out, steps=3))


def assert_same_training(out: Path, whole: Path) -> None:
    assert losses(out) == pytest.approx(losses(whole), rel=1e-5)
    one, two = tensors_of(state_of(whole)), tensors_of(state_of(out))
    assert one.keys() == two.keys()
    for name in one:
        if not name.startswith("/random"):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5, msg=name)


def test_two_replicated_processes_train_what_one_does(tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    held_out = {"evaluation": {"generator": "tests.training_runs:rows"}, "evaluation_rows": 6}
    train(config(whole, **held_out))
    process = start(shared, processes=2, parallel="ddp", accumulate=2, **held_out)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert_same_training(shared, whole)
    one, two = (
        [line["held_out_loss"] for line in read_metrics(out) if "held_out_loss" in line] for out in (whole, shared)
    )
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-5)


def test_a_run_of_one_process_goes_on_sharded_over_two(tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    train(config(whole))
    train(config(shared, evaluator="tests.training_runs:ask_to_stop"))
    process = start(shared, processes=2, parallel="fsdp", accumulate=2)
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert_same_training(shared, whole)
    assert load_model(shared / "final").cfg.tie_embeddings
