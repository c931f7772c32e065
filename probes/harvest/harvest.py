"""harvest: a corpus through a model, chosen features of chosen tokens into a store."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from model import Engine, HookedDCFormer
from model.config import dtype_name
from probes.corpora import Corpus, Document, open_corpus
from probes.features import Feature, PredictionFeature, default_features, resolve
from probes.harvest.encoding import Encoder
from probes.harvest.estimate import Estimate, check_room, estimated, row_bytes
from probes.harvest.plan import Plan, count_tokens, make_plan
from probes.harvest.progress import Progress
from probes.harvest.ranks import Ranks, locked
from probes.harvest.request import Keep, Request
from probes.harvest.shard import TORCH_DTYPES, ShardMaker
from probes.harvest.stored import described, predictions_of, tensors_of
from probes.labels import CorpusCounts, Label, default_labels, resolve_labels
from probes.labels.columns import column_label
from probes.labels.label import NUMBER
from probes.store import DerivedLabel, Manifest, Store, StoredLabel
from probes.store.store import COLUMNS
from probes.weights import weights_hash

SHARD_BYTES = 128 * 2**20
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of one forward pass, by device; beyond this a CPU gains nothing."""
COUNTS = "counts.npy"
LIBRARIES = ("torch", "numpy", "pyarrow", "safetensors", "transformers", "tokenizers")


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
        keep: which tokens; None = all.
        dtype: of the tensors: float16, float32 or float64.
        products: keep parts as H x H matrices even where their factors are smaller.
        context: tokens that the model reads at a time, a document longer than this in several pieces; None = its context.
        shard_bytes: size of a shard; whole documents share one, so a long document makes a larger one.
        batch_tokens: of one forward pass; None = as measured to be fast.
        ranks: None = as torchrun says.
        progress: show a bar with tokens/s and the time left.
    Returns:
        The store; None where other processes are still at work on theirs.
    Raises:
        ValueError: bad settings, an empty corpus, a column that is missing, too small a disk, a feature that is not finite.
        StoreError: the folder holds something else, or a harvest of another model, corpus or other settings.
    """
    job = _Job.prepared(model, corpus, features, labels, keep, dtype, products, context, shard_bytes, batch_tokens)
    here, folder = ranks or Ranks.here(), Path(out).expanduser()
    state = Progress(folder)
    state.check_folder()
    if not state.finished:
        with locked(state.inside / f"rank-{here.rank}.lock", wait=False):
            done = _run(job, state, here, progress)
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
    job = _Job.prepared(model, corpus, features, labels, **given)
    plan = job.plan(job.counts())
    return job.estimate(plan)


@dataclass(frozen=True)
class _Job:
    """Everything that a harvest needs, checked."""

    engine: Engine
    corpus: Corpus
    encoder: Encoder
    request: Request
    tensors: list[Feature]
    predictions: list[PredictionFeature]
    labels: list[Label]
    derived: list[DerivedLabel]
    manifest: Manifest
    """Without shards."""

    @classmethod
    def prepared(
        cls, model: HookedDCFormer | Engine, corpus: Corpus | str | Path, features: Sequence[str] | None,
        labels: Sequence[str] | None, keep: Keep | None, dtype: str, products: bool, context: int | None,
        shard_bytes: int, batch_tokens: int | None,
    ) -> _Job:  # fmt: skip
        engine = model if isinstance(model, Engine) else Engine(model)
        source = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        device = torch.device(str(engine.cfg.device)).type
        tokens_at_once = BATCH_TOKENS.get(device, 2048) if batch_tokens is None else batch_tokens
        _check_settings(engine, dtype, shard_bytes, tokens_at_once)
        encoder = Encoder(engine.model, context)
        chosen = resolve(default_features(engine.cfg) if features is None else features, engine.cfg)
        if not chosen:
            raise ValueError("No feature was chosen. Name at least one, or leave features out for the usual ones.")
        predictions = predictions_of(chosen)
        if labels is None:
            labels = (*default_labels(engine.model.tokenizer is not None, len(predictions) == 2), *source.columns)
        own, derived = resolve_labels([one for one in labels if one not in COLUMNS], [one.name for one in predictions])
        entries = described(chosen, dtype, products)
        request = Request(
            model=_about_model(engine.model), corpus=source.describe(), features=tuple(one.name for one in entries),
            labels=tuple(one.name for one in (*own, *derived)), keep=keep or Keep(), dtype=dtype, context=encoder.context,
            shard_bytes=shard_bytes, batch_tokens=tokens_at_once, device=device,
        )  # fmt: skip
        stored = tuple(StoredLabel(one.name, one.kind, one.definition) for one in own)
        manifest = Manifest(
            request.model, request.corpus, request.to_json(), _libraries(), entries, stored, tuple(derived), ()
        )
        tensors = tensors_of(chosen, products)
        return cls(engine, source, encoder, request, tensors, predictions, own, derived, manifest)

    def counts(self) -> CorpusCounts | None:
        """How often tokens stand in the corpus, where a label needs it."""
        needed = any(label.needs_counts for label in self.labels)
        return count_tokens(self.corpus, self.encoder) if needed else None

    def plan(self, counts: CorpusCounts | None) -> Plan:
        request = self.request
        return make_plan(
            self.corpus, self.encoder, request.keep, self.labels, self.predictions, counts,
            row_bytes(self.tensors, request.dtype), request.shard_bytes,
        )  # fmt: skip

    def estimate(self, plan: Plan) -> Estimate:
        manifest = len(json.dumps(self.described(plan, self.manifest.libraries).to_json(), indent=1))
        return estimated(plan, self.tensors, self.request.dtype, manifest)

    def labels_of(self, plan: Plan) -> list[Label]:
        """The labels, columns that hold nothing but numbers among them as numbers."""
        return [column_label(label.name, NUMBER) if label.name in plan.numbers else label for label in self.labels]

    def described(self, plan: Plan, libraries: Any) -> Manifest:
        """The manifest without its shards."""
        labels = tuple(StoredLabel(one.name, one.kind, one.definition) for one in self.labels_of(plan))
        given = self.manifest
        return Manifest(
            given.model, plan.corpus, given.request, libraries, given.features, labels, given.derived_labels, ()
        )

    def maker(self, plan: Plan, counts: CorpusCounts | None, watch: Any) -> ShardMaker:
        request = self.request
        return ShardMaker(
            self.engine, self.encoder, self.tensors, self.predictions, self.labels_of(plan), request.keep, counts,
            request.dtype, request.batch_tokens, watch,
        )  # fmt: skip


def _run(job: _Job, state: Progress, here: Ranks, progress: bool) -> bool:
    """Make this process's shards. Returns whether the whole store is finished."""
    with locked(state.inside / "plan.lock"):
        if state.finished:
            return True
        plan, counts, libraries = _planned(job, state)
    check_room(job.estimate(plan), state.folder, state.written(plan))
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


def _planned(job: _Job, state: Progress) -> tuple[Plan, CorpusCounts | None, dict[str, str]]:
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
    plan.write(state.inside, job.request.to_json(), _libraries())
    return plan, counts, _libraries()


def _documents(corpus: Corpus, plan: Plan, shards: Sequence[int]) -> Iterator[tuple[int, Iterator[Document]]]:
    """Each of these shards with its documents; those of other shards are passed over without being parsed."""
    records = corpus.records()
    at = 0
    for number in shards:
        shard = plan.shards[number]
        taken = list(islice(records, shard.first_document - at, shard.first_document - at + shard.documents))
        at = shard.first_document + shard.documents
        yield number, (record() for record in taken)


def _check_settings(engine: Engine, dtype: str, shard_bytes: int, batch_tokens: int) -> None:
    if dtype not in TORCH_DTYPES:
        raise ValueError(f"dtype={dtype!r} is not known. Store {', '.join(TORCH_DTYPES)}.")
    for name, value in (("shard_bytes", shard_bytes), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if engine.model.taps.count:
        raise ValueError("A change is applied to this model, which no store could name. Leave its `with` block first.")


def _about_model(model: HookedDCFormer) -> dict[str, Any]:
    config = model.cfg.to_json_dict()
    return {"name": model.cfg.model_name, "weights_sha256": weights_hash(model), "dtype": dtype_name(model.cfg.dtype),
            "config": config}  # fmt: skip


def _libraries() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found
