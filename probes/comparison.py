"""Two runs side by side: composed against its uncomposed twin, a plain model, another checkpoint or another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from model import Capture, Engine, HookedDCFormer, capture
from probes.interventions import Change
from probes.interventions.change import Source
from probes.side_by_side import (
    aligned,
    head_pairs,
    next_tokens,
    paired_metrics,
    predictions,
    row_distances,
    same_vocabulary,
)

POSITIONS_AT_ONCE = 256
"""Positions whose next-token distributions are held in float64 at a time."""
PAIRINGS = {
    "same": "the same weights in both runs: head h is head h",
    "matched": "two trainings, whose head numbers have nothing to do with each other: paired within each layer by the "
    "least total distance of composed patterns",
    "unpaired": "two trainings with other numbers of layers: not paired",
}


@dataclass(frozen=True)
class Comparison:
    """What compare and compare_runs give.

    names: of the two sides. runs: their captures. pairs: positions (first, second) that hold the same token, in
    order. pairing: which of PAIRINGS. note: what to keep in mind, or "". same_ids: a token id means the same text in
    both.
    """

    names: tuple[str, str]
    runs: tuple[Capture, Capture]
    pairs: list[tuple[int, int]]
    pairing: str
    note: str = ""
    same_ids: bool = True

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row for each pair of positions: what each side predicts there.

        Columns: position_a, position_b, token, loss_a and loss_b (nats, of the token that follows; nan where none
        does), kl (KL(a || b) of the next-token distributions in nats; nan between different vocabularies), next_a and
        next_b (id of the most likely next token).
        """
        places = torch.tensor(self.pairs)
        parts = places.split(POSITIONS_AT_ONCE)
        pieces = [predictions(self.runs, part[:, 0], part[:, 1], self.same_ids) for part in parts]
        found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        table = pd.DataFrame({"position_a": places[:, 0], "position_b": places[:, 1]} | found)
        table.insert(2, "token", [self.runs[0].str_tokens[i] for i, _ in self.pairs])
        return table

    @cached_property
    def heads(self) -> pd.DataFrame:
        """One row for each pair of heads: layer, head_a, head_b, distance, runner_up; none where heads are not paired.

        distance: of the composed patterns, mean over aligned queries of the L1 distance of the two rows over aligned
        keys. How far each head's own pattern is mixed is probes.metrics.raw_to_composed.
        runner_up: the least distance from head_a to any head of b but its partner: the further above distance, the
        clearer the match; below, the head took what others had left. nan where head h is head h.
        """
        rows = []
        for layer in range(self.runs[0].cfg.n_layers) if self.pairing != "unpaired" else ():
            pairs = head_pairs(self.runs, layer, self._places, self.pairing == "same")
            rows += [(layer, *pair) for pair in pairs]
        return pd.DataFrame(rows, columns=["layer", "head_a", "head_b", "distance", "runner_up"])

    @cached_property
    def unpaired(self) -> pd.DataFrame:
        """Heads that have no partner: side ("a" or "b"), layer, head."""
        rows = []
        for side, run in zip("ab", self.runs, strict=True):
            taken = set(zip(self.heads["layer"], self.heads[f"head_{side}"], strict=True))
            places = product(range(run.cfg.n_layers), range(run.cfg.n_heads))
            rows += [(side, *place) for place in places if place not in taken]
        return pd.DataFrame(rows, columns=["side", "layer", "head"])

    def heads_at(self, pair: int) -> pd.DataFrame:
        """The pairs of heads at one aligned query: layer, head_a, head_b, distance (L1 of the two composed rows).

        Args:
            pair: number of the pair of positions, a row of tokens.
        """
        return row_distances(self.runs, self.pairs, self.heads, pair)

    def next_tokens(self, pair: int, count: int = 5) -> pd.DataFrame:
        """The most likely next tokens of both sides after a pair of positions: id_a, id_b, p_a, p_b.

        Args:
            pair: a row of tokens. count: how many of each side; rows are their union, most likely (on either side)
                first. Between different vocabularies a row belongs to one side, and the rest of it is missing.
        """
        return next_tokens(self.runs, self.pairs[pair], count, self.same_ids)

    def metrics(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Head metrics of both sides for paired heads: layer, head_a, head_b, stage, metric, a, b, difference (b - a).

        Args:
            names: of probes.metrics; None = those that both prompts allow.
        """
        return paired_metrics(self.runs, self.heads, names)

    @property
    def summary(self) -> dict[str, Any]:
        """Both losses and the mean divergence, in nats per token; and what changed most.

        Means run over the aligned tokens that have a following token on both sides, as in probes.measures.
        """
        worst = self.heads[["layer", "head_a", "head_b", "distance"]].sort_values("distance", ascending=False).head(1)
        counted = self.tokens.dropna(subset=["loss_a", "loss_b"])
        same = float((self.tokens.next_a == self.tokens.next_b).mean()) if self.same_ids else float("nan")
        return {
            "a": self.names[0], "b": self.names[1], "aligned_tokens": len(self.pairs), "predicted": len(counted),
            **counted[["loss_a", "loss_b", "kl"]].mean().to_dict(), "same_next_token": same, "heads": self.pairing,
            "most_changed": {} if worst.empty else worst.iloc[0].to_dict(), "note": self.note,
        }  # fmt: skip

    @property
    def _places(self) -> tuple[Tensor, Tensor]:
        places = torch.tensor(self.pairs)
        return places[:, 0], places[:, 1]


def compare(
    a: Source,
    b: HookedDCFormer | Engine | Change,
    prompt: str | Tensor,
    *,
    other_prompt: str | Tensor | None = None,
    same_heads: bool | None = None,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """Run one prompt through two models, or through one model with and without a change, and align the results.

    Args:
        b: another model, or a change of the first: `compare(model, uncomposed_twin(), prompt)`.
        other_prompt: what the second side reads instead. Tokens are aligned by the longest common runs.
        same_heads: do head numbers mean the same in both? None = only where the weights are the same object. True is
            right for two checkpoints of one training.
        names: of the two sides, for tables.
    Raises:
        ValueError: prompts that share no token, heads said to be the same where their numbers differ, or what the
            models refuse.
    """
    models = _model(a), _model(a if isinstance(b, Change) else b)
    runs = (capture(a, prompt), _second(a, b, prompt if other_prompt is None else other_prompt))
    return compare_runs(
        *runs, same_heads=models[0] is models[1] if same_heads is None else same_heads,
        same_ids=same_vocabulary(*models), names=names or _names(a, b, other_prompt),
        note=caution(b) if isinstance(b, Change) else "",
    )  # fmt: skip


def compare_runs(
    a: Capture, b: Capture, *, same_heads: bool, same_ids: bool = True, names: tuple[str, str] = ("a", "b"),
    note: str = "",
) -> Comparison:  # fmt: skip
    """Align two runs that are there already, each of any model, prompt and change.

    Args:
        same_heads: is head h of the one head h of the other? True for one model, and for checkpoints of one training.
        same_ids: does a token id mean the same text in both? See probes.side_by_side.same_vocabulary.
        note: what to keep in mind, see caution.
    Raises:
        ValueError: prompts that share no token, or heads said to be the same where their numbers differ.
    """
    pairs = aligned(a.str_tokens, b.str_tokens)
    if not pairs:
        raise ValueError("The two prompts share no token, so nothing can be aligned. Give prompts that overlap.")
    sizes = [(run.cfg.n_layers, run.cfg.n_heads) for run in (a, b)]
    if same_heads and sizes[0] != sizes[1]:
        raise ValueError(f"The models have (layers, heads) {sizes[0]} and {sizes[1]}; their heads cannot be the same.")
    pairing = "same" if same_heads else "matched" if sizes[0][0] == sizes[1][0] else "unpaired"
    return Comparison(names, (a, b), pairs, pairing, note, same_ids)


def caution(*changes: Change) -> str:
    """What a person who compares a model under such changes has to keep in mind, or ""."""
    if any(getattr(part, "mode", "") == "identity" for change in changes for part in change.parts()):
        return (
            "Without mixing the weights are off the distribution they were trained for: a higher loss says that they "
            "rely on composition, not that a model could not do without. To ask what the dynamic part does, freeze "
            "mixing to its mean instead."
        )
    return ""


def _model(source: HookedDCFormer | Engine) -> HookedDCFormer:
    return source.model if isinstance(source, Engine) else source


def _second(a: Source, b: HookedDCFormer | Engine | Change, prompt: str | Tensor) -> Capture:
    if not isinstance(b, Change):
        return capture(b, prompt)
    with b.applied(a):
        return capture(a, prompt)


def _names(a: HookedDCFormer | Engine, b: HookedDCFormer | Engine | Change, other_prompt: object) -> tuple[str, str]:
    first = str(a.cfg.model_name)
    second = f"{first}, changed" if isinstance(b, Change) else str(b.cfg.model_name)
    return first, second if second != first or other_prompt is None else f"{first}, other prompt"
