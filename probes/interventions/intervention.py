"""Intervention: which layers, sites, branches, heads and tokens of head mixing, and what becomes of them.

Interventions touch the factors alone, so they work at any length, in the hooked model and in the engine, and under
gradients; no map is built. Mixing is M(i, j) = base + Q(i) + K(j), see model/mixing.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from model.config import LARGEST, SITES, DCFormerConfig
from model.mixing import BRANCHES, Mixing, base_matrix
from model.plain_words import one_line, quoted
from model.site_mixing import one_index
from model.taps import LayerActivations, Tap
from probes.interventions.change import Change
from probes.interventions.controls import shuffled, shuffled_order, turned
from probes.interventions.donors import aligned, check_lengths, donor
from probes.interventions.edits import (
    Where,
    added,
    complete,
    constant_channels,
    factors,
    replaced,
    scaled,
    with_constant,
)
from probes.mean_mixing import MeanMixing

MODES = {
    "zero": "the branches contribute nothing",
    "identity": "M is the identity: no mixing at all; in every layer, this is the uncomposed twin",
    "mean": "the branches are frozen to their mean over a corpus, the same at every token",
    "scale": "the branches are multiplied by amount",
    "set": "the branches together become value, the same at every pair",
    "shuffle": "each token gets the branches of another token of its prompt",
    "random": "the branches' heads are turned at random: norm, rank and change from token to token stay",
    "patch": "the branches, or the queries, keys and values, are those of another prompt",
}
"""What can be done, in words."""
FOR_PATCHES = ("mixing", "q", "k", "v")
NEEDS = {"scale": "amount", "set": "value", "mean": "mean", "patch": "prompt"}
"""Modes that need a value, and its name."""
OF_TOKENS_ALONE = ("mean", "shuffle", "random", "patch")
"""Modes that leave the base as it is: it is the same at every token and in every prompt."""

Positions = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Intervention(Change):
    """One change of head mixing.

    layers, sites: where; None = wherever the model mixes. Negative layers count from the end.
    branches: of BRANCHES; None = the four that depend on tokens, as far as the model has them. "base" is I + W.
    sources, targets: heads whose rows and columns of M are changed; None = all. An edge g->h is sources=[g],
        targets=[h].
    positions: tokens whose own part of M is changed, Q at them as queries and K at them as keys; counted from each
        prompt's first token. The same for all prompts of a batch, or a list for each. None = all tokens.
    mode: one of MODES. amount: the dose of "scale"; 0 is "zero", 1 changes nothing. value: of "set", a number or a
        matrix [H, H] (source x target) of which the chosen rows and columns count. mean: of "mean". seed: of
        "shuffle" and "random". prompt: of "patch", text or ids [batch or 1, pos]; it runs in the model as it stands
        when this is applied, and must be as long as the prompt that is run, unless prompt_positions name the tokens
        of it that correspond to positions, in their order. what: of "patch", some of "mixing", "q", "k", "v"; None =
        "mixing". Queries and keys belong to source heads, values to target heads.
    Raises:
        ValueError: an unknown site, branch or mode, or a mode without what it needs.
    """

    layers: Sequence[int] | None = None
    sites: Sequence[str] | None = None
    branches: Sequence[str] | None = None
    sources: Sequence[int] | None = None
    targets: Sequence[int] | None = None
    positions: Positions | None = None
    mode: str = "zero"
    amount: float | None = None
    value: float | Tensor | None = field(default=None, compare=False)
    mean: MeanMixing | None = field(default=None, compare=False, repr=False)
    prompt: str | Tensor | None = field(default=None, compare=False)
    prompt_positions: Positions | None = None
    what: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "sites", "branches", "sources", "targets", "positions", "prompt_positions", "what"):
            _is_list(name, getattr(self, name))
        _is_whole("seed", [self.seed])
        if self.prompt is not None and not isinstance(self.prompt, str | Tensor):
            raise ValueError(f"prompt must be a text or token ids, got {type(self.prompt).__name__}.")
        for name in ("layers", "sources", "targets"):
            _is_whole(name, getattr(self, name) or ())
        for name in ("positions", "prompt_positions"):
            for row in _rows(getattr(self, name) or ()):
                _is_whole(name, row)
        _known(self.sites, SITES, "site")
        _known(self.branches, BRANCHES, "branch")
        _known([self.mode], tuple(MODES), "mode")
        _known(self.what, FOR_PATCHES, "part of a prompt")
        for mode, name in (*NEEDS.items(), ("patch", "what"), ("patch", "prompt_positions")):
            given = getattr(self, name) is not None
            if given and self.mode != mode:
                raise ValueError(f"Mode {self.mode!r} takes no {name}=, which belongs to mode {mode!r}.")
            if not given and self.mode == mode and NEEDS[mode] == name:
                raise ValueError(f"Mode {self.mode!r} needs {name}=.")
        _is_finite("amount", self.amount)
        _is_finite("value", self.value)
        if self.mode == "identity" and self.branches is not None:
            raise ValueError("Mode 'identity' replaces the whole of M. Leave branches out, or take mode 'zero'.")
        if not self._touches_mixing and (self.sites is not None or self.branches is not None):
            raise ValueError(f"what={list(self.what or ())} patches no mixing, which alone has sites and branches.")
        self._check_positions()

    def _check_positions(self) -> None:
        if self.prompt_positions is not None:
            counts = [[len(row) for row in _rows(given)] for given in (self.positions or [[]], self.prompt_positions)]
            if counts[0] != counts[1]:
                raise ValueError(
                    f"positions name {counts[0]} tokens of each prompt, prompt_positions {counts[1]}. Name one for one."
                )
        if self.positions is None:
            return
        sides = {branch.split("_")[0] for branch in self.branches or BRANCHES} - {"base"}
        if self.mode == "identity" or (self.mode == "set" and len(sides) != 1):
            raise ValueError(
                f"Mode {self.mode!r} fixes M of whole pairs, which belong to two tokens. Leave positions out, or set "
                "branches of one side: query_lowrank and query_gate, or key_lowrank and key_gate."
            )
        if "base" in (self.branches or ()):
            raise ValueError("The base belongs to no token. Leave positions out, or leave 'base' out of branches.")
        named = [row for given in (self.positions, self.prompt_positions or []) for row in _rows(given)]
        if any(position < 0 for row in named for position in row):
            raise ValueError("Positions count from 0, the first token of a prompt; a negative one was given.")

    @property
    def _touches_mixing(self) -> bool:
        return self.what is None or "mixing" in self.what

    # -- what the model has ------------------------------------------------------------------------

    def check(self, cfg: DCFormerConfig) -> None:
        if not cfg.mixed_sites and self._touches_mixing:
            raise ValueError("This model mixes no heads (composition is off), so there is nothing to intervene on.")
        for layer in self.layers or ():
            one_index(layer, cfg.n_layers, "layer")
        for head in (*(self.sources or ()), *(self.targets or ())):
            one_index(head, cfg.n_heads, "head")
        _present(self.sites, tuple(cfg.mixed_sites), "sites")
        _present(self.branches, branches_of(cfg), "branches")
        if isinstance(self.value, Tensor) and self.value.shape != (cfg.n_heads, cfg.n_heads):
            raise ValueError(f"value must be [{cfg.n_heads}, {cfg.n_heads}], got {list(self.value.shape)}.")
        if self.mode == "set" and (self._value(cfg.n_heads) * self._entries(cfg) * _between_groups(cfg)).any():
            raise ValueError(
                f"This model mixes heads within {cfg.groups} groups; value sets an edge between two of them."
            )
        if self.mean is not None:
            self.mean.check(cfg)

    def first_layer(self, cfg: DCFormerConfig) -> int:
        return min(self._layers(cfg))

    def _layers(self, cfg: DCFormerConfig) -> set[int]:
        return {one_index(layer, cfg.n_layers, "layer") for layer in _or(self.layers, range(cfg.n_layers))}

    # -- the change --------------------------------------------------------------------------------

    def tap(self, source: HookedDCFormer | Engine) -> Tap:
        cfg, layers = source.cfg, self._layers(source.cfg)
        taken = None if self.prompt is None else donor(source, self.prompt)
        sites = _or(self.sites, cfg.mixed_sites) if self._touches_mixing else ()

        def change(at: LayerActivations) -> None:
            if at.layer not in layers:
                return
            given = None if taken is None else self._aligned(at, taken[at.layer])
            if given is not None:
                self._patch_content(at, given, cfg)
            for site in sites:
                at.mixing[site] = self.changed(at, site, cfg, given)

        return change

    def changed(
        self, at: LayerActivations, site: str, cfg: DCFormerConfig, taken: LayerActivations | None = None
    ) -> Mixing:
        """The mixing of one layer and site under this intervention.

        Args:
            taken: of "patch", what the same layer attends with in the other prompt, position by position.
        """
        mixing, where = at.mixing[site], self._where(at, cfg)
        if self.mode == "identity" and self.sources is None and self.targets is None:
            return Mixing(n_heads=cfg.n_heads, groups=cfg.groups)
        mixing = complete(mixing, cfg.dynamic_sides, at.q)
        branches = self._branches(cfg)
        if self.mode in ("shuffle", "random", "patch"):
            given = None if taken is None else complete(taken.mixing[site], cfg.dynamic_sides, taken.q)
            new = self._replacements(at, site, mixing, branches, where, given)
            for branch in branches:
                mixing = replaced(mixing, branch, new[branch], where)
            return mixing
        dose = self.amount if self.mode == "scale" and self.amount is not None else 0.0
        for branch in branches:
            mixing = scaled(mixing, branch, dose, where)
        if self.mode == "identity":
            return with_constant(mixing, (torch.eye(cfg.n_heads) - base_matrix(mixing).cpu()) * where.entries)
        return self._with_constant(mixing, at.layer, site, branches, where) if self.mode in ("set", "mean") else mixing

    def _branches(self, cfg: DCFormerConfig) -> list[str]:
        spared = {"base"} if self.branches is None or self.mode in OF_TOKENS_ALONE else set()
        return [branch for branch in _or(self.branches, branches_of(cfg)) if branch not in spared]

    def _replacements(
        self,
        at: LayerActivations,
        site: str,
        mixing: Mixing,
        branches: Sequence[str],
        where: Where,
        given: Mixing | None,
    ) -> dict[str, tuple[Tensor, ...]]:
        """The new factors of each branch, at every entry and token: of the other prompt's mixing if it is given."""
        if given is not None:
            return {
                branch: tuple(factor.expand(len(at.q), *factor.shape[1:]) for factor in factors(given, branch))
                for branch in branches
            }
        if self.mode == "random":
            return {branch: turned(mixing, branch, where, at.layer, site, self.seed) for branch in branches}
        order = shuffled_order(at, where.tokens, self.seed)
        return {branch: shuffled(mixing, branch, order) for branch in branches}

    def _with_constant(self, mixing: Mixing, layer: int, site: str, branches: Sequence[str], where: Where) -> Mixing:
        """What stands in the place of the branches that were taken away: in the base, or at the chosen tokens."""
        value = self._value(mixing.n_heads)

        def constant(of: Sequence[str]) -> Tensor:
            return (value if self.mean is None else self.mean.of(layer, site, of)) * where.entries

        if where.tokens is None:
            return with_constant(mixing, constant(branches))
        for side in ("query", "key"):
            mine = [branch for branch in branches if branch.startswith(side)]
            if mine:
                mixing = added(mixing, side, *constant_channels(mixing, side, constant(mine)), where)
        return mixing

    def _aligned(self, at: LayerActivations, taken: LayerActivations) -> LayerActivations:
        """The other prompt's activations, position for position those of the run."""
        if self.prompt_positions is None or self.positions is None:
            check_lengths(at, taken)
            return taken
        self._tokens(at)  # refuses positions that the run lacks
        return aligned(at, taken, _rows(self.positions), _rows(self.prompt_positions))

    def _patch_content(self, at: LayerActivations, taken: LayerActivations, cfg: DCFormerConfig) -> None:
        where = self._where(at, cfg)
        for name, heads in (("q", where.sources), ("k", where.sources), ("v", where.targets)):
            if name in (self.what or ()):
                here = getattr(at, name)
                chosen = heads.bool().to(here.device)[:, None]
                if where.tokens is not None:
                    chosen = chosen & where.tokens[..., None, None]
                setattr(at, name, torch.where(chosen, getattr(taken, name), here))

    # -- which entries, which tokens ---------------------------------------------------------------

    def _entries(self, cfg: DCFormerConfig) -> Tensor:
        return _heads(self.sources, cfg)[:, None] * _heads(self.targets, cfg)

    def _where(self, at: LayerActivations, cfg: DCFormerConfig) -> Where:
        return Where(_heads(self.sources, cfg), _heads(self.targets, cfg), self._tokens(at))

    def _tokens(self, at: LayerActivations) -> Tensor | None:
        """True at the chosen tokens among the new ones, bool [batch or 1, pos]."""
        if self.positions is None:
            return None
        rows, places = _rows(self.positions), at.positions()
        if len(rows) not in (1, at.q.shape[0]):
            raise ValueError(
                f"Positions were given for {len(rows)} prompts, and {at.q.shape[0]} are run. Give one list, or as many."
            )
        places = places.expand(max(len(rows), len(places)), -1)
        wanted = [torch.tensor(rows[i % len(rows)], device=places.device) for i in range(len(places))]
        for place, row in zip(places, wanted, strict=True):
            _exist(row, int(place.max()) + 1 if at.whole else None)
        return torch.stack([torch.isin(place, row) for place, row in zip(places, wanted, strict=True)])

    def _value(self, n_heads: int) -> Tensor:
        """The value of "set", [H, H]."""
        value = self.value if isinstance(self.value, Tensor) else torch.tensor(float(self.value or 0.0))
        return value.detach().cpu().expand(n_heads, n_heads)


def uncomposed_twin() -> Intervention:
    """The same weights with M = I everywhere. Off the distribution that the weights were trained for."""
    return Intervention(mode="identity")


# -- what a model has ------------------------------------------------------------------------------


def branches_of(cfg: DCFormerConfig) -> tuple[str, ...]:
    """The branches that a model has, the base first."""
    return ("base", *(f"{side}_{kind}" for side in cfg.dynamic_sides for kind in ("lowrank", "gate")))


def _heads(chosen: Sequence[int] | None, cfg: DCFormerConfig) -> Tensor:
    """1 for chosen heads, 0 for others, [H]."""
    mask = torch.zeros(cfg.n_heads, dtype=torch.float64)
    mask[[one_index(head, cfg.n_heads, "head") for head in _or(chosen, range(cfg.n_heads))]] = 1.0
    return mask


def _between_groups(cfg: DCFormerConfig) -> Tensor:
    """1 where two heads are in different groups, [H, H]."""
    size = cfg.heads_per_group
    return 1 - torch.block_diag(*[torch.ones(size, size)] * cfg.groups)


def _rows(positions: Positions) -> list[list[int]]:
    """A list of positions for each prompt, or one for all."""
    listed: Any = [positions] if len(positions) and not isinstance(positions[0], Sequence) else positions
    if wrong := [row for row in listed if not isinstance(row, Sequence) or isinstance(row, str)]:
        raise ValueError(
            f"Positions must be a list of whole numbers, or one for each prompt, got {one_line(wrong[0])}."
        )
    return [list(row) for row in listed]


def _exist(positions: Tensor, length: int | None) -> None:
    """Refuse positions that a whole prompt lacks; in cached decoding they may come later."""
    if length is not None and len(positions) and int(positions.max()) >= length:
        raise ValueError(
            f"Position {int(positions.max())} does not exist: the prompt has {length} tokens, 0 to {length - 1}."
        )


def _is_list(name: str, given: Any) -> None:
    if isinstance(given, str | int):
        raise ValueError(f"{name} must be a list: {quoted([given])}, not {quoted(given)}.")
    if given is not None and not isinstance(given, Sequence):
        raise ValueError(f"{name} must be a list, got {quoted(given)}.")
    if given is not None and not len(given):
        raise ValueError(f"{name} is empty, so nothing would change. Leave it out to mean all.")


def _is_whole(name: str, given: Sequence[Any]) -> None:
    for number in given:
        if isinstance(number, bool) or not isinstance(number, Integral) or not -LARGEST <= int(number) <= LARGEST:
            raise ValueError(f"{name} must be whole numbers, got {quoted(number)}.")


def _is_finite(name: str, given: Any) -> None:
    number = isinstance(given, Real) and not isinstance(given, bool)
    if given is None or (number and math.isfinite(given)):
        return
    if not isinstance(given, Tensor):
        raise ValueError(f"{name} must be a finite number, got {quoted(given)}.")
    if not given.isfinite().all():
        raise ValueError(f"{name} must be finite, and {int((~given.isfinite()).sum())} of its entries are not.")


def _known(names: Sequence[str] | None, known: Sequence[str], kind: str) -> None:
    for name in names or ():
        if name not in known:
            raise ValueError(f"Unknown {kind} {quoted(name)}. Choose from {', '.join(known)}.")


def _present(names: Sequence[str] | None, present: Sequence[str], kind: str) -> None:
    missing = [name for name in names or () if name not in present]
    if missing:
        raise ValueError(f"This model has no {', '.join(missing)}. Its {kind}: {', '.join(present)}.")


def _or(given: Sequence | None, otherwise: Any) -> Any:
    return otherwise if given is None else given
