"""What every change of a model has in common: it is applied for a while, it runs, and it adds up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from model import Engine, HookedDCFormer
from model.config import DCFormerConfig
from model.taps import Tap

Source = TypeVar("Source", HookedDCFormer, Engine)


class Change(ABC):
    """What can be applied to a model for a while. Changes add up: the sum applies the left one first."""

    @abstractmethod
    def check(self, cfg: DCFormerConfig) -> None:
        """Refuse a model that lacks what this change names.

        Raises:
            ValueError: naming what is missing and what the model has.
        """

    @abstractmethod
    def tap(self, source: HookedDCFormer | Engine) -> Tap:
        """The tap that makes this change to a model that passed check."""

    @abstractmethod
    def first_layer(self, cfg: DCFormerConfig) -> int:
        """The first layer that is changed: every residual stream up to it is the intact model's."""

    def parts(self) -> tuple[Change, ...]:
        """The single changes, in the order in which they are applied."""
        return (self,)

    def __add__(self, other: Change) -> Combined:
        return Combined(self.parts() + other.parts())

    @contextmanager
    def applied(self, source: Source) -> Iterator[Source]:
        """Run the model with this change inside the context: forward, generation, capture, gradients.

        Args:
            source: the hooked model, or an engine; both ways of running the model are changed.
        Raises:
            ValueError: a layer, site, branch or head that this model has not.
        """
        self.check(source.cfg)
        with source.tapped(self.tap(source)):
            yield source

    def run(self, source: Source, *arguments: Any, **options: Any) -> Any:
        """What source(*arguments, **options) gives under this change."""
        with self.applied(source):
            return source(*arguments, **options)


@dataclass(frozen=True)
class Several(Change):
    """Changes held together: what each refuses is refused, and the first layer of any is the first."""

    changes: tuple[Change, ...]

    def check(self, cfg: DCFormerConfig) -> None:
        for change in self.changes:
            change.check(cfg)

    def first_layer(self, cfg: DCFormerConfig) -> int:
        return min(change.first_layer(cfg) for change in self.changes)


class Combined(Several):
    """Several changes, applied one after the other."""

    def parts(self) -> tuple[Change, ...]:
        return self.changes

    def tap(self, source: HookedDCFormer | Engine) -> Tap:
        taps = [change.tap(source) for change in self.changes]

        def all_of_them(at: Any) -> None:
            for tap in taps:
                tap(at)

        return all_of_them
