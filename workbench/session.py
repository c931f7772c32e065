"""What the pages share: models loaded once a process, one forward at a time for each, captures in a bounded cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from cachetools import LRUCache

from model import Capture, HookedDCFormer, capture, list_models, load_model
from model.capture import MAPS
from workbench.views import distances

Value = TypeVar("Value")

MODELS_KEPT = 3
CAPTURE_BYTES = 1 << 30
MAP_BYTES = 256 << 20
DISTANCES_KEPT = 256


class Workbench:
    """Models, captures and maps for any number of browser sessions.

    Everything is keyed by what it was made from (model name, prompt, layer, head), so that sessions with the
    same prompt share the work and an answer cannot belong to another question.

    Args:
        model_folder: a folder of model directories to offer beside the bundled pair.
        device, dtype: passed to load_model.
    """

    def __init__(self, model_folder: str | Path | None = None, device: str = "auto", dtype: str | None = None):
        self.model_folder, self.device, self.dtype = model_folder, device, dtype
        self._models: LRUCache = LRUCache(MODELS_KEPT)
        self._captures: LRUCache = LRUCache(CAPTURE_BYTES, getsizeof=lambda run: run.nbytes)
        self._maps: LRUCache = LRUCache(MAP_BYTES, getsizeof=lambda maps: sum(m.nbytes for m in maps.values()))
        self._distances: LRUCache = LRUCache(DISTANCES_KEPT)
        self._guard = threading.Lock()
        self._locks: dict[Any, threading.Lock] = {}

    def model_names(self) -> list[str]:
        """Every model that can be chosen: the bundled pair, then what the model folder holds."""
        return list_models(self.model_folder)

    def model(self, name: str) -> HookedDCFormer:
        """The model of this name, loaded at the first call; at most MODELS_KEPT stay in memory."""
        return self._once(self._models, name, "load", lambda: load_model(name, self.device, self.dtype))

    def capture(self, name: str, prompt: str) -> Capture:
        """One forward of a model over a prompt, kept as factors; captures share CAPTURE_BYTES."""
        model = self.model(name)
        # hooks change the module while it runs: one forward at a time for each model
        return self._once(self._captures, (name, prompt), ("run", name), lambda: capture(model, prompt))

    def maps(self, name: str, prompt: str, layer: int, head: int) -> dict[str, torch.Tensor]:
        """The four maps of one head, each [query, key]; recent ones share MAP_BYTES."""
        run = self.capture(name, prompt)

        def build() -> dict[str, torch.Tensor]:
            return {kind: values[0] for kind, values in run.maps(layer, MAPS, heads=head).items()}

        return self._once(self._maps, (name, prompt, layer, head), ("maps", name), build)

    def distances(self, name: str, prompt: str) -> dict[str, torch.Tensor]:
        """How far each head's mixing is from identity, by site, [layer, head]."""
        run = self.capture(name, prompt)
        return self._once(self._distances, (name, prompt), ("maps", name), lambda: distances(run))

    def _once(self, cache: LRUCache, key: Any, lock_name: Any, build: Callable[[], Value]) -> Value:
        """What stands under key, building it if nobody has; sessions that want the same wait for one build."""
        with self._guard:
            if key in cache:
                return cache[key]
            lock = self._locks.setdefault(lock_name, threading.Lock())
        with lock:
            with self._guard:
                if key in cache:
                    return cache[key]
            value = build()
            with self._guard:
                if cache.getsizeof(value) <= cache.maxsize:
                    cache[key] = value
            return value
