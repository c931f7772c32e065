"""The mean of every branch over a corpus: what head mixing would be if it did not depend on its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from model.config import DCFormerConfig
from model.mixing import Mixing, gate_matrices, lowrank_matrices
from model.taps import LayerActivations

POSITIONS_AT_ONCE = 1024
"""Positions whose H x H matrices are built at a time."""


@dataclass(frozen=True)
class MeanMixing:
    """Means over the tokens of a corpus, each token counted once on the query and once on the key side.

    matrices: (layer, site, branch) -> [H, H], float64 on the CPU. Low-rank branches are averaged as products
    down^T up, never as factors. tokens: how many were averaged over.
    """

    matrices: dict[tuple[int, str, str], Tensor]
    tokens: int

    @classmethod
    def over(cls, source: HookedDCFormer | Engine, prompts: Iterable[str | Tensor]) -> MeanMixing:
        """Run prompts one after the other, and average.

        Args:
            prompts: texts, or ids [batch, pos] without padding.
        Raises:
            ValueError: no prompts, or a model that mixes no heads.
        """
        engine = source if isinstance(source, Engine) else Engine(source)
        if not engine.cfg.mixed_sites:
            raise ValueError("This model mixes no heads (composition is off), so there is no mixing to average.")
        totals: dict[tuple[int, str, str], Tensor] = {}
        tokens = 0

        def add(at: LayerActivations) -> None:
            for site in engine.cfg.mixed_sites:
                for branch, total in _sums(at.mixing[site], engine.cfg):
                    key = at.layer, site, branch
                    totals[key] = totals.get(key, 0) + total

        with engine.tapped(add):
            for prompt in prompts:
                ids, mask = engine.model.to_tokens_and_mask(prompt)
                engine.residual(ids, mask)
                tokens += ids.numel()
        if not tokens:
            raise ValueError("No prompts were given to average over. Give at least one.")
        return cls({key: total / tokens for key, total in totals.items()}, tokens)

    def of(self, layer: int, site: str, branches: Sequence[str]) -> Tensor:
        """The sum of some branches' means, [H, H]; the base is constant already and has no mean here."""
        wanted = [self.matrices[layer, site, branch] for branch in branches if branch != "base"]
        return torch.stack(wanted).sum(0) if wanted else torch.zeros(())

    def check(self, cfg: DCFormerConfig) -> None:
        """Refuse a model of other sizes.

        Raises:
            ValueError: layers, sites, branches or heads differ from those averaged over.
        """
        expected = {
            (layer, site, f"{side}_{kind}")
            for layer in range(cfg.n_layers)
            for site in cfg.mixed_sites
            for side in cfg.dynamic_sides
            for kind in ("lowrank", "gate")
        }
        shapes = {tuple(matrix.shape) for matrix in self.matrices.values()}
        if set(self.matrices) != expected or shapes - {(cfg.n_heads, cfg.n_heads)}:
            raise ValueError("This mean was taken over another model: its layers, sites, branches or heads differ.")


def _sums(mixing: Mixing, cfg: DCFormerConfig) -> Iterable[tuple[str, Tensor]]:
    """Each branch's matrices summed over batch and positions, a bounded number of them built at a time."""
    for side in cfg.dynamic_sides:
        for kind, matrices in (("lowrank", lowrank_matrices), ("gate", gate_matrices)):
            total = torch.zeros(cfg.n_heads, cfg.n_heads, dtype=torch.float64)
            for start in range(0, getattr(mixing, f"{side}_gate").shape[1], POSITIONS_AT_ONCE):
                piece = slice(start, start + POSITIONS_AT_ONCE)
                cut = mixing.cut(piece, piece)
                total += matrices(cut, side).sum((0, 1), dtype=torch.float64).cpu()
            yield f"{side}_{kind}", total
