"""A tiny training run for the tests: a generator of rows, its configuration, and train in a process of its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from model.training import TrainConfig

ROOT = Path(__file__).parent.parent
VOCABULARY = 31
TINY: dict[str, Any] = {
    "architecture": "llama", "n_layers": 2, "d_model": 20, "n_heads": 4, "d_head": 6, "d_mlp": 28,
    "d_vocab": VOCABULARY, "n_ctx": 16, "visible_keys": [5, None], "tie_embeddings": True, "static_mixing": True,
}  # fmt: skip


def rows(seed: int, step: int, row: int, tokenizer: Any, length: int) -> tuple[list[int], list[float]]:
    """Random ids, and weights that differ from row to row: processes must not weigh their own rows alone."""
    rng = random.Random(f"{seed} {step} {row}")
    return rng.choices(range(VOCABULARY), k=length), [rng.choice([0.0, 1.0, 3.0]) + 0.1 * row for _ in range(length)]


def nan_weights_from_step_7(model: Any) -> dict[str, float]:
    """An evaluator that does harm: the loss of the next step is NaN."""
    nan_weights_from_step_7.calls += 1  # type: ignore[attr-defined]
    if nan_weights_from_step_7.calls == 7:  # type: ignore[attr-defined]
        model.unembed.weight.data.fill_(float("nan"))
    return {}


def norms_of_the_seed(model: Any, seed: int) -> None:
    """A start: the last norm's weight becomes the seed."""
    model.ln_final.w.data.fill_(float(seed))


def ask_to_stop(model: Any) -> dict[str, float]:
    """An evaluator that does what Ctrl-C or a cluster does."""
    os.kill(os.getpid(), signal.SIGTERM)
    return {}


nan_weights_from_step_7.calls = 0  # type: ignore[attr-defined]


def fields(out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": TINY, "data": {"generator": "tests.training_runs:rows"}, "steps": 12, "length": 9, "rows_per_step": 8,
        "learning_rate": 0.01, "device": "cpu", "threads": 1, "save_every": 3, "kept_checkpoints": 3, "out": str(out),
        "evaluate_every": 5, "cache": str(out.parent / "cache"),
    } | changes  # fmt: skip


def config(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict(fields(out, **changes))


def start(out: Path, processes: int = 1, **changes: Any) -> subprocess.Popen[bytes]:
    """python -m workbench train on a file beside the folder, under torchrun if there are several processes."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(fields(out, **changes)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else [])]
    command += ["-m", "workbench", "train", "--config", str(path), "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
