"""Which fits a table needs: every cell's own, and each reference once for all cells that are held against it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probes.estimators import ProbeKind
from probes.probing.cells import Features, ProbeCell, Source, checked_source, seed_of
from probes.probing.jobs import FitKey, Job, fit_key
from probes.probing.label import Label
from probes.probing.references import FAKES, OF_LABEL, REFERENCES, position_features

Comparison = tuple[Source | None, str]
"""Features and target of a reference; None = it needs no features of its own and no probe."""


@dataclass(frozen=True)
class Plan:
    """All that is probed, checked.

    sources: of each cell, in their order. references: their names, in the order of the table. nothing: features that
    say nothing.
    """

    cells: Sequence[ProbeCell]
    sources: Sequence[Source]
    labels: Sequence[Label]
    probes: Sequence[ProbeKind]
    references: Sequence[str]
    nothing: Source
    positions: Source | None
    residuals: Mapping[str, Source]
    random_inits: Mapping[str, Source]
    seed: int
    _reduced: dict[tuple[str, str, int], Source] = field(default_factory=dict)

    def comparisons(self, number: int, probe: ProbeKind) -> Iterator[tuple[str, Comparison]]:
        """What a probe of a cell is held against: (name of the reference, its features and target)."""
        cell, source = self.cells[number], self.sources[number]
        residual = None if cell.residual is None else self.residuals[cell.residual]
        found: dict[str, Source | None] = {
            "position": self.positions, "residual": residual, "random_init": self.random_inits.get(cell.key),
            "residual_pca": self._reduce(residual, "pca", source.features),
            "residual_projection": self._reduce(residual, "projection", source.features),
        }  # fmt: skip
        for name in self.references:
            if name == "constant" and probe.online:
                yield name, (self.nothing, "real")  # a code needs no features either, but it codes in order
            elif name in OF_LABEL:
                yield name, (None, name)
            elif name in FAKES:
                yield name, (source, name)
            elif (its := found[name]) is not None:
                yield name, (its, "real")

    def probes_of(self, label: Label) -> list[ProbeKind]:
        return [probe for probe in self.probes if getattr(probe, label.kind) is not None]

    @cached_property
    def fits(self) -> dict[FitKey, tuple[Source, Label]]:
        """Every fit that the table needs, once."""
        found: dict[FitKey, tuple[Source, Label]] = {}
        for number, source in enumerate(self.sources):
            for label, probe in ((one, kind) for one in self.labels for kind in self.probes_of(one)):
                compared = (comparison for _, comparison in self.comparisons(number, probe))
                for features, target in ((source, "real"), *compared):
                    if features is not None:
                        found[fit_key(features, label, probe.name, target)] = (features, label)
        return found

    def jobs(self, done: set[FitKey]) -> list[Job]:
        """The fits that are not done, those of the same features and label together."""
        wanted: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        of: dict[tuple[str, str], tuple[Source, Label]] = {}
        for key, (source, label) in self.fits.items():
            if key not in done:
                wanted[source.key, label.name].append((key[4], key[5]))
                of[source.key, label.name] = source, label
        return [Job(*of[place], tuple(pairs), self.seed) for place, pairs in wanted.items()]

    def _reduce(self, residual: Source | None, method: str, features: int) -> Source | None:
        """The residual stream in as many dimensions as a cell has features; as it is where it has no more."""
        if residual is None or features >= residual.features:
            return residual
        place = residual.key, method, features
        if place not in self._reduced:
            self._reduced[place] = residual.reduced_to(method, features, seed_of(self.seed, *map(str, place)))
        return self._reduced[place]


def make_plan(
    cells: Sequence[ProbeCell], labels: Sequence[Label], probes: Sequence[ProbeKind], references: Sequence[str] | None,
    residuals: Mapping[str, Features], positions: NDArray | None, token_ids: NDArray | None, tokens: int, seed: int,
) -> Plan:  # fmt: skip
    """Check cells and references, looking at all features once.

    Raises:
        ValueError: what probe_cells refuses of cells, residuals and references.
    """
    _check_cells(cells, residuals)
    needed = {cell.residual for cell in cells if cell.residual is not None}
    random_inits = {}
    for cell in cells:
        if cell.random_init is not None:
            key = f"random init of {cell.key}"
            random_inits[cell.key] = checked_source(key, cell.random_init, tokens)
    plan = Plan(
        cells=cells, labels=labels, probes=probes, seed=seed, random_inits=random_inits,
        sources=[checked_source(f"cell {cell.key}", cell.X, tokens) for cell in cells],
        references=_references(references, positions, token_ids, bool(needed), bool(random_inits)),
        nothing=Source("nothing", np.zeros((tokens, 1), dtype=np.float32), f"{tokens} zeros", 1),
        positions=None if positions is None else checked_source("position", position_features(positions), tokens),
        residuals={name: checked_source(f"residual {name}", residuals[name], tokens) for name in sorted(needed)},
    )  # fmt: skip
    _check_probes(plan)
    return plan


def _check_cells(cells: Sequence[ProbeCell], residuals: Mapping[str, Features]) -> None:
    if not cells:
        raise ValueError("No cells were given. Give at least one ProbeCell.")
    keys = [cell.key for cell in cells]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"Two cells have the labels {twice}. Give each its own.")
    for cell in cells:
        if cell.residual is not None and cell.residual not in residuals:
            raise ValueError(
                f"Cell {cell.key} is held against the residual stream {cell.residual!r}, and residuals has "
                f"{', '.join(map(repr, residuals)) or 'none'}. Add it there, or leave residual out of the cell."
            )


def _check_probes(plan: Plan) -> None:
    for label in plan.labels:
        if not plan.probes_of(label):
            names = ", ".join(probe.name for probe in plan.probes)
            raise ValueError(
                f"Label {label.name!r} has {label.kind}, which none of the probes ({names}) takes. Add "
                f"{'linear' if label.kind == 'classes' else 'ridge'!r}."
            )


def _references(
    names: Sequence[str] | None, positions: NDArray | None, token_ids: NDArray | None, residual: bool, random: bool
) -> list[str]:
    """The references asked for, or all that can be had, in the order of REFERENCES."""
    needs = {
        "position": (positions is not None, "positions="), "token_identity": (token_ids is not None, "token_ids="),
        "control_task": (token_ids is not None, "token_ids="), "random_init": (random, "random_init of a cell"),
        **dict.fromkeys(("residual", "residual_pca", "residual_projection"), (residual, "residual of a cell")),
    }  # fmt: skip
    if names is not None and (isinstance(names, str) or not names):
        raise ValueError(f"references must be a list of names, got {names!r}. Leave it out to mean all.")
    for name in names or ():
        if name not in REFERENCES:
            raise ValueError(f"Unknown reference {name!r}. Choose from {', '.join(REFERENCES)}.")
        had, what = needs.get(name, (True, ""))
        if not had:
            raise ValueError(f"The reference {name!r} needs {what}, which was not given. Give it, or leave {name} out.")
    chosen = REFERENCES if names is None else names
    return [name for name in REFERENCES if name in chosen and needs.get(name, (True, ""))[0]]


def as_column(name: str, values: object, tokens: int | None = None) -> NDArray:
    """One number or name for each token.

    Raises:
        ValueError: not one-dimensional, or another number of tokens.
    """
    column = np.asarray(values)
    if column.ndim != 1 or not len(column) or (tokens is not None and len(column) != tokens):
        wanted = "at least one token" if tokens is None else f"{tokens} tokens, as documents has"
        raise ValueError(f"{name} must be one-dimensional with {wanted}, got shape {list(column.shape)}.")
    return column
