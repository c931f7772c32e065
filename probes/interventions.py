"""Changes of head mixing, as values: which layers, sites, branches and heads, and what becomes of them.

They touch the factors alone, so they work at any length, in the hooked model and in the engine, during cached decoding
and under gradients; no map is built. Mixing is M(i, j) = base + Q(i) + K(j), see model/mixing.py; a low-rank branch is
changed through the product down^T up, never through one factor, whose basis means nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from model.config import SITES, DCFormerConfig
from model.mixing import BRANCHES, Mixing, base_matrix
from model.site_mixing import one_index
from model.taps import LayerActivations
from probes.mean_mixing import MeanMixing

Source = TypeVar("Source", HookedDCFormer, Engine)

MODES = {
    "zero": "the branches contribute nothing",
    "identity": "M is the identity: no mixing at all; in every layer, this is the uncomposed twin",
    "mean": "the branches are frozen to their mean over a corpus, the same at every token",
    "scale": "the branches are multiplied by amount",
    "set": "the branches together become value, the same at every pair",
}
"""What can be done, in words."""


class Change(ABC):
    """What can be applied to a model for a while. Changes add up: the sum applies the left one first."""

    @abstractmethod
    def parts(self) -> tuple[Intervention, ...]:
        """The single interventions, in the order in which they are applied."""

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
        for part in self.parts():
            part.check(source.cfg)
        with source.tapped(*(part.tap(source.cfg) for part in self.parts())):
            yield source

    def run(self, source: Source, *arguments: Any, **options: Any) -> Any:
        """What source(*arguments, **options) gives under this change."""
        with self.applied(source):
            return source(*arguments, **options)


@dataclass(frozen=True)
class Intervention(Change):
    """One change of head mixing.

    layers, sites: where; None = wherever the model mixes. Negative layers count from the end.
    branches: of BRANCHES; None = the four that depend on tokens, as far as the model has them. "base" is I + W.
    sources, targets: heads whose rows and columns of M are changed; None = all. An edge g->h is sources=[g],
        targets=[h].
    mode: one of MODES. amount: the dose of "scale"; 0 is "zero", 1 changes nothing. value: of "set", a number or a
        matrix [H, H] (source x target) of which the chosen rows and columns count. mean: of "mean".
    Raises:
        ValueError: an unknown site, branch or mode, or a mode without what it needs.
    """

    layers: Sequence[int] | None = None
    sites: Sequence[str] | None = None
    branches: Sequence[str] | None = None
    sources: Sequence[int] | None = None
    targets: Sequence[int] | None = None
    mode: str = "zero"
    amount: float | None = None
    value: float | Tensor | None = field(default=None, compare=False)
    mean: MeanMixing | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("layers", "sites", "branches", "sources", "targets"):
            _is_list(name, getattr(self, name))
        _known(self.sites, SITES, "site")
        _known(self.branches, BRANCHES, "branch")
        _known([self.mode], tuple(MODES), "mode")
        for mode, name in (("scale", "amount"), ("set", "value"), ("mean", "mean")):
            given = getattr(self, name) is not None
            if given != (self.mode == mode):
                problem = f"needs {name}=" if not given else f"takes no {name}=, which belongs to mode {mode!r}"
                raise ValueError(f"Mode {self.mode!r} {problem}.")
        if self.mode == "identity" and self.branches is not None:
            raise ValueError("Mode 'identity' replaces the whole of M. Leave branches out, or take mode 'zero'.")

    def parts(self) -> tuple[Intervention, ...]:
        return (self,)

    def check(self, cfg: DCFormerConfig) -> None:
        """Refuse a model that lacks what this intervention names.

        Raises:
            ValueError: naming what is missing and what the model has.
        """
        if not cfg.mixed_sites:
            raise ValueError("This model mixes no heads (composition is off), so there is nothing to intervene on.")
        for layer in self.layers or ():
            one_index(layer, cfg.n_layers, "layer")
        for head in (*(self.sources or ()), *(self.targets or ())):
            one_index(head, cfg.n_heads, "head")
        _present(self.sites, tuple(cfg.mixed_sites), "sites")
        _present(self.branches, _branches_of(cfg), "branches")
        if isinstance(self.value, Tensor) and self.value.shape != (cfg.n_heads, cfg.n_heads):
            raise ValueError(f"value must be [{cfg.n_heads}, {cfg.n_heads}], got {list(self.value.shape)}.")
        if self.mode == "set" and cfg.groups > 1 and (self._constant(cfg) * _between_groups(cfg)).any():
            raise ValueError(
                f"This model mixes heads within {cfg.groups} groups; value sets an edge between two of them."
            )
        if self.mean is not None:
            self.mean.check(cfg)

    def tap(self, cfg: DCFormerConfig) -> Any:
        """The tap that applies this intervention to a model of this configuration."""
        layers = {one_index(layer, cfg.n_layers, "layer") for layer in _or(self.layers, range(cfg.n_layers))}
        sites = _or(self.sites, cfg.mixed_sites)

        def change(at: LayerActivations) -> None:
            if at.layer in layers:
                for site in sites:
                    at.mixing[site] = self.changed(at.mixing[site], cfg, at.layer, site)

        return change

    def changed(self, mixing: Mixing, cfg: DCFormerConfig, layer: int, site: str) -> Mixing:
        """The mixing of one layer and site under this intervention."""
        if self.mode == "identity" and self.sources is None and self.targets is None:
            return Mixing(n_heads=cfg.n_heads, groups=cfg.groups)
        # the base is its own mean, and stays unless it is named
        spared = {"base"} if self.branches is None or self.mode == "mean" else set()
        branches = [branch for branch in _or(self.branches, _branches_of(cfg)) if branch not in spared]
        dose = self.amount if self.mode == "scale" and self.amount is not None else 0.0
        for branch in branches:
            mixing = _scaled(mixing, branch, dose, self._heads(self.sources, cfg), self._heads(self.targets, cfg))
        if self.mode == "identity":
            constant = torch.eye(cfg.n_heads) - base_matrix(mixing).cpu()
        elif self.mode == "set":
            constant = self._constant(cfg)
        elif self.mean is not None:
            constant = self.mean.of(layer, site, branches)
        else:
            return mixing
        return _with_constant(mixing, constant * self._chosen(cfg))

    def _constant(self, cfg: DCFormerConfig) -> Tensor:
        """The value of "set", zero outside the chosen heads, [H, H]."""
        value = self.value if isinstance(self.value, Tensor) else torch.tensor(float(self.value or 0.0))
        return value.detach().cpu().expand(cfg.n_heads, cfg.n_heads) * self._chosen(cfg)

    def _chosen(self, cfg: DCFormerConfig) -> Tensor:
        """1 at the entries of M that are changed, [H, H]."""
        return self._heads(self.sources, cfg)[:, None] * self._heads(self.targets, cfg)

    @staticmethod
    def _heads(chosen: Sequence[int] | None, cfg: DCFormerConfig) -> Tensor:
        """1 for chosen heads, 0 for others, [H]."""
        mask = torch.zeros(cfg.n_heads)
        mask[[one_index(head, cfg.n_heads, "head") for head in _or(chosen, range(cfg.n_heads))]] = 1.0
        return mask


@dataclass(frozen=True)
class Combined(Change):
    """Several interventions, applied one after the other."""

    interventions: tuple[Intervention, ...]

    def parts(self) -> tuple[Intervention, ...]:
        return self.interventions


def uncomposed_twin() -> Intervention:
    """The same weights with M = I everywhere. Off the distribution that the weights were trained for."""
    return Intervention(mode="identity")


# -- one branch of one site ------------------------------------------------------------------------


def _scaled(mixing: Mixing, branch: str, dose: float, sources_H: Tensor, targets_H: Tensor) -> Mixing:
    """One branch multiplied by dose in the chosen rows and columns."""
    if branch == "base":
        base = base_matrix(mixing)
        return _with_constant(mixing, (dose - 1) * base.cpu() * (sources_H[:, None] * targets_H))
    side, kind = branch.split("_")
    if kind == "gate":
        gate = getattr(mixing, branch)
        return mixing.with_factors({branch: gate * _like(1 + (dose - 1) * sources_H * targets_H, gate)})
    down, up = getattr(mixing, f"{side}_down"), getattr(mixing, f"{side}_up")
    sources, targets = (_by_group(_like(heads, up), mixing.groups) for heads in (sources_H, targets_H))
    if bool((sources_H == 1).all()):
        return mixing.with_factors({f"{side}_up": up * (1 + (dose - 1) * targets)})
    # R channels more, which add (dose - 1) times the product between the chosen heads
    down, up = torch.cat([down, down * sources], -2), torch.cat([up, (dose - 1) * up * targets], -2)
    return mixing.with_factors({f"{side}_down": down, f"{side}_up": up})


def _with_constant(mixing: Mixing, added: Tensor) -> Mixing:
    """M with a constant more, [H, H], which joins the base."""
    like = next(iter(mixing.factors().values()), mixing.static)
    constant = added if like is None else _like(added, like)
    return replace(mixing, static=constant if mixing.static is None else mixing.static + constant)


def _like(x: Tensor, other: Tensor) -> Tensor:
    return x.to(device=other.device, dtype=other.dtype)


def _by_group(heads_H: Tensor, groups: int) -> Tensor:
    """As the last axes of a low-rank factor: [1, H], or [G, 1, H/G] with groups."""
    return heads_H[None] if groups == 1 else heads_H.unflatten(0, (groups, 1, -1))


def _between_groups(cfg: DCFormerConfig) -> Tensor:
    """1 where two heads are in different groups, [H, H]."""
    size = cfg.heads_per_group
    return 1 - torch.block_diag(*[torch.ones(size, size)] * cfg.groups)


# -- what a model has ------------------------------------------------------------------------------


def _branches_of(cfg: DCFormerConfig) -> tuple[str, ...]:
    return ("base", *(f"{side}_{kind}" for side in cfg.dynamic_sides for kind in ("lowrank", "gate")))


def _is_list(name: str, given: Any) -> None:
    if isinstance(given, str | int):
        raise ValueError(f"{name} must be a list: [{given!r}], not {given!r}.")
    if given is not None and not len(given):
        raise ValueError(f"{name} is empty, so nothing would change. Leave it out to mean all.")


def _known(names: Sequence[str] | None, known: Sequence[str], kind: str) -> None:
    for name in names or ():
        if name not in known:
            raise ValueError(f"Unknown {kind} {name!r}. Choose from {', '.join(known)}.")


def _present(names: Sequence[str] | None, present: Sequence[str], kind: str) -> None:
    missing = [name for name in names or () if name not in present]
    if missing:
        raise ValueError(f"This model has no {', '.join(missing)}. Its {kind}: {', '.join(present)}.")


def _or(given: Sequence | None, otherwise: Any) -> Any:
    return otherwise if given is None else given
