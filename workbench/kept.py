"""Answers that are made once, by one at a time, and kept in bounded caches."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, TypeVar

from cachetools import LRUCache

from model import HookedDCFormer
from workbench.loading import give_back_memory
from workbench.turns import Turn

Value = TypeVar("Value")
LARGE_BYTES = 100 << 20
"""A value of a cache counted in bytes, for which room is given back to the system as soon as an older one has gone."""


class KeptAnswers:
    """Caches whose values are each built in turn; a subclass adds the caches, as attributes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        # names with a change come without end; a turn is one object for as long as someone has it or waits for it
        self._turns_of: weakref.WeakValueDictionary[Any, Turn] = weakref.WeakValueDictionary()
        self._unloaded: weakref.WeakSet[HookedDCFormer | None] = weakref.WeakSet()

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
            if cache.getsizeof(value) >= LARGE_BYTES:
                give_back_memory()
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
