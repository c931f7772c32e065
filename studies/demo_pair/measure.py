"""What is measured of the pair: the tasks, repeated tokens, and how far composition is from none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model import Engine, HookedDCFormer, capture
from probes.tasks import FAMILIES, TaskRow, generate, score

SEED = 9
"""Of the held-out rows."""
BLOCKS = (20, 60, 400)
"""Lengths of random token sequences that are repeated once."""


def held_out(rows_per_rule: int) -> list[TaskRow]:
    """Rows of all 74 rules whose pairs of words were never trained on."""
    return generate(None, rows_per_rule, SEED, "held_out")


def answers(model: HookedDCFormer) -> dict[str, float]:
    """The evaluator of the training: exact match on held-out rows by family and overall, nats of an answer token."""
    return _scores(model, held_out(1))


def checkpoint(model: HookedDCFormer, rows: Sequence[TaskRow]) -> dict[str, float]:
    """What is kept of a model along the way."""
    found = _scores(model, rows)
    found |= {f"repeats_{block}": repeat_accuracy(model, block)[1] for block in BLOCKS[:2]}
    return found | mixing_distances(model, rows[0].plain_text)


def _scores(model: HookedDCFormer, rows: Sequence[TaskRow]) -> dict[str, float]:
    table = score(model, rows).table()
    found = {f"exact_match/{name}": float(table.exact_match[name]) for name in (*FAMILIES, "overall")}
    return found | {"answer_nats": float(table.nats_per_token["overall"])}


@torch.no_grad()
def repeat_accuracy(source: HookedDCFormer | Engine, block: int, rows: int = 16) -> tuple[float, float]:
    """How often the next token is the first choice, in random tokens and in their exact repeat."""
    first = torch.randint(0, source.cfg.d_vocab - 1, (rows, block), generator=torch.Generator().manual_seed(1))
    tokens = torch.cat([first, first], 1)
    engine = Engine(source) if isinstance(source, HookedDCFormer) else source
    right = (engine(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]).float()
    return right[:, : block - 1].mean().item(), right[:, block:].mean().item()


def mixing_distances(model: HookedDCFormer, text: str) -> dict[str, float]:
    """Mean over heads of the distance of M from the identity, by site and layer; {} for a plain model."""
    if not model.cfg.mixed_sites:
        return {}
    run: Any = capture(model, text)
    found: dict[str, float] = {}
    for site in model.cfg.mixed_sites:
        for layer in range(model.cfg.n_layers):
            distance: Tensor = run.mixing(layer, site).distance_from_identity()
            found[f"distance/{site}/{layer}"] = float(distance.mean())
    return found
