"""Two runs side by side: composed against its uncomposed twin, a plain model, another checkpoint or another prompt.

Axes: T position, N head of the first run, M head of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model import Capture, Engine, HookedDCFormer, capture
from probes.interventions import Change
from probes.interventions.change import Source
from probes.metrics import head_metrics

QUERIES_COMPARED = 256
"""Rows of the maps, evenly spaced, on which heads are compared."""
POSITIONS_AT_ONCE = 256
"""Positions whose next-token distributions are held in float64 at a time."""
PAIRINGS = {
    "same": "the same weights in both runs: head h is head h",
    "matched": "two trainings, whose head numbers have nothing to do with each other: paired within each layer by the "
    "least total distance of composed patterns",
    "unpaired": "two trainings with other numbers of layers or heads: not paired",
}


@dataclass(frozen=True)
class Comparison:
    """What compare gives.

    names: of the two sides. runs: their captures. pairs: positions (first, second) that hold the same token, in
    order. pairing: which of PAIRINGS. note: what to keep in mind, or "".
    """

    names: tuple[str, str]
    runs: tuple[Capture, Capture]
    pairs: list[tuple[int, int]]
    pairing: str
    note: str = ""

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row for each pair of positions: what each side predicts there.

        Columns: position_a, position_b, token, loss_a and loss_b (nats, of the token that follows; nan where none
        does), kl (KL(a || b) of the next-token distributions in nats; nan between vocabularies of other sizes),
        next_a and next_b (id of the most likely next token).
        """
        aligned, a = torch.tensor(self.pairs), self.runs[0]
        pieces = [_predictions(*self.runs, *piece.T) for piece in aligned.split(POSITIONS_AT_ONCE)]
        found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        table = pd.DataFrame({"position_a": aligned[:, 0], "position_b": aligned[:, 1]} | found)
        table.insert(2, "token", [a.str_tokens[i] for i, _ in self.pairs])
        return table

    @cached_property
    def heads(self) -> pd.DataFrame:
        """One row for each pair of heads: layer, head_a, head_b, distance; no rows where heads are not paired.

        distance: of the composed patterns, mean over aligned queries of the L1 distance of the two rows over aligned
        keys. How far each head's own pattern is mixed is probes.metrics.raw_to_composed.
        """
        rows = []
        for layer in range(self.runs[0].cfg.n_layers) if self.pairing != "unpaired" else ():
            distance_NM = _distances(*(_rows(run, layer, at) for run, at in self._places))
            for head_a, head_b in self._paired(distance_NM):
                rows.append((layer, head_a, head_b, float(distance_NM[head_a, head_b])))
        return pd.DataFrame(rows, columns=["layer", "head_a", "head_b", "distance"])

    def metrics(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Head metrics of both sides for paired heads: layer, head_a, head_b, stage, metric, a, b, difference (b - a).

        Args:
            names: of probes.metrics; None = those that both prompts allow.
        """
        found = [head_metrics([run], names) for run in self.runs]
        keys = ["layer", "stage", "metric"]
        pairs = self.heads[["layer", "head_a", "head_b"]]
        both = pairs.merge(found[0].rename(columns={"head": "head_a", "value": "a"}), on=["layer", "head_a"])
        both = both.merge(
            found[1].rename(columns={"head": "head_b", "value": "b"}), on=[*keys[:1], "head_b", *keys[1:]]
        )
        return both.assign(difference=both.b - both.a)

    @property
    def summary(self) -> dict[str, Any]:
        """Both losses over the aligned tokens and the mean divergence, in nats per token; and what changed most."""
        worst = self.heads.sort_values("distance", ascending=False).head(1)
        means = self.tokens[["loss_a", "loss_b", "kl"]].mean()
        return {
            "a": self.names[0], "b": self.names[1], "aligned_tokens": len(self.pairs), **means.to_dict(),
            "same_next_token": float((self.tokens.next_a == self.tokens.next_b).mean()), "heads": self.pairing,
            "most_changed": {} if worst.empty else worst.iloc[0].to_dict(), "note": self.note,
        }  # fmt: skip

    @property
    def _places(self) -> list[tuple[Capture, Tensor]]:
        aligned = torch.tensor(self.pairs)
        return [(run, aligned[:, side]) for side, run in enumerate(self.runs)]

    def _paired(self, distance_NM: Tensor) -> list[tuple[int, int]]:
        if self.pairing == "same":
            return [(head, head) for head in range(len(distance_NM))]
        first, second = linear_sum_assignment(distance_NM.numpy())
        return list(zip(first.tolist(), second.tolist(), strict=True))


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
    second = a if isinstance(b, Change) else b
    runs = (capture(a, prompt), _second(a, b, prompt if other_prompt is None else other_prompt))
    pairs = _aligned(runs[0].str_tokens, runs[1].str_tokens)
    if not pairs:
        raise ValueError("The two prompts share no token, so nothing can be aligned. Give prompts that overlap.")
    one_training = _model(a) is _model(second) if same_heads is None else same_heads
    sizes = [(run.cfg.n_layers, run.cfg.n_heads) for run in runs]
    if one_training and sizes[0] != sizes[1]:
        raise ValueError(f"The models have (layers, heads) {sizes[0]} and {sizes[1]}; their heads cannot be the same.")
    pairing = "same" if one_training else "matched" if sizes[0] == sizes[1] else "unpaired"
    return Comparison(names or _names(a, b, other_prompt), runs, pairs, pairing, _note(b))


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


def _note(b: HookedDCFormer | Engine | Change) -> str:
    if isinstance(b, Change) and any(getattr(part, "mode", "") == "identity" for part in b.parts()):
        return (
            "Without mixing the weights are off the distribution they were trained for: a higher loss says that they "
            "rely on composition, not that a model could not do without. To ask what the dynamic part does, freeze "
            "mixing to its mean instead."
        )
    return ""


def _aligned(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Positions that hold the same token, in the order of both: all of them where the prompts are equal."""
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


def _predictions(a: Capture, b: Capture, places_a: Tensor, places_b: Tensor) -> dict[str, Tensor]:
    """Both sides' losses, first choices and divergence at some positions, as columns of Comparison.tokens."""
    logs: list[Tensor] = []
    found: dict[str, Tensor] = {}
    for side, run, places in (("a", a, places_a), ("b", b, places_b)):
        log_PV = run.logits[places].double().log_softmax(-1)  # type: ignore[index]
        following = (places + 1).clamp(max=len(run) - 1)
        loss = F.nll_loss(log_PV, run.tokens[following], reduction="none")
        found[f"loss_{side}"] = loss.masked_fill(places == len(run) - 1, float("nan"))
        found[f"next_{side}"] = log_PV.argmax(-1)
        logs.append(log_PV)
    log_p, log_q = logs
    same = log_p.shape[-1] == log_q.shape[-1]
    # rounding can leave the divergence of equal distributions just below 0
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0) if same else torch.full_like(found["loss_a"], torch.nan)
    return found | {"kl": kl}


def _rows(run: Capture, layer: int, places_T: Tensor) -> Tensor:
    """Aligned rows and columns of all heads' composed patterns, [head, query, key]."""
    step = -(-len(places_T) // QUERIES_COMPARED)
    return run.pattern(layer, queries=places_T[::step], keys=places_T)


def _distances(a_NTS: Tensor, b_MTS: Tensor) -> Tensor:
    """Mean L1 distance of rows between every head of one and every head of the other, [N, M]."""
    return torch.stack([(a_NTS[:, None] - b_TS).abs().sum(-1).mean(-1)[:, 0] for b_TS in b_MTS], dim=1)
