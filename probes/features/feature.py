"""The kinds of feature, by what they are read from: mixing factors, the residual stream, maps, predictions.

Axes: B batch, T token, N head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from torch import Tensor

from model import DCFormerConfig
from model.mixing import Mixing
from probes.metrics.kinds import RowReader


class Place(NamedTuple):
    """Where a feature is read: a layer, and a site ("pre", "post") or a stage ("raw", "composed")."""

    layer: int | None = None
    where: str | None = None

    def __str__(self) -> str:
        return ".".join(str(part) for part in self if part is not None)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One feature at one place of one model.

    name: kind@place, such as "query_part@3.post". shape: of one token's values. unit, meaning: in words, for the
    manifest.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    unit: str
    meaning: str

    @property
    def size(self) -> int:
        """Numbers a token."""
        return prod(self.shape)

    def layers_needed(self, cfg: DCFormerConfig) -> int:
        """How many of the model's layers must run."""
        return cfg.n_layers


@dataclass(frozen=True, kw_only=True)
class ActivationFeature(Feature):
    """Made from factors of one layer and site. reads: of model.mixing.FACTORS. values: Mixing -> [B, T, *shape]."""

    reads: tuple[str, ...]
    values: Callable[[Mixing], Tensor] = field(compare=False)

    def layers_needed(self, cfg: DCFormerConfig) -> int:
        assert self.place.layer is not None
        return self.place.layer + 1


@dataclass(frozen=True, kw_only=True)
class PartFeature(ActivationFeature):
    """Q(i) or K(j). factors: the features (down, up, gate) that it can be kept as."""

    factors: tuple[ActivationFeature, ...]

    @property
    def smaller_as_factors(self) -> bool:
        return sum(factor.size for factor in self.factors) < self.size


@dataclass(frozen=True, kw_only=True)
class ResidualFeature(Feature):
    """The residual stream entering the layer of its place; the number of layers means after the last."""

    def layers_needed(self, cfg: DCFormerConfig) -> int:
        assert self.place.layer is not None
        return self.place.layer


@dataclass(frozen=True, kw_only=True)
class HeadFeature(Feature):
    """A number for each head and query, from the layer's maps; see RowReader."""

    reader: RowReader = field(compare=False)

    def layers_needed(self, cfg: DCFormerConfig) -> int:
        assert self.place.layer is not None
        return self.place.layer + 1


@dataclass(frozen=True, kw_only=True)
class PredictionFeature(Feature):
    """What the logits say of the token that came next; a column of the token table. dtype: of that column."""

    dtype: str


@dataclass(frozen=True)
class FeatureKind:
    """One kind of feature.

    name: as in names before the @. title: in words. places: where a model has it. at: the feature there.
    """

    name: str
    title: str
    places: Callable[[DCFormerConfig], Sequence[Place]]
    at: Callable[[DCFormerConfig, Place], Feature]
