"""Two runs side by side, from their logits and maps alone: which tokens belong together, predictions, distances.

comparison.py is made of these. Axes: P pair of positions, T query, S key, V vocabulary, N head of the first run,
M head of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model import Capture, HookedDCFormer
from probes.metrics import head_metrics

QUERIES_COMPARED = 256
"""Rows of the maps, evenly spaced, on which heads are compared."""

Runs = tuple[Capture, Capture]


def aligned(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Positions that hold the same token, in the order of both: all of them where the prompts are equal."""
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


def same_vocabulary(a: HookedDCFormer, b: HookedDCFormer) -> bool:
    """Whether a token id means the same text in both models, so that their next-token distributions compare."""
    if a is b:
        return True
    if a.cfg.d_vocab != b.cfg.d_vocab or (a.tokenizer is None) != (b.tokenizer is None):
        return False
    return a.tokenizer is None or a.tokenizer.get_vocab() == b.tokenizer.get_vocab()


# -- predictions -----------------------------------------------------------------------------------


def predictions(runs: Runs, places_a: Tensor, places_b: Tensor, same_ids: bool) -> dict[str, Tensor]:
    """Both sides' losses, first choices and divergence at some positions, as columns of Comparison.tokens.

    Args:
        places_a, places_b: [P]. same_ids: see same_vocabulary; without it there is no divergence.
    """
    found: dict[str, Tensor] = {}
    logs = [_log_probabilities(run, places) for run, places in zip(runs, (places_a, places_b), strict=True)]
    for side, run, places, log_PV in zip("ab", runs, (places_a, places_b), logs, strict=True):
        following = (places + 1).clamp(max=len(run) - 1)
        loss = F.nll_loss(log_PV, run.tokens[following], reduction="none")
        found[f"loss_{side}"] = loss.masked_fill(places == len(run) - 1, float("nan"))
        found[f"next_{side}"] = log_PV.argmax(-1)
    log_p, log_q = logs
    if not same_ids or log_p.shape[-1] != log_q.shape[-1]:
        return found | {"kl": torch.full_like(found["loss_a"], torch.nan)}
    # rounding can leave the divergence of equal distributions just below 0
    return found | {"kl": (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)}


def next_tokens(runs: Runs, places: tuple[int, int], count: int, same_ids: bool) -> pd.DataFrame:
    """The most likely next tokens of either side after a pair of positions: columns id_a, id_b, p_a, p_b.

    The `count` best of each side, most likely (on either side) first. With vocabularies that differ a row belongs to
    one side, and the other one's id and probability are missing.
    """
    p_V, q_V = (_log_probabilities(run, torch.tensor([at]))[0].exp() for run, at in zip(runs, places, strict=True))
    best = [values_V.topk(min(count, len(values_V))).indices for values_V in (p_V, q_V)]
    if same_ids and len(p_V) == len(q_V):
        ids = torch.cat(best).unique()
        found = {"id_a": ids, "id_b": ids, "p_a": p_V[ids], "p_b": q_V[ids]}
        table = pd.DataFrame({name: values.numpy() for name, values in found.items()})
    else:
        sides = [pd.DataFrame({f"id_{side}": ids.numpy(), f"p_{side}": values_V[ids].numpy()})
                 for side, ids, values_V in zip("ab", best, (p_V, q_V), strict=True)]  # fmt: skip
        table = pd.concat(sides, ignore_index=True)[["id_a", "id_b", "p_a", "p_b"]]
    order = table[["p_a", "p_b"]].max(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True).astype({"id_a": "Int64", "id_b": "Int64"})


def _log_probabilities(run: Capture, places_P: Tensor) -> Tensor:
    if run.logits is None:
        raise ValueError("A capture was made without logits. Capture again with logits=True.")
    return run.logits[places_P].double().log_softmax(-1)


# -- heads -----------------------------------------------------------------------------------------


def head_pairs(
    runs: Runs, layer: int, places: tuple[Tensor, Tensor], same: bool
) -> list[tuple[int, int, float, float]]:
    """Pairs of heads of one layer: (head of a, head of b, distance, runner_up), see Comparison.heads.

    Args:
        places: of aligned tokens in each run, [P] both. same: head h is head h; else the pairs with the least total
            distance, as many as the side with fewer heads has.
    """
    step = -(-len(places[0]) // QUERIES_COMPARED)
    maps = [run.pattern(layer, queries=at[::step], keys=at) for run, at in zip(runs, places, strict=True)]
    if same:
        distances = (maps[0] - maps[1]).abs().sum(-1).mean(-1).tolist()
        return [(head, head, distance, float("nan")) for head, distance in enumerate(distances)]
    distance_NM = _distances(*maps)
    first, second = linear_sum_assignment(distance_NM.numpy())
    return [
        (n, m, float(distance_NM[n, m]), _runner_up(distance_NM[n], m))
        for n, m in zip(first.tolist(), second.tolist(), strict=True)
    ]


def row_distances(runs: Runs, pairs: Sequence[tuple[int, int]], heads: pd.DataFrame, pair: int) -> pd.DataFrame:
    """Pairs of heads at one aligned query: layer, head_a, head_b, distance (L1 of the two composed rows).

    Args:
        pairs: aligned positions. heads: columns layer, head_a, head_b. pair: which of the positions is the query.
    """
    keys, parts = torch.tensor(pairs), []
    for layer, of_layer in heads[["layer", "head_a", "head_b"]].groupby("layer"):
        rows = [
            run.pattern(layer, queries=pairs[pair][side], keys=keys[:, side])[:, 0] for side, run in enumerate(runs)
        ]
        a_PS, b_PS = (row_NS[of_layer[f"head_{side}"].tolist()] for row_NS, side in zip(rows, "ab", strict=True))
        parts.append(of_layer.assign(distance=(a_PS - b_PS).abs().sum(-1).numpy()))
    return pd.concat(parts) if parts else heads[["layer", "head_a", "head_b"]].assign(distance=[])


def paired_metrics(runs: Runs, heads: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Head metrics of both sides for paired heads: layer, head_a, head_b, stage, metric, a, b, difference (b - a).

    Args:
        heads: columns layer, head_a, head_b. names: of probes.metrics; None = those that both prompts allow.
    """
    a, b = (
        head_metrics(run, names).rename(columns={"head": f"head_{side}", "value": side})
        for side, run in zip("ab", runs, strict=True)
    )
    both = heads[["layer", "head_a", "head_b"]].merge(a, on=["layer", "head_a"])
    both = both.merge(b, on=["layer", "head_b", "stage", "metric"])
    return both.assign(difference=both.b - both.a)


def _distances(a_NTS: Tensor, b_MTS: Tensor) -> Tensor:
    """Mean L1 distance of rows between every head of one and every head of the other, [N, M]."""
    return torch.stack([(a_NTS - b_TS).abs().sum(-1).mean(-1) for b_TS in b_MTS], dim=1)


def _runner_up(distance_M: Tensor, partner: int) -> float:
    others = torch.cat([distance_M[:partner], distance_M[partner + 1 :]])
    return float(others.min()) if len(others) else float("nan")
