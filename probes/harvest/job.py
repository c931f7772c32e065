"""Everything that a harvest needs, checked once before anything is read."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import Engine, HookedDCFormer
from model.config import dtype_name
from probes.corpora import Corpus, open_corpus
from probes.features import Feature, PredictionFeature, default_features, resolve
from probes.harvest.encoding import Encoder
from probes.harvest.estimate import Estimate, estimated, row_bytes
from probes.harvest.plan import Plan, count_tokens, make_plan
from probes.harvest.request import Keep, Request
from probes.harvest.shard import TORCH_DTYPES, ShardMaker
from probes.harvest.stored import described, predictions_of, tensors_of
from probes.labels import DERIVED, CorpusCounts, Label, default_labels, resolve_labels
from probes.labels.columns import column_label
from probes.labels.label import NUMBER
from probes.store import DerivedLabel, Manifest, StoredLabel
from probes.store.store import COLUMNS
from probes.weights import weights_hash

SHARD_BYTES = 128 * 2**20
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of one forward pass, by device; beyond this a CPU gains nothing."""
LIBRARIES = ("torch", "numpy", "pyarrow", "safetensors", "transformers", "tokenizers")


@dataclass(frozen=True)
class Job:
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
    ) -> Job:  # fmt: skip
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
        named = _labels_to_keep(labels, keep or Keep())
        own, derived = resolve_labels(named, [one.name for one in predictions])
        entries = described(chosen, dtype, products)
        request = Request(
            model=_about_model(engine.model), corpus=source.describe(), features=tuple(one.name for one in entries),
            labels=(*(one.name for one in own), *(one.name for one in derived)), keep=keep or Keep(), dtype=dtype,
            context=encoder.context, shard_bytes=shard_bytes, batch_tokens=tokens_at_once, device=device,
        )  # fmt: skip
        stored = tuple(StoredLabel(one.name, one.kind, one.definition) for one in own)
        manifest = Manifest(
            request.model, request.corpus, request.to_json(), library_versions(), entries, stored, tuple(derived), ()
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


def _check_settings(engine: Engine, dtype: str, shard_bytes: int, batch_tokens: int) -> None:
    if dtype not in TORCH_DTYPES:
        raise ValueError(f"dtype={dtype!r} is not known. Store {', '.join(TORCH_DTYPES)}.")
    for name, value in (("shard_bytes", shard_bytes), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if engine.model.taps.count:
        raise ValueError("A change is applied to this model, which no store could name. Leave its `with` block first.")


def _labels_to_keep(labels: Sequence[str], keep: Keep) -> list[str]:
    """The labels that are no column of every table already, the one that decides what is kept among them."""
    if keep.label in DERIVED:
        raise ValueError(
            f"{keep.label} is known only when the model has run, so it cannot decide which tokens are kept. Keep all "
            "and choose rows of the store."
        )
    deciding = [] if keep.label is None or keep.label in labels else [keep.label]
    return [name for name in (*labels, *deciding) if name not in COLUMNS]


def _about_model(model: HookedDCFormer) -> dict[str, Any]:
    config = model.cfg.to_json_dict()
    return {"name": model.cfg.model_name, "weights_sha256": weights_hash(model), "dtype": dtype_name(model.cfg.dtype),
            "config": config}  # fmt: skip


def library_versions() -> dict[str, str]:
    """Of Python and of every library that has a say in a store's bits."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}
