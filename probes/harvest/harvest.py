"""harvest: a corpus through a model, chosen features of chosen tokens into a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from model import Engine, HookedDCFormer
from probes.corpora import Corpus, Document
from probes.harvest.estimate import Estimate, check_room
from probes.harvest.job import SHARD_BYTES, Job, library_versions
from probes.harvest.plan import Plan
from probes.harvest.progress import Progress
from probes.harvest.ranks import Ranks, locked
from probes.harvest.request import Keep
from probes.labels import CorpusCounts
from probes.store import Store

COUNTS = "counts.npy"


def harvest(
    model: HookedDCFormer | Engine,
    corpus: Corpus | str | Path,
    out: str | Path,
    features: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    *,
    keep: Keep | None = None,
    dtype: str = "float16",
    products: bool = False,
    context: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    batch_tokens: int | None = None,
    ranks: Ranks | None = None,
    progress: bool = False,
    tell: Callable[[str], object] = lambda said: None,
) -> Store | None:
    """Run a corpus through a model and keep features and labels of its tokens.

    The same call goes on with a harvest that was stopped, however it was stopped, and returns a finished one at once.
    Under torchrun each process makes its own shards; the last to finish writes the manifest.

    Args:
        corpus: or what open_corpus takes: text files, .jsonl files, a saved dataset, task rows.
        out: a new folder, or that of the same harvest.
        features: names such as "query_part@3.post", "residual@*", "parts", see probes.features; None = parts, residual
            stream and predictions, everywhere.
        labels: built-in names or columns of the corpus, see probes.labels; None = all that are built in, and the
            columns that the corpus always has.
        keep: which tokens; None = all. The label that decides is kept too.
        dtype: of the tensors: float16, float32 or float64.
        products: keep parts as H x H matrices even where their factors are smaller.
        context: tokens that the model reads at a time, a longer document in several pieces; None = its context.
        shard_bytes: size of a shard; whole documents share one, so a long document makes a larger one.
        batch_tokens: of one forward pass; None = as measured to be fast.
        ranks: None = as torchrun says.
        progress: show a bar with tokens/s and the time left. tell: is given the size estimate before anything is run.
    Returns:
        The store; None where other processes are still at work on theirs.
    Raises:
        ValueError: bad settings, an empty corpus, a missing column, too small a disk, a feature that is not finite.
        StoreError: the folder holds something else, or a harvest of another model, corpus or other settings.
    """
    job = Job.prepared(model, corpus, features, labels, keep, dtype, products, context, shard_bytes, batch_tokens)
    here, folder = ranks or Ranks.here(), Path(out).expanduser()
    state = Progress(folder)
    state.check_folder()
    if not state.finished:
        with locked(state.inside / f"rank-{here.rank}.lock", wait=False):
            done = _run(job, state, here, progress, tell)
        if not done:
            return None
    store = Store.open(folder)
    job.request.check_same(store.manifest.request, folder)
    state.tidy()
    return store


def estimate(
    model: HookedDCFormer | Engine, corpus: Corpus | str | Path, features: Sequence[str] | None = None,
    labels: Sequence[str] | None = None, **settings: Any,
) -> Estimate:  # fmt: skip
    """How much harvest would run and write; the corpus is read and tokenised, the model does not run.

    Args:
        settings: further ones of harvest.
    """
    given = {"keep": None, "dtype": "float16", "products": False, "context": None, "shard_bytes": SHARD_BYTES,
             "batch_tokens": None} | settings  # fmt: skip
    job = Job.prepared(model, corpus, features, labels, **given)
    plan = job.plan(job.counts())
    return job.estimate(plan)


def _run(job: Job, state: Progress, here: Ranks, progress: bool, tell: Callable[[str], object]) -> bool:
    """Make this process's shards. Returns whether the whole store is finished."""
    with locked(state.inside / "plan.lock"):
        if state.finished:
            return True
        plan, counts, libraries = _planned(job, state)
    size = job.estimate(plan)
    tell(str(size))
    check_room(size, state.folder, state.written(plan))
    mine = [number for number in range(len(plan.shards)) if here.owns(number)]
    missing = [number for number in mine if state.receipt(number) is None]
    total = sum(plan.shards[number].tokens for number in mine)
    done = total - sum(plan.shards[number].tokens for number in missing)
    name = "harvest" if here.world == 1 else f"harvest, rank {here.rank}"
    with tqdm(total=total, initial=done, desc=name, unit="token", unit_scale=True, disable=not progress) as bar:
        maker = job.maker(plan, counts, bar.update)
        for number, documents in _documents(job.corpus, plan, missing):
            state.write(number, plan, *maker.make(plan.shards[number], documents))
    return state.finish(plan, job.described(plan, libraries))


def _planned(job: Job, state: Progress) -> tuple[Plan, CorpusCounts | None, dict[str, str]]:
    """The plan that lies in the folder, or a new one."""
    there = Plan.read(state.inside)
    if there is not None:
        plan, request, libraries = there
        job.request.check_same(request, state.folder)
        path = state.inside / COUNTS
        return plan, CorpusCounts(np.load(path)) if path.is_file() else None, libraries
    counts = job.counts()
    plan = job.plan(counts)
    if counts is not None:
        np.save(state.inside / COUNTS, counts.counts)
    plan.write(state.inside, job.request.to_json(), library_versions())
    return plan, counts, library_versions()


def _documents(corpus: Corpus, plan: Plan, shards: Sequence[int]) -> Iterator[tuple[int, Iterator[Document]]]:
    """Each of these shards with its documents; those of other shards are passed over without being parsed."""
    records = corpus.records()
    at = 0
    for number in shards:
        shard = plan.shards[number]
        taken = list(islice(records, shard.first_document - at, shard.first_document - at + shard.documents))
        at = shard.first_document + shard.documents
        yield number, (record() for record in taken)
