"""Models loaded once a process, one forward at a time for each, and what they ran on: captures in a bounded cache."""

from __future__ import annotations

import copy
import hashlib
import threading
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from cachetools import LRUCache

from model import Capture, HookedDCFormer, capture, load_model
from probes import MeanMixing
from probes.interventions import from_json
from probes.metrics import repeated_random_tokens
from workbench.access import allowed_model, hub_allowed, offered_models
from workbench.generating import GenerationRequest, Transcript, generate_watched
from workbench.head_tables import RandomTokens
from workbench.jobs import Job, Watch
from workbench.kept import KeptAnswers, mentions
from workbench.loading import LoadedModels, LoadPlan, compared, give_back_memory, read_plan, weight_bytes
from workbench.model_choice import ModelChoice

MODELS_KEPT = 3
CAPTURE_BYTES = 1 << 30
MEANS_KEPT = 8
PLANS_KEPT = 32
CHANGED_NAMES_KEPT = 4096
GENERATIONS_AT_ONCE = 4
"""Each holds a key cache."""
UNLOAD_WAITS_S = 30.0
"""For the step in hand of each generation that is ended."""
LOADS_AT_ONCE = 1
"""The next is compared with what is free once this one has taken its part."""


class RunningModels(KeptAnswers):
    """Models by name, loaded, changed, run and unloaded, for any number of sessions.

    Args:
        model_folders: folders of model directories to offer beside the bundled pair; no other directory is opened.
        device, dtype: passed to load_model.
    """

    def __init__(self, model_folders: Sequence[Path] = (), device: str = "auto", dtype: str | None = None):
        super().__init__()
        # whole paths: a process that goes to another folder must find the same models
        self.model_folders, self.device, self.dtype = tuple(map(Path.resolve, model_folders)), device, dtype
        self._models: LRUCache = LRUCache(MODELS_KEPT)
        self.loaded = LoadedModels()
        # a capture larger than all of it (a 405M model at 2048 tokens) takes all of it and is kept alone: if it were
        # not kept, every click would run the model again
        self._captures: LRUCache = LRUCache(CAPTURE_BYTES, getsizeof=lambda run: min(run.nbytes, CAPTURE_BYTES))
        self._means: LRUCache = LRUCache(MEANS_KEPT)
        self._plans: LRUCache = LRUCache(PLANS_KEPT)
        self._changed_names: LRUCache = LRUCache(CHANGED_NAMES_KEPT)
        self._loads = threading.BoundedSemaphore(LOADS_AT_ONCE)
        self._generations = threading.BoundedSemaphore(GENERATIONS_AT_ONCE)
        self._generating: dict[str, weakref.WeakSet[Job[Transcript]]] = {}

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
        with self._guard:
            there = there or self._models.get(choice.name)  # a page asked for it by name
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

    def separate_model(self, name: str) -> HookedDCFormer:
        """The model of this name once more: the same weights in memory, hooks and taps of its own.

        What runs on it neither waits for the shared one nor disturbs it, whatever stands on either.
        """
        model = self.model(name)
        shared = [*model.parameters(), *model.buffers(), model.tokenizer]
        with self._turn(("run", name)):  # no tap stands on it now, so none is copied
            return copy.deepcopy(model, {id(part): part for part in shared})

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

    def random_capture(self, name: str, asked: RandomTokens) -> Capture:
        """One forward over repeated random tokens, kept like every capture."""
        model, (_, change) = self.model(name), self.parts(name)

        def build() -> Capture:
            tokens = repeated_random_tokens(model, asked.block, asked.repeats, asked.seed)
            with from_json(change).applied(model) if change else nullcontext():
                return capture(model, tokens, logits=False)

        return self._once(self._captures, (name, asked), ("run", name), build, model)

    def mean_mixing(self, name: str, prompts: tuple[str, ...]) -> MeanMixing:
        """The mean of every branch over some prompts; MEANS_KEPT of them are kept."""
        model = self.model(name)
        return self._once(self._means, (name, prompts), ("run", name), lambda: MeanMixing.over(model, prompts))
