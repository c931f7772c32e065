"""Weight between tokens that repeat: induction and duplicate-token."""

from __future__ import annotations

import torch
from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.kinds import WEIGHT_RANGES, HeadMetric


def seen_before(tokens_T: Tensor, gap: int) -> Tensor:
    """For each position, whether its token stands at least `gap` positions earlier too, bool [T]."""
    ids, known = tokens_T.tolist(), set()
    found = []
    for position, token in enumerate(ids):
        if position >= gap:
            known.add(ids[position - gap])
        found.append(token in known)
    return torch.tensor(found, dtype=torch.bool)


def _after_same_token(weights_NTS: Tensor, block: Block) -> Tensor:
    tokens, columns = block.of.run.tokens, block.columns
    # the token before each key; position 0 has none, and -1 is no token's id
    before_S = torch.cat([tokens.new_tensor([-1]), tokens])[columns]
    targets_TS = (before_S[None] == block.query_tokens[:, None]) & (block.back_TS > 0)
    return (weights_NTS * targets_TS).sum(-1)


def _on_same_token(weights_NTS: Tensor, block: Block) -> Tensor:
    targets_TS = (block.key_tokens[None] == block.query_tokens[:, None]) & (block.back_TS > 0)
    return (weights_NTS * targets_TS).sum(-1)


INDUCTION = HeadMetric(
    name="induction",
    title="Induction (prefix matching)",
    unit="weight",
    definition=(
        "Mean over queries i, whose token stood at some p < i-1 before, of the sum of a(i, p+1) over all these p: the "
        "weight on what followed the same token earlier. Meant for repeated random tokens, where nothing else links "
        "the two; with two repeats there is one p. 0 where a local layer no longer sees p+1. Composed weights are "
        "taken with their sign. Source: prefix matching, Olsson et al. 2022, arXiv 2209.11895."
    ),
    ranges=WEIGHT_RANGES,
    rows=_after_same_token,
    counted=lambda tokens_T: seen_before(tokens_T, 2),
    needs="a token that stands at least 2 places earlier too",
)

DUPLICATE_TOKEN = HeadMetric(
    name="duplicate_token",
    title="Duplicate-token weight",
    unit="weight",
    definition=(
        "Mean over queries i, whose token stood before, of the sum of a(i, p) over all earlier p with the same token; "
        "0 where a local layer no longer sees p. Composed weights are taken with their sign. Source: Wang et al. 2022, "
        "arXiv 2211.00593."
    ),
    ranges=WEIGHT_RANGES,
    rows=_on_same_token,
    counted=lambda tokens_T: seen_before(tokens_T, 1),
    needs="a token that stands earlier too",
)
