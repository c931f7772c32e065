"""Corpora, models and processes for the tests of harvests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probes.corpora import Document, Documents
from probes.store.manifest import MANIFEST, UNFINISHED

ROOT = Path(__file__).parent.parent
LENGTHS = (5, 31, 1, 24, 13, 60)
"""Of documents for a model of 24 tokens: shorter, longer, one token, exactly a context, several contexts."""


def id_documents(lengths: Sequence[int] = LENGTHS, vocabulary: int = 37, **columns: Any) -> Documents:
    """Documents of random token ids for tests.models.small_model, which has no tokenizer."""
    rng = np.random.default_rng(7)
    return Documents(
        [
            Document(f"document {number}", None, tuple(rng.integers(0, vocabulary, length).tolist()), columns)
            for number, length in enumerate(lengths)
        ]
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(out: Path, *more: str, data: str = "tasks:rows=1,rules=0-11") -> list[str]:
    """A harvest of the bundled model in a dozen shards."""
    return ["-m", "workbench", "harvest", "--data", data, "--out", str(out), "--shard-mb", "0.2", "--threads", "1",
            "--batch-tokens", "512", *more]  # fmt: skip


def start(arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """A Python process of its own in the project's folder."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def start_ranks(arguments: list[str], processes: int) -> subprocess.Popen[bytes]:
    """The same under torchrun."""
    return start(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments])


def receipts(folder: Path) -> int:
    """How many shards of an unfinished harvest are finished."""
    return len(list((folder / UNFINISHED).glob("shard-*.json")))


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()
