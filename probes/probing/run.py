"""probe_cells: every cell, label and probe, held against every reference, as a tidy table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from probes.estimators import known_probes
from probes.kept import Kept
from probes.probing.cells import Features, ProbeCell, digest
from probes.probing.jobs import KEY, fit_key, run
from probes.probing.label import Label, make_label
from probes.probing.plan import Comparison, Plan, as_column, make_plan
from probes.probing.references import without_probe
from probes.probing.scores import Outcome
from probes.probing.table import COLUMNS, Table


def probe_cells(
    cells: Sequence[ProbeCell],
    labels: Mapping[str, ArrayLike],
    documents: ArrayLike,
    *,
    positions: ArrayLike | None = None,
    token_ids: ArrayLike | None = None,
    residuals: Mapping[str, Features] | None = None,
    probes: Sequence[str] = ("linear",),
    references: Sequence[str] | None = None,
    folds: int = 5,
    confidence: float = 0.95,
    out: Path | str | None = None,
    seed: int = 0,
    progress: bool = False,
    watch: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Ask what can be read from features, with every control beside it.

    Whole documents are held out. The regularisation is chosen by cross-validation within the training documents.
    Cells run through joblib: `with joblib.parallel_config(backend="loky", n_jobs=2)` around the call says where.

    Args:
        cells: what is probed. labels: name -> [token]; floating point = numbers, anything else classes; None, NaN or
            NA = this token has no such label. documents: the document of each token, [token].
        positions: of each token in its document, [token], for the reference "position".
        token_ids: [token], for "token_identity" and "control_task".
        residuals: name -> residual stream [token, feature] that cells refer to.
        probes: names of probes.estimators.PROBES; each label takes those that can have it.
        references: of REFERENCES; None = all for which something was given.
        folds: of the outer cross-validation, at least 3. confidence: of the intervals.
        out: a file (JSON lines) that keeps every finished fit; the same call goes on from there, and so does one with
            other cells, labels, probes or references over the same documents, folds and seed.
        seed: of folds, shuffles, control tasks, resamples and probes.
        progress: show a bar. watch: called with (done, all) fits; what it raises ends the work, and with `out` nothing
            done is lost.
    Returns:
        One row for each cell, label, probe, score and reference: the cell's labels, then COLUMNS.
    Raises:
        ValueError: lengths that differ, features that are not finite or all constant, a label with one class or with
            a class in fewer documents than folds, fewer documents than folds, an unknown probe or reference, labels
            of cells that are not distinct or are columns already, or a file of another work.
    """
    chosen, docs = known_probes(probes), as_column("documents", documents)
    _check(cells, labels, folds, confidence)
    places, ids = (None if x is None else as_column(name, x, len(docs)) for name, x in
                   (("positions", positions), ("token_ids", token_ids)))  # fmt: skip
    made = [make_label(name, values, docs, ids, folds, seed) for name, values in labels.items()]
    plan = make_plan(cells, made, chosen, references, residuals or {}, places, ids, len(docs), seed)
    fingerprint = f"{digest(np.unique(docs, return_inverse=True)[1])} folds {folds} seed {seed}"
    kept = Kept(None if out is None else Path(out), "probing", fingerprint, KEY, "documents, folds or seed")
    _fit(plan, kept, progress, watch)
    return Table(plan, _outcomes(plan, kept, ids), confidence).frame()


def _fit(plan: Plan, kept: Kept, progress: bool, watch: Callable[[int, int], None] | None) -> None:
    """Run the fits that are missing, keeping each as it comes."""
    jobs, total = plan.jobs({key for key in plan.fits if kept.has(*key)}), len(plan.fits)
    done = total - sum(len(job.wanted) for job in jobs)
    with kept, tqdm(total=total, initial=done, desc="probing", unit="fit", disable=not progress) as bar:
        for found in run(jobs) if jobs else ():
            for key, outcome in found:
                kept.add(*key, found=outcome)
            done += len(found)
            bar.update(len(found))
            if watch is not None:
                watch(done, total)


def _outcomes(plan: Plan, kept: Kept, token_ids: NDArray | None) -> Callable[[Comparison, Label, str], Outcome]:
    """What was found for a reference or a cell, a label and a probe."""

    @cache
    def looked_up(label: str, reference: str) -> Outcome:
        (of,) = (one for one in plan.labels if one.name == label)
        return Outcome.of(without_probe(reference, of, token_ids), of, "real")

    @cache
    def fitted(*key: str) -> Outcome:
        return Outcome.from_json(kept.found[key])

    def outcome(of: Comparison, label: Label, probe: str) -> Outcome:
        source, target = of
        return looked_up(label.name, target) if source is None else fitted(*fit_key(source, label, probe, target))

    return outcome


def _check(cells: Sequence[ProbeCell], labels: Mapping[str, ArrayLike], folds: int, confidence: float) -> None:
    if not labels:
        raise ValueError("No labels were given. Give at least one, as name -> values.")
    if folds < 3:
        raise ValueError(f"folds must be at least 3, since penalties are chosen with two folds left out; got {folds}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    if taken := {name for cell in cells for name in cell.labels} & set(COLUMNS):
        raise ValueError(f"Labels named {', '.join(sorted(taken))} are columns of the result. Name them otherwise.")
