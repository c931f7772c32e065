"""What the pages share: models and captures (running_models.py), and all that is read from them, in bounded caches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cachetools import LRUCache

from model import Capture
from model.capture import MAPS
from probes.comparison import caution, compare_runs
from probes.interventions import from_json, to_json
from probes.side_by_side import Runs, paired_metrics, same_vocabulary
from probes.store import Store
from probes.study import Study, run_study
from probes.tasks import TaskRow, TaskScores, score
from workbench.all_heads import small_maps
from workbench.attributions import Attributions, attribute_logit
from workbench.changes import ChangeReading, read_change
from workbench.comparisons import PlaceReading, Reading, Side, read_comparison, read_place
from workbench.head_tables import TABLES, HeadTable, RandomTokens
from workbench.jobs import Job
from workbench.kept import Value
from workbench.overviews import Picture, pictures
from workbench.running_models import RunningModels
from workbench.store_components import ComponentReading, ComponentRequest, read_components
from workbench.sweeping import SweepRequest, SweepResult, run_sweep
from workbench.task_runs import TaskRequest, TaskResult
from workbench.turns import telling
from workbench.viewer import MapView, Window
from workbench.views import Selection, distances, reduced_head_maps

MAP_BYTES = 256 << 20
DISTANCES_KEPT = 256
READINGS_KEPT = 256
CHANGES_KEPT = 8
ATTRIBUTIONS_KEPT = 64
TABLES_KEPT = 64
PICTURES_KEPT = 256
SMALL_MAP_BYTES = 64 << 20
VIEW_BYTES = 64 << 20
ANSWERS_KEPT = 200_000
COMPONENT_BYTES = 64 << 20
COMPARISONS_KEPT = 64
JOBS_AT_ONCE = 2


class Workbench(RunningModels):
    """Models, captures and all that is read from them, for any number of browser sessions.

    Everything is keyed by what it was made from (model name, prompt, change, layer, head), so that sessions with the
    same prompt share the work and an answer cannot belong to another question. A change is given as the JSON that
    probes.interventions.to_json writes.

    Args:
        model_folders: folders of model directories to offer beside the bundled pair; no other directory is opened.
        device, dtype: passed to load_model.
    """

    def __init__(self, model_folders: Sequence[Path] = (), device: str = "auto", dtype: str | None = None):
        super().__init__(model_folders, device, dtype)
        self._maps: LRUCache = LRUCache(MAP_BYTES, getsizeof=lambda maps: sum(m.nbytes for m in maps.values()))
        self._distances: LRUCache = LRUCache(DISTANCES_KEPT)
        self._readings: LRUCache = LRUCache(READINGS_KEPT)
        self._attributions: LRUCache = LRUCache(ATTRIBUTIONS_KEPT)
        self._tables: LRUCache = LRUCache(TABLES_KEPT)
        self._pictures: LRUCache = LRUCache(PICTURES_KEPT)
        self._small_maps: LRUCache = LRUCache(SMALL_MAP_BYTES, getsizeof=lambda maps: maps.nbytes)
        self._views: LRUCache = LRUCache(VIEW_BYTES, getsizeof=lambda view: sum(p.values.nbytes for p in view.panels))
        self._task_scores: LRUCache = LRUCache(ANSWERS_KEPT, getsizeof=lambda scores: len(scores.answers))
        self._components: LRUCache = LRUCache(COMPONENT_BYTES, getsizeof=lambda reading: reading.nbytes)
        self._changes: LRUCache = LRUCache(CHANGES_KEPT)
        self._comparisons: LRUCache = LRUCache(COMPARISONS_KEPT)
        self._turns = threading.BoundedSemaphore(JOBS_AT_ONCE)

    def change_reading(self, name: str, prompt: str, change: str) -> ChangeReading:
        """Losses and divergence of a prompt under a change, position by position."""
        runs = self.capture(name, prompt), self.changed_capture(name, prompt, change)
        return self._once(self._readings, (name, prompt, change), ("maps", name), lambda: read_change(*runs))

    def maps(self, name: str, prompt: str, layer: int, head: int, change: str | None = None) -> dict[str, torch.Tensor]:
        """The four maps of one head, each [query, key], under a change if one is given; they share MAP_BYTES."""
        run = self.capture(name, prompt) if change is None else self.changed_capture(name, prompt, change)

        def build() -> dict[str, torch.Tensor]:
            return {kind: values[0] for kind, values in run.maps(layer, MAPS, heads=head).items()}

        return self._once(self._maps, (name, prompt, layer, head, change), ("maps", name), build)

    def head_view(self, name: str, prompt: str, at: Selection, kind: str, window: Window | None) -> MapView:
        """One head's raw and composed map and their difference, reduced to what is drawn; they share VIEW_BYTES.

        Args:
            at: its query and key are marked. kind: "scores" or "pattern". window: the part that is looked at.
        """
        run, maps = self.capture(name, prompt), self.maps(name, prompt, at.layer, at.head)
        # one scale for the whole map and every part of it
        scale = None if window is None else self.head_view(name, prompt, at, kind, None).panels[0].full_scale
        view = self._once(
            self._views, (name, prompt, at.layer, at.head, kind, window), ("maps", name),
            lambda: reduced_head_maps(maps, run, at, kind, window, scale),
        )  # fmt: skip
        return replace(view, selected=(at.query, at.key))

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
        run, known = self.capture(name, prompt), self.distances(name, prompt) if measure == "distance" else None
        return self._once(
            self._pictures, (name, prompt, measure), ("heads", name), lambda: pictures(run, measure, known)
        )

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

    def _scores(self, name: str, request: TaskRequest, rows: list[TaskRow], watch: Callable[[int], None]) -> TaskScores:
        def build() -> TaskScores:
            return score(self.separate_model(name), rows, watch=lambda done, _: watch(done))

        # a turn of its own: whoever explores the model must not wait for minutes; one who waits here can cancel
        with telling(lambda _: watch(0)):
            return self._once(self._task_scores, (name, request.made_from), ("tasks", name), build)

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


def _watch_after(watch: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    """Tell of work of which some was done before."""
    watch(before + done, total)
