"""What is fitted: one job for each matrix of features and label, run in any order, in any process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from probes.estimators import PROBES, ProbeKind
from probes.estimators.chunked_rows import ChunkedRows
from probes.estimators.online_code import FRACTIONS, block_of_row, online_bits
from probes.probing.cells import Source, seed_of
from probes.probing.held_out import HeldOut, held_out
from probes.probing.label import Label
from probes.probing.scores import Outcome
from probes.probing.shared import CHOOSING_TOLERANCE, linear_held_out, ridge_held_out
from probes.probing.shared_neighbours import neighbours_held_out

KEY = ("source", "content", "label", "values", "probe", "target")
"""What names a fit: the features and a digest of them, the label and a digest of it, the probe, the target."""
SHARED: dict[str, Callable[..., list[HeldOut]]] = {
    "linear": linear_held_out,
    "ridge": ridge_held_out,
    "neighbours": neighbours_held_out,
}
"""Probes that fit several targets together; each is held to held_out by tests/test_held_out.py."""
FitKey = tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Job:
    """Some probes fitted to some targets of one label, all from the same features.

    wanted: (probe, target) pairs.
    """

    source: Source
    label: Label
    wanted: tuple[tuple[str, str], ...]
    seed: int

    def key(self, probe: str, target: str) -> FitKey:
        return fit_key(self.source, self.label, probe, target)


def fit_key(source: Source, label: Label, probe: str, target: str) -> FitKey:
    return source.key, source.digest, label.name, label.digest, probe, target


def run(jobs: Sequence[Job]) -> Iterator[list[tuple[FitKey, dict[str, Any]]]]:
    """Each job's outcomes as JSON, in the order in which they are done. joblib.parallel_config says where they run."""
    backend, workers = get_active_backend()
    if getattr(backend, "supports_return_generator", False):
        with one_thread():
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
            yield from parallel(map(joblib.delayed(run_job), jobs))
        return
    # such a backend gives its results all together: in small batches, so that little is lost when it is stopped
    size = max(1, joblib.effective_n_jobs(workers)) * 2
    for start in range(0, len(jobs), size):
        yield from joblib.Parallel()(map(joblib.delayed(run_job), jobs[start : start + size]))


def run_job(job: Job) -> list[tuple[FitKey, dict[str, Any]]]:
    """Every fit that a job wants."""
    targets: dict[str, list[str]] = defaultdict(list)
    for probe, target in job.wanted:
        targets[probe].append(target)
    with one_thread():
        X = job.source.load()[job.label.tokens]
        return [
            (job.key(probe, target), Outcome.of(found, job.label, target).to_json())
            for probe, names in targets.items()
            for target, found in zip(names, _fits(PROBES[probe], X, job.label, names, job), strict=True)
        ]


def _fits(probe: ProbeKind, X: NDArray, label: Label, names: Iterable[str], job: Job) -> list[HeldOut]:
    """A probe's held-out predictions of each target, several at once where that is faster."""
    targets, seed = np.stack([label.target(name) for name in names]), seed_of(job.seed, job.source.key, label.name)
    if probe.online:
        rows = ChunkedRows(X, block_of_row(label.documents, FRACTIONS, seed_of(job.seed, label.name)), torch.float32)
        bits, best = online_bits(rows, targets, len(label.classes), probe.candidates, CHOOSING_TOLERANCE)
        return [HeldOut(None, row, (probe.candidates[int(number)],)) for row, number in zip(bits, best, strict=True)]
    if probe.name in SHARED:
        classes = len(label.classes) if label.kind == "classes" else None
        return SHARED[probe.name](X, targets, classes, label.folds, probe.candidates)
    return [held_out(probe, label.kind, X, target, label.folds, seed) for target in targets]


@contextmanager
def one_thread() -> Iterator[None]:
    """Cells run side by side, each on one thread: no two wait for each other, and sums come out the same anywhere."""
    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        if before != 1:
            torch.set_num_threads(before)
