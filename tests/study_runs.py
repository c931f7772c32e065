"""A tiny model, a corpus with a planted label, and a study of the two, for the tests of studies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from model.checkpoints import save_model
from probes.corpora import Document, Documents
from probes.harvest import harvest
from tests.models import small_model

ROOT = Path(__file__).parent.parent
PLANTED = "query_part@1.post"
"""The feature that the label `mark` is a function of."""
DOCUMENTS, VOCABULARY = 41, 37


def random_documents(lengths: Sequence[int]) -> Documents:
    """Documents of random token ids for tests.models.small_model."""
    rng = np.random.default_rng(7)
    rows = [tuple(rng.integers(0, VOCABULARY, length).tolist()) for length in lengths]
    return Documents([Document(f"document {number}", None, ids) for number, ids in enumerate(rows)])


def planted_corpus(folder: Path) -> tuple[Path, Path]:
    """A saved model and a JSON-lines corpus of ids with a label `mark` that is linear in PLANTED, a label `noise` that
    is linear in nothing, and a number `height` that is linear in PLANTED too."""
    model, rng = small_model("llama"), np.random.default_rng(5)
    save_model(model, folder / "tiny")
    corpus = random_documents(rng.integers(14, 25, DOCUMENTS).tolist())
    store = harvest(model, corpus, folder / "first look", [PLANTED], [])
    assert store is not None
    values = store.read(PLANTED).reshape(len(store), -1).astype(np.float64)
    height = (values - values.mean(0)) / values.std(0) @ rng.normal(size=values.shape[1])
    marks = np.where(height > np.median(height), "high", "low")
    noise = rng.choice(["left", "right"], len(store))
    path, at = folder / "corpus.jsonl", 0
    with open(path, "w", encoding="utf-8") as file:
        for document in corpus:
            ids = list(document.ids or ())
            here = slice(at, at + len(ids))
            columns = {"mark": marks[here].tolist(), "noise": noise[here].tolist(), "height": height[here].tolist()}
            file.write(json.dumps({"tokens": ids} | columns) + "\n")
            at += len(ids)
    return folder / "tiny", path


def fields(model: Path, corpus: Path, **changes: Any) -> dict[str, Any]:
    """A small study as its file holds it."""
    return {
        "title": "What the tiny model exposes", "models": {"tiny": str(model)}, "data": [str(corpus)],
        "features": [PLANTED, "entropy@1"], "labels": ["mark", "noise"], "folds": 3,
    } | changes  # fmt: skip


def written(path: Path, fields: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """python -m workbench in a process of its own, in the project's folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "workbench", *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def fits(folder: Path) -> int:
    """Finished fits in a study's folder."""
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in folder.glob("fits/*.jsonl"))


def kill_after(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    """SIGKILL once so many fits are finished."""
    while process.poll() is None and fits(folder) < count:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
