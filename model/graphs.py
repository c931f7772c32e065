"""CUDA graphs: runs of one shape, recorded once and replayed without Python between their kernels.

A short run of a large model waits for Python, not for the GPU: 512 tokens of a 2.8B model took 52 ms as called and
9 ms as a graph on an H200.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from model.backends.fallbacks import fell_back

MOST_SHAPES = 8
"""Graphs that one engine keeps; the one that was not used for longest goes first."""

MOST_SIGHTED = 256
"""Keys that one engine remembers to have seen once: names alone, which push no graph out."""

MOST_TOKENS = 4096
"""Tokens of a run, in all sequences, up to which it is recorded: longer ones keep the GPU busy as they are, and a graph
keeps the memory of its run."""

Value = TypeVar("Value")
Inputs = Sequence[Tensor | None]
Run = Callable[..., Tensor]


_cannot: set[str] = set()
"""What could not be recorded: it is not tried again in this process, where each generation has graphs of its own."""


class Graphs:
    """Runs by key. A key that comes for the second time is recorded, so that a shape which comes once costs nothing.

    The result of a graph is copied, and one thread at a time uses its memory. Where recording fails, everything of the
    kind runs as called from then on, after one warning, which fallback_messages keeps.

    Args:
        what: the kind of runs, as the warning calls them.
        at_once: record a key when it comes first, where it is sure to come again.
    """

    def __init__(self, what: str = "Short prompts", at_once: bool = False) -> None:
        self.what, self.at_once = what, at_once
        self._recorded: OrderedDict[Hashable, Callable[[Inputs], Tensor]] = OrderedDict()
        self._sighted: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()
        self._failed = False

    def __call__(self, key: Hashable, run: Run, inputs: Inputs) -> Tensor:
        """run(*inputs). Runs of one key must differ in the values of their inputs only."""
        with self._lock:
            if self._failed or self.what in _cannot:
                return run(*inputs)
            if not (self.at_once or key in self._recorded or key in self._sighted):
                _keep(self._sighted, key, None, MOST_SIGHTED)
                return run(*inputs)
            replay = self._recorded.get(key) or self._record(run, inputs)
            if replay is None:
                return run(*inputs)
            self._sighted.pop(key, None)  # one that is pushed out must come twice again
            _keep(self._recorded, key, replay, MOST_SHAPES)
            return replay(inputs)

    def _record(self, run: Run, inputs: Inputs) -> Callable[[Inputs], Tensor] | None:
        try:
            return record(run, inputs)
        except Exception as error:  # whatever a run does that a graph cannot hold
            self._failed = True
            self._recorded.clear()
            if not isinstance(error, torch.OutOfMemoryError):  # another time there may be room
                _cannot.add(self.what)
            reason = str(error).strip().split("\n")[0]
            fell_back(
                f"graphs of {self.what}",
                f"{self.what} cannot be recorded as CUDA graphs; they give the same numbers as called, and take "
                f"longer. Reason: {type(error).__name__}: {reason}",
            )
            return None


def _keep(kept: OrderedDict[Hashable, Value], key: Hashable, value: Value, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def record(run: Run, inputs: Inputs) -> Callable[[Inputs], Tensor]:
    """A function of inputs of the same shapes that replays the run. Imports, compilers and tuning run before."""
    own = [None if given is None else given.clone() for given in inputs]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(*own)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # other threads may use the GPU meanwhile
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        result = run(*own)

    def replay(inputs: Inputs) -> Tensor:
        for kept, given in zip(own, inputs, strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        graph.replay()
        return result.clone()

    return replay
