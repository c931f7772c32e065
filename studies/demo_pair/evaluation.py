"""What is measured while the pair trains."""

from __future__ import annotations

from model import HookedDCFormer
from probes.tasks import generate, score

ROWS_PER_RULE, SEED = 1, 9


def answers(model: HookedDCFormer) -> dict[str, float]:
    """Exact match on held-out rows of all rules, by family and overall, and the loss of an answer token in nats."""
    table = score(model, generate(None, ROWS_PER_RULE, SEED, "held_out")).table()
    measured = {f"exact_match/{name}": float(value) for name, value in table.exact_match.items()}
    return measured | {"answer_nats": float(table.nats_per_token["overall"])}
