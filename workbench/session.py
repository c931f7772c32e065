"""What the pages share: models loaded once a process, one forward at a time for each, captures in a bounded cache."""

from __future__ import annotations

import copy
import hashlib
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from cachetools import LRUCache

from model import Capture, HookedDCFormer, capture, load_model
from model.capture import MAPS
from probes import MeanMixing
from probes.comparison import caution, compare_runs
from probes.interventions import from_json, to_json
from probes.metrics import repeated_random_tokens
from probes.side_by_side import Runs, paired_metrics, same_vocabulary
from probes.store import Store
from probes.study import Study, run_study
from probes.tasks import TaskRow, TaskScores, score
from workbench.access import allowed_model, hub_allowed, offered_models
from workbench.all_heads import small_maps
from workbench.attributions import Attributions, attribute_logit
from workbench.changes import ChangeReading, read_change
from workbench.comparisons import PlaceReading, Reading, Side, read_comparison, read_place
from workbench.generating import GenerationRequest, Transcript, generate_watched
from workbench.head_tables import TABLES, HeadTable, RandomTokens
from workbench.jobs import Job, Watch
from workbench.loading import LoadedModels, LoadPlan, compared, give_back_memory, read_plan, weight_bytes
from workbench.model_choice import ModelChoice
from workbench.overviews import Picture, pictures
from workbench.store_components import ComponentReading, ComponentRequest, read_components
from workbench.sweeping import SweepRequest, SweepResult, run_sweep
from workbench.task_runs import TaskRequest, TaskResult
from workbench.turns import Turn, telling
from workbench.views import distances

Value = TypeVar("Value")

MODELS_KEPT = 3
CAPTURE_BYTES = 1 << 30
MAP_BYTES = 256 << 20
DISTANCES_KEPT = 256
READINGS_KEPT = 256
MEANS_KEPT = 8
ATTRIBUTIONS_KEPT = 64
TABLES_KEPT = 64
PLANS_KEPT = 32
PICTURES_KEPT = 256
CHANGED_NAMES_KEPT = 4096
SMALL_MAP_BYTES = 64 << 20
ANSWERS_KEPT = 200_000
COMPONENT_BYTES = 64 << 20
COMPARISONS_KEPT = 64
JOBS_AT_ONCE = 2
GENERATIONS_AT_ONCE = 4
"""Each holds a key cache."""
UNLOAD_WAITS_S = 30.0
"""For the step in hand of each generation that is ended."""
LOADS_AT_ONCE = 1
"""The next is compared with what is free once this one has taken its part."""


class Workbench:
    """Models, captures and maps for any number of browser sessions.

    Everything is keyed by what it was made from (model name, prompt, change, layer, head), so that sessions with the
    same prompt share the work and an answer cannot belong to another question. A change is given as the JSON that
    probes.interventions.to_json writes.

    Args:
        model_folders: folders of model directories to offer beside the bundled pair; no other directory is opened.
        device, dtype: passed to load_model.
    """

    def __init__(self, model_folders: Sequence[Path] = (), device: str = "auto", dtype: str | None = None):
        self.model_folders, self.device, self.dtype = tuple(model_folders), device, dtype
        self._models: LRUCache = LRUCache(MODELS_KEPT)
        self.loaded = LoadedModels()
        # a capture larger than all of it (a 405M model at 2048 tokens) takes all of it and is kept alone: if it were
        # not kept, every click would run the model again
        self._captures: LRUCache = LRUCache(CAPTURE_BYTES, getsizeof=lambda run: min(run.nbytes, CAPTURE_BYTES))
        self._maps: LRUCache = LRUCache(MAP_BYTES, getsizeof=lambda maps: sum(m.nbytes for m in maps.values()))
        self._distances: LRUCache = LRUCache(DISTANCES_KEPT)
        self._readings: LRUCache = LRUCache(READINGS_KEPT)
        self._means: LRUCache = LRUCache(MEANS_KEPT)
        self._attributions: LRUCache = LRUCache(ATTRIBUTIONS_KEPT)
        self._tables: LRUCache = LRUCache(TABLES_KEPT)
        self._plans: LRUCache = LRUCache(PLANS_KEPT)
        self._pictures: LRUCache = LRUCache(PICTURES_KEPT)
        self._small_maps: LRUCache = LRUCache(SMALL_MAP_BYTES, getsizeof=lambda maps: maps.nbytes)
        self._task_scores: LRUCache = LRUCache(ANSWERS_KEPT, getsizeof=lambda scores: len(scores.answers))
        self._components: LRUCache = LRUCache(COMPONENT_BYTES, getsizeof=lambda reading: reading.nbytes)
        self._changes: LRUCache = LRUCache(MEANS_KEPT)
        self._comparisons: LRUCache = LRUCache(COMPARISONS_KEPT)
        self._changed_names: LRUCache = LRUCache(CHANGED_NAMES_KEPT)
        self._turns = threading.BoundedSemaphore(JOBS_AT_ONCE)
        self._loads = threading.BoundedSemaphore(LOADS_AT_ONCE)
        self._generations = threading.BoundedSemaphore(GENERATIONS_AT_ONCE)
        self._unloaded: weakref.WeakSet[HookedDCFormer | None] = weakref.WeakSet()
        self._generating: dict[str, weakref.WeakSet[Job[Transcript]]] = {}
        self._guard = threading.Lock()
        self._turns_of: dict[Any, Turn] = {}

    def model_names(self) -> list[str]:
        """Every model that can be chosen: the bundled pair, what the model folders hold, what else is loaded."""
        return list(dict.fromkeys([*offered_models(self.model_folders), *self.loaded.names()]))

    def under(self, name: str, change: str) -> str:
        """A name of the model with a change always in place, for every method that takes a model's name.

        Args:
            change: JSON of the change; "" gives the name itself.
        Raises:
            ValueError: JSON that is no change, or a change that this model cannot have.
        """
        if not change:
            return name
        from_json(change).check(self.model(name).cfg)
        changed = f"{name} under {hashlib.sha256(change.encode()).hexdigest()[:16]}"
        with self._guard:
            self._changed_names[changed] = (name, change)
        return changed

    def parts(self, name: str) -> tuple[str, str]:
        """The model's own name, and the JSON of the change that `under` put in place, "" for none."""
        with self._guard:
            return self._changed_names.get(name, (name, ""))

    def model(self, name: str) -> HookedDCFormer:
        """The model of this name, loaded at the first call; at most MODELS_KEPT stay, beside those of start_load.

        Raises:
            ValueError: it is none of those that may be opened, see workbench.access.
        """
        name, _ = self.parts(name)
        if (held := self.loaded.get(name)) is not None:
            return held

        def load() -> HookedDCFormer:
            # a name may come from a link
            return load_model(allowed_model(name, self.model_folders, hub_allowed()), self.device, self.dtype)

        return self._once(self._models, name, "load", load)

    def load_plan(self, choice: ModelChoice, tokens: int | None, mode: str) -> LoadPlan:
        """What a model and one run of it take, beside what is free now; see plan_load. PLANS_KEPT plans are kept."""
        planned = self._once(self._plans, (choice, tokens, mode), "plan", lambda: read_plan(choice, tokens, mode))
        there = self.loaded.get(choice.name)
        return compared(choice, planned, 0 if there is None else weight_bytes(there))

    def start_load(self, choice: ModelChoice) -> Job[str]:
        """Load a model in a thread of its own; the job gives the name under which it is then offered.

        It stays until it is unloaded. Its progress is in bytes, 0 of 0 while they are not known (a download, say).

        Args:
            choice: of a reference that access.allowed_model allows.
        """

        def work(watch: Watch) -> str:
            watch(0, 0)
            with self._guard:
                model = self._models.pop(choice.name, None)  # loaded already, because a page asked for it by name
            if model is None:
                model = self.loaded.get(choice.name)
            if model is None:
                model = load_model(choice.reference, choice.device, choice.dtype, watch=watch)
            self.loaded.add(choice.name, model)
            return choice.name

        return Job(work, self._loads)

    def unload(self, name: str) -> None:
        """Let go of a model and of all that was made with it; generations with it end.

        Its memory is free when this returns, unless a sweep or a forward pass is still at it: then when that ends.
        """
        with self._guard:
            generating = list(self._generating.pop(name, ()))
        for job in generating:
            job.cancel()
        for job in generating:
            job.wait(UNLOAD_WAITS_S)
        model = self.loaded.get(name)
        with self._guard:
            model = model or self._models.get(name)
            if model is not None:
                self._unloaded.add(model)
        self.loaded.remove(name)
        del model
        with self._turn(("run", name)), self._guard:
            names = [name, *(changed for changed, (own, _) in self._changed_names.items() if own == name)]
            for cache in self._caches():
                for key in [key for key in cache if any(mentions(key, gone) for gone in names)]:
                    del cache[key]
        give_back_memory()

    def start_generation(self, request: GenerationRequest, out: Transcript) -> Job[Transcript]:
        """Generate in a thread of its own, one step in each turn of the model; GENERATIONS_AT_ONCE run.

        Args:
            out: grows while the job runs. Progress is in new tokens.
        """

        def work(watch: Watch) -> Transcript:
            model = self.separate_model(request.model)
            return generate_watched(model, request, out, watch, lambda: self._turn(("run", request.model)))

        job = Job(work, self._generations)
        with self._guard:
            self._generating.setdefault(request.model, weakref.WeakSet()).add(job)
        return job

    def capture(self, name: str, prompt: str) -> Capture:
        """One forward of a model over a prompt, kept as factors; captures share CAPTURE_BYTES."""
        own, change = self.parts(name)
        if change:
            return self.changed_capture(own, prompt, change)
        model = self.model(name)
        # hooks change the module while it runs: one forward at a time for each model
        return self._once(self._captures, (name, prompt), ("run", name), lambda: capture(model, prompt), model)

    def capture_of_ids(self, name: str, ids: tuple[int, ...]) -> Capture:
        """The same of token ids, which a tokenizer might cut otherwise."""
        model = self.model(name)
        tokens = torch.tensor(ids)
        return self._once(self._captures, (name, ids), ("run", name), lambda: capture(model, tokens), model)

    def changed_capture(self, name: str, prompt: str, change: str) -> Capture:
        """One forward of a model under a change; kept like every capture.

        Raises:
            ValueError: JSON that is no change, or a change that the model or the prompt cannot have.
        """
        model = self.model(name)

        def build() -> Capture:
            with from_json(change).applied(model):
                return capture(model, prompt)

        # the change stands on the module that everyone shares: nobody else may run it meanwhile
        return self._once(self._captures, (name, prompt, change), ("run", name), build, model)

    def change_reading(self, name: str, prompt: str, change: str) -> ChangeReading:
        """Losses and divergence of a prompt under a change, position by position."""
        runs = self.capture(name, prompt), self.changed_capture(name, prompt, change)
        return self._once(self._readings, (name, prompt, change), ("maps", name), lambda: read_change(*runs))

    def mean_mixing(self, name: str, prompts: tuple[str, ...]) -> MeanMixing:
        """The mean of every branch over some prompts; MEANS_KEPT of them are kept."""
        model = self.model(name)
        return self._once(self._means, (name, prompts), ("run", name), lambda: MeanMixing.over(model, prompts))

    def maps(self, name: str, prompt: str, layer: int, head: int, change: str | None = None) -> dict[str, torch.Tensor]:
        """The four maps of one head, each [query, key], under a change if one is given; they share MAP_BYTES."""
        run = self.capture(name, prompt) if change is None else self.changed_capture(name, prompt, change)

        def build() -> dict[str, torch.Tensor]:
            return {kind: values[0] for kind, values in run.maps(layer, MAPS, heads=head).items()}

        return self._once(self._maps, (name, prompt, layer, head, change), ("maps", name), build)

    def side_change(self, side: Side) -> str | None:
        """The change that one side of a comparison runs under, as JSON; None = as trained.

        Raises:
            ValueError: interventions that are none.
        """

        def build() -> str | None:
            change = side.change(lambda: self.mean_mixing(side.model, side.corpus))
            return None if change is None else to_json(change)

        key = (side.model, side.composition, side.written, side.corpus)
        return self._once(self._changes, key, ("changes", side.model), build)

    def side_capture(self, side: Side) -> Capture:
        """The run of one side of a comparison."""
        change = self.side_change(side)
        if change is None:
            return self.capture(side.model, side.prompt)
        return self.changed_capture(side.model, side.prompt, change)

    def side_maps(self, side: Side, layer: int, head: int) -> dict[str, torch.Tensor]:
        """The four maps of one head of one side, each [query, key]."""
        return self.maps(side.model, side.prompt, layer, head, self.side_change(side))

    def comparison(self, a: Side, b: Side, same_heads: bool = False) -> Reading:
        """Two runs side by side; of all that is read from comparisons COMPARISONS_KEPT answers are kept.

        Args:
            same_heads: the two models are checkpoints of one training, so that head h is head h. One model's heads are
                always its own.
        Raises:
            ValueError: what either side refuses, prompts without a common token, or heads that cannot be the same.
        """
        models = self.model(a.model), self.model(b.model)

        def read(runs: Runs) -> Reading:
            changes = (self.side_change(side) for side in (a, b))
            note = caution(*(from_json(change) for change in changes if change is not None))
            found = compare_runs(
                *runs, same_heads=same_heads or a.model == b.model, same_ids=same_vocabulary(*models), names=("A", "B"),
                note=note,
            )  # fmt: skip
            return read_comparison(found, (models[0].to_string, models[1].to_string))

        return self._compared((a, b, same_heads), "whole", read)

    def compared_place(self, a: Side, b: Side, same_heads: bool, pair: int) -> PlaceReading:
        """What two sides do at one aligned pair of positions; pair: a row of their reading's tokens."""
        reading = self.comparison(a, b, same_heads)
        decode = self.model(a.model).to_string, self.model(b.model).to_string
        return self._compared((a, b, same_heads), pair, lambda runs: read_place(runs, reading, pair, decode))

    def compared_metrics(self, a: Side, b: Side, same_heads: bool = False) -> pd.DataFrame:
        """Head metrics of paired heads, as Comparison.metrics gives them."""
        heads = self.comparison(a, b, same_heads).heads
        return self._compared((a, b, same_heads), "metrics", lambda runs: paired_metrics(runs, heads))

    def _compared(self, asked: tuple[Side, Side, bool], what: str | int, read: Callable[[Runs], Value]) -> Value:
        a, b, _ = asked

        def build() -> Value:
            return read((self.side_capture(a), self.side_capture(b)))

        return self._once(self._comparisons, (*asked, what), ("compare", a.model, b.model), build)

    def distances(self, name: str, prompt: str) -> dict[str, torch.Tensor]:
        """How far each head's mixing is from identity, by site, [layer, head]."""
        run = self.capture(name, prompt)
        return self._once(self._distances, (name, prompt), ("maps", name), lambda: distances(run))

    def overview(self, name: str, prompt: str, measure: str) -> list[Picture]:
        """What a measure of workbench.overviews says of every head, [layer, head] for each site or stage.

        Raises:
            ValueError: this prompt or model has nothing to measure.
        """
        run = self.capture(name, prompt)
        return self._once(self._pictures, (name, prompt, measure), ("heads", name), lambda: pictures(run, measure))

    def small_maps(self, name: str, prompt: str, layer: int, kind: str, stage: str) -> np.ndarray:
        """The maps of all heads of a layer, reduced: see workbench.all_heads; they share SMALL_MAP_BYTES."""
        run, key = self.capture(name, prompt), (name, prompt, layer, kind, stage)
        return self._once(self._small_maps, key, ("maps", name), lambda: small_maps(run, layer, kind, stage))

    def start_sweep(self, request: SweepRequest, out: Path) -> Job[SweepResult]:
        """A sweep in a thread of its own, over a model of its own: other sessions go on meanwhile.

        At most JOBS_AT_ONCE run; the next waits for its turn.

        Args:
            out: a file that keeps what is done; the same request goes on from there.
        """

        def work(watch: Callable[[int, int], None]) -> SweepResult:
            mean = self.mean_mixing(request.model, request.corpus) if request.corpus else None
            return run_sweep(request, self.separate_model(request.model), mean, out, watch)

        return Job(work, self._turns)

    def start_study(self, study: Study, folder: Path, tell: Callable[[str], object]) -> Job[Path]:
        """A study in a thread of its own, which gives its folder; it takes turns with sweeps.

        Args:
            folder: keeps what is done; the same study goes on from there. tell: is given a line at each stage.
        """

        def work(watch: Callable[[int, int], None]) -> Path:
            def told(said: str) -> None:
                tell(said)
                watch(0, 0)

            run_study(study, folder, tell=told, watch=watch)
            return folder

        return Job(work, self._turns)

    def start_tasks(self, request: TaskRequest) -> Job[TaskResult]:
        """Models on task rows, in a thread of its own; it takes turns with sweeps and studies.

        Scores are kept for each model and set of rows, ANSWERS_KEPT answers of all: what is asked again is there.
        """

        def work(watch: Callable[[int, int], None]) -> TaskResult:
            rows = request.task_rows()
            total = len(rows) * len(request.models)
            found: dict[str, TaskScores] = {}
            for name in request.models:
                before = len(found) * len(rows)
                watch(before, total)
                found[name] = self._scores(name, request, rows, partial(_watch_after, watch, before, total))
            return TaskResult(request, rows, found)

        return Job(work, self._turns)

    def components(self, request: ComponentRequest) -> ComponentReading:
        """Components of a store's feature, read again where the store was written anew; they share COMPONENT_BYTES.

        Raises:
            ValueError: no store, no such feature, or what probes.components.decompose refuses.
        """
        store = Store.open(request.folder)
        written = tuple((name, file["sha256"]) for shard in store.manifest.shards for name, file in shard.files.items())
        key = (request, store.folder.resolve(), written)
        return self._once(self._components, key, ("components", request.folder), lambda: read_components(request))

    def tasks_done(self, request: TaskRequest) -> bool:
        """Are the scores of all its models kept?"""
        with self._guard:
            return all((name, request.made_from) in self._task_scores for name in request.models)

    def _scores(self, name: str, request: TaskRequest, rows: list[TaskRow], watch: Callable[[int], None]) -> TaskScores:
        def build() -> TaskScores:
            return score(self.separate_model(name), rows, watch=lambda done, _: watch(done))

        # a turn of its own: whoever explores the model must not wait for minutes; one who waits here can cancel
        with telling(lambda _: watch(0)):
            return self._once(self._task_scores, (name, request.made_from), ("tasks", name), build)

    def separate_model(self, name: str) -> HookedDCFormer:
        """The model of this name once more: the same weights in memory, hooks and taps of its own.

        What runs on it neither waits for the shared one nor disturbs it, whatever stands on either.
        """
        model = self.model(name)
        shared = [*model.parameters(), *model.buffers(), model.tokenizer]
        with self._turn(("run", name)):  # no tap stands on it now, so none is copied
            return copy.deepcopy(model, {id(part): part for part in shared})

    def attributions(self, name: str, prompt: str, query: int, token: int, contrast: int | None = None) -> Attributions:
        """What every virtual head of one query adds to a token's logit; ATTRIBUTIONS_KEPT answers are kept.

        Raises:
            ValueError: a query or token that does not exist.
        """
        model, run = self.model(name), self.capture(name, prompt)
        key = (name, prompt, query, token, contrast)
        return self._once(
            self._attributions, key, ("heads", name), lambda: attribute_logit(model, run, query, token, contrast)
        )

    def head_table(self, name: str, text: str | RandomTokens, kind: str) -> HeadTable:
        """One of head_tables.TABLES, measured on a prompt or on repeated random tokens; TABLES_KEPT are kept.

        Raises:
            ValueError: random tokens that do not fit the model, or a table that this model cannot have.
        """
        run = self.random_capture(name, text) if isinstance(text, RandomTokens) else self.capture(name, text)
        return self._once(self._tables, (name, text, kind), ("heads", name), lambda: TABLES[kind](run))

    def random_capture(self, name: str, asked: RandomTokens) -> Capture:
        """One forward over repeated random tokens, kept like every capture."""
        model, (_, change) = self.model(name), self.parts(name)

        def build() -> Capture:
            tokens = repeated_random_tokens(model, asked.block, asked.repeats, asked.seed)
            with from_json(change).applied(model) if change else nullcontext():
                return capture(model, tokens, logits=False)

        return self._once(self._captures, (name, asked), ("run", name), build, model)

    def _once(
        self, cache: LRUCache, key: Any, turn_of: Any, build: Callable[[], Value], holds: HookedDCFormer | None = None
    ) -> Value:
        """What stands under key, building it if nobody has; sessions that want the same wait for one build.

        Args:
            holds: the model whose weights the value keeps in memory: it is not kept once that is unloaded.
        """
        with self._guard:
            if key in cache:
                return cache[key]
        with self._turn(turn_of):
            with self._guard:
                if key in cache:
                    return cache[key]
            value = build()
            with self._guard:
                if cache.getsizeof(value) <= cache.maxsize and holds not in self._unloaded:
                    cache[key] = value
            return value

    def _turn(self, of: Any) -> Turn:
        with self._guard:
            return self._turns_of.setdefault(of, Turn())

    def _caches(self) -> list[LRUCache]:
        return [cache for cache in vars(self).values() if isinstance(cache, LRUCache)]


def mentions(key: Any, name: str) -> bool:
    """Does the key of a cache name this model?"""
    parts = vars(key).values() if is_dataclass(key) else key if isinstance(key, tuple) else ()
    return key == name or any(mentions(part, name) for part in parts)


def _watch_after(watch: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    """Tell of work of which some was done before."""
    watch(before + done, total)
