"""The kinds of metric, and what every one of them says of itself.

A metric is a value: a few words (title, unit, definition, ranges) and a function. Captures are given as one Capture or
several of the same model; several are one corpus, over which sums run before anything is divided.
Results are float64. Axes: N head, T query, S key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from model import Capture
from probes.metrics.blocks import Block, LayerOfRun
from probes.metrics.site_moments import SiteMoments

Runs = Capture | Sequence[Capture]
Range = tuple[float, float]

STAGES = ("raw", "composed")
WEIGHT_RANGES = {"raw": (0.0, 1.0), "composed": (-inf, inf)}
"""Of a sum of weights over some keys: raw rows sum to 1, composed rows are signed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Metric:
    """What every metric says of itself.

    name: for tables and code. title, unit: for people. definition: the formula, its source, and what it means for a
        signed map.
    ranges: smallest and largest value, by the stage ("raw", "composed") or site ("pre", "post") that is accepted.
    refusals: why a stage or site is not accepted, and what to use.
    """

    name: str
    title: str
    unit: str
    definition: str
    ranges: Mapping[str, Range]
    refusals: Mapping[str, str] = field(default_factory=dict)

    def check(self, where: str) -> None:
        """Refuse a stage or site that this metric does not accept.

        Raises:
            ValueError: why, and what to use.
        """
        if where in self.refusals:
            raise ValueError(f"{self.name} does not take {where!r}: {self.refusals[where]}")
        if where not in self.ranges:
            raise ValueError(f"{self.name} was asked for {where!r}. Choose from {', '.join(self.ranges)}.")


def every_query(tokens_T: Tensor) -> Tensor:
    return torch.ones(len(tokens_T), dtype=torch.bool)


def all_but_the_first(tokens_T: Tensor) -> Tensor:
    """Query 0 sees itself alone: what it does with its weights is no choice of the head."""
    return torch.arange(len(tokens_T)) > 0


class RowReader(NamedTuple):
    """A number for each head and query from a block. maps: what it reads; rows: block -> [head, query], float64."""

    maps: tuple[str, ...]
    rows: Callable[[Block], Tensor]


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryMean(Metric):
    """A metric that is a mean over queries.

    counted: which queries count, from the tokens alone, so that they are the same in every layer.
    needs: what a prompt must hold for a query to count.
    """

    counted: Callable[[Tensor], Tensor] = every_query
    needs: str = "a token"

    def answerable(self, runs: Runs) -> bool:
        """Whether any query of these captures counts."""
        return any(bool(self.counted(run.tokens).any()) for run in as_list(runs))

    def check_tokens(self, runs: Runs) -> None:
        if not self.answerable(runs):
            raise ValueError(
                f"{self.name} needs {self.needs}, and no given prompt has one. Give a prompt that has: "
                "repeated_random_tokens(model, block) makes one."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadMetric(QueryMean):
    """A number for each head, from its pattern. rows: (weights [head, query, key], block) -> [head, query].

    A raw head is a source head, a composed one a target head.
    """

    rows: Callable[[Tensor, Block], Tensor]

    def __call__(self, runs: Runs, layer: int, stage: str) -> Tensor:
        """Mean over the queries that count of all captures, float64 [head].

        Args:
            stage: "raw" or "composed".
        Raises:
            ValueError: a stage that makes no sense here, or no query that counts.
        """
        return query_means([(self, self.reader(stage))], runs, layer)[0]

    def baseline(self, runs: Runs, layer: int) -> Tensor:
        """What a head would get that weighs all keys it may see alike, [head]."""
        uniform = RowReader((), lambda block: self.rows(block.uniform(), block))
        return query_means([(self, uniform)], runs, layer)[0]

    def reader(self, stage: str) -> RowReader:
        """The rows of a block at a stage."""
        self.check(stage)
        name = f"pattern_{stage}"
        return RowReader((name,), lambda block: self.rows(block.map(name), block))


@dataclass(frozen=True, eq=False, kw_only=True)
class DistanceMetric(QueryMean):
    """How far a head's composed map is from its raw map, at one site.

    reader: from a block to [head, query]. baseline: its value where nothing is mixed.
    """

    reader: RowReader
    baseline: float = 0.0

    @property
    def site(self) -> str:
        return next(iter(self.ranges))

    def __call__(self, runs: Runs, layer: int) -> Tensor:
        """Mean over the queries that count of all captures, float64 [head].

        Raises:
            ValueError: no query counts.
        """
        return query_means([(self, self.reader)], runs, layer)[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class DiversityMetric(Metric):
    """How different the heads of a layer are, in one number. baseline: of heads that all do the same."""

    value: Callable[[list[Capture], int, str], float]
    baseline: float

    def __call__(self, runs: Runs, layer: int, stage: str) -> float:
        """The value over all captures together.

        Args:
            stage: "raw" or "composed".
        Raises:
            ValueError: a stage that makes no sense here, a single head, or too few tokens.
        """
        self.check(stage)
        several = as_list(runs)
        if several[0].cfg.n_heads < 2:
            raise ValueError(f"{self.name} compares heads, and this model has one. Give a model of at least 2 heads.")
        return self.value(several, layer, stage)


@dataclass(frozen=True, eq=False, kw_only=True)
class MixingMetric(Metric):
    """What the mixing matrices of a layer and site are like, in one number. baseline: its value where M = I."""

    value: Callable[[SiteMoments], float]
    baseline: float

    def __call__(self, runs: Runs, layer: int, site: str) -> float:
        """The value over all captures together, which are the corpus of every expectation.

        Args:
            site: "pre" or "post".
        Raises:
            ValueError: nothing is mixed at this site.
        """
        self.check(site)
        return self.value(SiteMoments(as_list(runs), layer, site))


def as_list(runs: Runs) -> list[Capture]:
    """One capture or several, as a list.

    Raises:
        ValueError: none, or captures of different models.
    """
    several = [runs] if isinstance(runs, Capture) else list(runs)
    if not several:
        raise ValueError("No captures were given. Give at least one.")
    described = several[0].cfg.to_json_dict()
    if any(run.cfg.to_json_dict() != described for run in several[1:]):
        raise ValueError("The captures are of models of different configurations. Measure each model by itself.")
    return several


def maps_of(readers: Iterable[RowReader]) -> list[str]:
    """Every map that some readers read, each once."""
    return list(dict.fromkeys(name for reader in readers for name in reader.maps))


def query_means(measures: Sequence[tuple[QueryMean, RowReader]], runs: Runs, layer: int) -> Tensor:
    """Means of several measures over their queries, float64 [measure, head]; every block is built once for all.

    Args:
        measures: a metric, whose queries count, and what reads its rows.
    Raises:
        ValueError: no query counts for one of them.
    """
    several = as_list(runs)
    for metric, _ in measures:
        metric.check_tokens(several)
    totals = torch.zeros(len(measures), several[0].cfg.n_heads, dtype=torch.float64)
    queries = torch.zeros(len(measures), 1, dtype=torch.float64)
    maps = maps_of([reader for _, reader in measures])
    for run in several:
        counted = [metric.counted(run.tokens) for metric, _ in measures]
        queries += torch.stack(counted).sum(1, keepdim=True)

        def sums(block: Block, counted: list[Tensor] = counted) -> Tensor:
            return torch.stack([
                reader.rows(block)[:, counted_T[block.rows]].sum(1)
                for counted_T, (_, reader) in zip(counted, measures, strict=True)
            ])  # fmt: skip

        totals += torch.stack(LayerOfRun(run, layer).each(sums, maps)).sum(0)
    return totals / queries
