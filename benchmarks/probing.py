"""Seconds of a probing study with all its controls, against scikit-learn one by one: python -m benchmarks.probing.

The study: 20,000 tokens in documents, 4 layers x 2 sites x 5 kinds of features x 3 labels (4, 8 and 12 classes), each
cell with shuffled labels, a control task, position, the residual stream, its principal components and a random
projection of it, and a model with random weights. Features are synthetic, of the sizes of a model with 8 heads (64
entries of a mixing matrix, 48 of its factors, 8 gates) and 128 dimensions, and lie near a subspace as real ones do.

"One by one" is what a script would do: for each cell, label and target, for each outer fold, scikit-learn's
GridSearchCV over the same penalties and the same grouped folds, of a StandardScaler and a LogisticRegression with its
defaults. It is timed on some cells, which are drawn at random, and multiplied up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import click
import joblib
import numpy as np
import pandas as pd
import psutil
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.timing import machine, markdown_table
from probes.estimators import PROBES
from probes.probing import ProbeCell, probe_cells
from probes.probing.held_out import HeldOut
from probes.probing.jobs import one_thread
from probes.probing.label import Label, make_label
from probes.probing.shared import linear_held_out

LAYERS, SITES = 4, ("pre", "post")
FEATURES = {"mixing query part": 64, "mixing key part": 64, "query factors": 48, "key factors": 48, "gates": 16}
CLASSES = {"part of speech": 12, "role": 8, "position class": 4}
WIDTH, RANK, TYPES = 128, 24, 800


@dataclass(frozen=True)
class Study:
    """Everything that probe_cells is given."""

    cells: list[ProbeCell]
    labels: dict[str, NDArray]
    documents: NDArray
    positions: NDArray
    token_ids: NDArray
    residuals: dict[str, NDArray]


def study(tokens: int, seed: int = 0) -> Study:
    """A synthetic one: features are squashed linear functions of a residual stream that says the labels in part."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 80, tokens // 20)
    documents = np.repeat(np.arange(len(lengths)), lengths)[:tokens]
    positions = np.concatenate([np.arange(length) for length in lengths])[:tokens]
    token_ids = (TYPES * rng.beta(0.4, 2.0, tokens)).astype(int)
    meaning = rng.normal(size=(TYPES, RANK))[token_ids] + rng.normal(size=(tokens, RANK))
    labels = {
        name: (meaning @ rng.normal(size=(RANK, K)) * 0.5 + rng.gumbel(size=(tokens, K))).argmax(1)
        for name, K in CLASSES.items()
    }
    residuals = {f"layer {layer}": _stream(meaning, rng) for layer in range(LAYERS)}
    cells = [
        ProbeCell(
            {"layer": layer, "site": site, "feature": name},
            _features(residuals[f"layer {layer}"], width, rng),
            residual=f"layer {layer}",
            random_init=_features(_stream(meaning, rng), width, rng),
        )
        for layer in range(LAYERS)
        for site in SITES
        for name, width in FEATURES.items()
    ]
    return Study(cells, labels, documents, positions, token_ids, residuals)


def _stream(meaning: NDArray, rng: np.random.Generator) -> NDArray:
    """[token, WIDTH]: the meaning along some directions, and a spectrum that falls off."""
    spectrum = np.arange(1, WIDTH + 1) ** -0.7
    noise = rng.normal(size=(len(meaning), WIDTH)) * spectrum
    mixed = meaning @ rng.normal(size=(RANK, WIDTH)) / np.sqrt(RANK) + noise @ rng.normal(size=(WIDTH, WIDTH))
    return mixed.astype(np.float32)


def _features(stream: NDArray, width: int, rng: np.random.Generator) -> NDArray:
    hidden = np.tanh(stream @ rng.normal(size=(WIDTH, 32)) / np.sqrt(WIDTH))
    return (hidden @ rng.normal(size=(32, width)) + 0.05 * rng.normal(size=(len(stream), width))).astype(np.float32)


def one_by_one(X: NDArray, y: NDArray, folds: NDArray) -> NDArray:
    """Held-out predictions by scikit-learn's defaults: a grid search with grouped folds in each outer fold."""
    predicted = np.empty_like(y)
    for fold in np.unique(folds):
        train = folds != fold
        penalties = [1 / (penalty * train.sum()) for penalty in PROBES["linear"].candidates]
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression()),
            {"logisticregression__C": penalties},
            scoring="neg_log_loss",
            cv=PredefinedSplit(folds[train]),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            predicted[~train] = search.fit(X[train], y[train]).predict(X[~train])
    return predicted


def seconds(run: Callable[[], NDArray]) -> tuple[float, NDArray]:
    """Of this process's CPU time, which a busy machine does not stretch as it does the clock's."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def _predicted(found: list[HeldOut]) -> NDArray:
    """[target, token]"""
    return np.stack([one.predicted for one in found if one.predicted is not None])


def compared(given: Study, sample: int, seed: int) -> pd.DataFrame:
    """Both ways on some cells and labels, one thread each, all three targets."""
    rng = np.random.default_rng(seed)
    names = list(given.labels)
    rows = []
    for number in rng.choice(len(given.cells), sample, replace=False):
        cell, name = given.cells[number], names[int(rng.integers(len(names)))]
        label = make_label(name, given.labels[name], given.documents, given.token_ids, 5, 0)
        rows.append({**cell.labels, "label": name, **_both(np.asarray(cell.X), label)})
        click.echo(f"  {rows[-1]}")
    return pd.DataFrame(rows)


def _both(X: NDArray, label: Label) -> dict[str, float]:
    targets = np.stack([label.values, label.fakes["shuffled_labels"], label.fakes["control_task"]])
    K, penalties = len(label.classes), PROBES["linear"].candidates
    with one_thread():
        fast, ours = seconds(lambda: _predicted(linear_held_out(X, targets, K, label.folds, penalties)))
        slow, theirs = seconds(lambda: np.stack([one_by_one(X, target, label.folds) for target in targets]))
    accuracies = {
        name: float((found[target] == targets[target]).mean())
        for name, found, target in (
            ("accuracy", ours, 0), ("theirs", theirs, 0), ("control accuracy", ours, 2), ("their control", theirs, 2)
        )
    }  # fmt: skip
    return {"seconds": fast, "one by one": slow, **accuracies}


@click.command()
@click.option("--tokens", default=20_000, show_default=True)
@click.option("--sample", default=4, show_default=True, help="Cells that are also fitted one by one.")
@click.option("--jobs", default=2, show_default=True, help="Processes of the whole study.")
@click.option("--probe", "probes", default=("linear",), multiple=True, show_default=True, help="Of the whole study.")
def main(tokens: int, sample: int, jobs: int, probes: tuple[str, ...]) -> None:
    """Both times and both accuracies."""
    given = study(tokens)
    click.echo(f"{machine(torch.device('cpu'))}")
    table = compared(given, sample, seed=0)
    fast, slow = table["seconds"].mean(), table["one by one"].mean()
    with joblib.parallel_config(backend="loky", n_jobs=jobs):
        took, cpu, found = seconds_of_study(given, probes)
    fits = 3 * len(given.cells) * len(given.labels)
    rows = [
        ["one cell and label, 3 targets (CPU s)", f"{fast:.2f}", f"{slow:.1f}"],
        ["mean accuracy of the labels", f"{table.accuracy.mean():.4f}", f"{table.theirs.mean():.4f}"],
        ["mean accuracy of the control task", f"{table['control accuracy'].mean():.4f}",
         f"{table['their control'].mean():.4f}"],
        [f"{fits} nested fits of the cells (CPU s)", f"{fast * fits / 3:.0f}", f"{slow * fits / 3:.0f}"],
        ["whole study with all references (CPU s of all processes)", f"{cpu:.0f}", "-"],
        [f"the same in {jobs} processes, by the clock (s)", f"{took:.0f}", "-"],
    ]  # fmt: skip
    click.echo(markdown_table(["", "probe_cells", "scikit-learn one by one"], rows))
    click.echo(f"{slow / fast:.1f} times as fast a fit; {len(found)} rows in the table.")


def seconds_of_study(given: Study, probes: tuple[str, ...]) -> tuple[float, float, pd.DataFrame]:
    """(By the clock, CPU time of this process and its workers, the table.)"""
    start, before = time.perf_counter(), _cpu_seconds()
    found = probe_cells(
        given.cells, given.labels, given.documents, positions=given.positions, token_ids=given.token_ids,
        residuals=given.residuals, probes=probes, progress=True,
    )  # fmt: skip
    return time.perf_counter() - start, _cpu_seconds() - before, found


def _cpu_seconds() -> float:
    """Of this process and the workers that it has now; loky keeps them until the end."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(t.user + t.system for t in times)


if __name__ == "__main__":
    main()
