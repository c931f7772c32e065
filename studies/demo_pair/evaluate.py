"""What the pair learned, on rows it was not trained on: python -m studies.demo_pair.evaluate [--work DIR].

Prints tables in Markdown: loss of every kind of row in nats per token, accuracy of the looked-up answers,
induction, and how far from the identity each layer's mixing is.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import HookedDCFormer, load_model
from model.mixing import distance_from_identity, mixing_from
from studies.demo_pair.data import DATA_KINDS, RULES, Row, facts_of_rule, training_rows
from studies.demo_pair.export import NAMES, from_checkpoint
from studies.demo_pair.train import SEED

LENGTH, ROWS = 160, 64


def held_out(what: str, rows: int, make: Callable[[random.Random], Row]) -> list[Row]:
    """Rows whose seed no training row has."""
    return [make(random.Random(f"held out {what} {row}")) for row in range(rows)]


@torch.no_grad()
def score(model: HookedDCFormer, rows: list[Row]) -> tuple[float, float]:
    """Mean loss in nats per token, and the share of answer tokens that have the highest logit."""
    tokens = torch.tensor([row.tokens for row in rows])
    answers = torch.tensor([row.answers for row in rows])[:, 1:]
    logits, loss = model(tokens, return_type="both")
    right = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    return loss.item(), right[answers].float().mean().item() if answers.any() else math.nan


@torch.no_grad()
def induction(model: HookedDCFormer, block: int, rows: int) -> tuple[float, float]:
    """Mean loss on random tokens and on their exact repeat, in nats per token: uniform over the vocabulary."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(0, model.cfg.d_vocab - 1, (rows, block), generator=generator)
    loss = model(torch.cat([first, first], 1), return_type="loss", loss_per_token=True)
    return loss[:, : block - 1].mean().item(), loss[:, block:].mean().item()


@torch.no_grad()
def mixing_distances(model: HookedDCFormer, tokens: Tensor) -> dict[str, list[float]]:
    """For each site, every layer's mean over heads of the distance of M from the identity (0 = no mixing)."""
    _, cache = model.run_with_cache(tokens)
    out: dict[str, list[float]] = {site: [] for site in model.cfg.mixed_sites}
    for site, distances in out.items():
        for layer in range(model.cfg.n_layers):
            prefix = f"blocks.{layer}.attn.{site}.hook_"
            named = {name.removeprefix(prefix): cache[name] for name in cache if name.startswith(prefix)}
            mixing = mixing_from(named, model.cfg.n_heads)
            distances.append(distance_from_identity(mixing, model.cfg.keys_visible_in(layer)).mean().item())
    return out


def unigram_counts(tokenizer: Any) -> Counter[int]:
    """How often each token stands in a sample of the training rows, plus one."""
    counts = Counter(range(len(tokenizer)))
    for step in range(200):
        for row in training_rows(SEED, step, tokenizer, rows=8, length=96):
            counts.update(row.tokens)
    return counts


def unigram_loss(counts: Counter[int], rows: list[Row]) -> float:
    """Loss of predicting each token by its frequency alone, in nats per token."""
    tokens = [token for row in rows for token in row.tokens[1:]]
    return math.log(counts.total()) - sum(math.log(counts[token]) for token in tokens) / len(tokens)


def loss_table(models: dict[str, HookedDCFormer], kinds: dict[str, list[Row]]) -> list[str]:
    counts = unigram_counts(next(iter(models.values())).tokenizer)
    lines = table_head("loss, nats per token", [*models, "token frequencies"])
    for kind, rows in kinds.items():
        losses = [score(model, rows)[0] for model in models.values()] + [unigram_loss(counts, rows)]
        lines.append(table_row(kind, [f"{loss:.3f}" for loss in losses]))
    return lines


def answer_table(models: dict[str, HookedDCFormer], tokenizer: Any) -> list[str]:
    lines = table_head("accuracy of the answer token", list(models))
    for rule in RULES:
        rows = held_out(rule, ROWS // 2, lambda rng, rule=rule: facts_of_rule(rng, tokenizer, LENGTH, (rule,)))  # type: ignore[misc]
        lines.append(table_row(rule, [f"{score(model, rows)[1]:.3f}" for model in models.values()]))
    return lines


def induction_table(models: dict[str, HookedDCFormer]) -> list[str]:
    lines = table_head("loss on random tokens -> on their repeat", list(models))
    for block, rows in ((20, ROWS), (60, ROWS), (400, 4)):
        measured = [induction(model, block, rows) for model in models.values()]
        lines.append(table_row(f"{block} tokens", [f"{first:.2f} -> {second:.2f}" for first, second in measured]))
    return lines


def mixing_table(models: dict[str, HookedDCFormer], kinds: dict[str, list[Row]]) -> list[str]:
    tokens = torch.tensor([row.tokens for rows in kinds.values() for row in rows[:8]])
    lines = table_head("distance of M from the identity", ["by layer"])
    for name, model in models.items():
        for site, distances in mixing_distances(model, tokens).items():
            lines.append(table_row(f"{name}, {site}", [", ".join(f"{value:.2f}" for value in distances)]))
    return lines


def table_head(title: str, columns: Sequence[str]) -> list[str]:
    return ["", table_row(title, columns), "|---" * (len(columns) + 1) + "|"]


def table_row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def report(models: dict[str, HookedDCFormer]) -> str:
    """The tables, one column a model."""
    tokenizer = next(iter(models.values())).tokenizer
    kinds = {
        kind: held_out(kind, ROWS, lambda rng, make=make: make(rng, tokenizer, LENGTH))  # type: ignore[misc]
        for kind, (make, _) in DATA_KINDS.items()
    }
    tables = [loss_table(models, kinds), answer_table(models, tokenizer), induction_table(models)]
    return "\n".join(line for table in [*tables, mixing_table(models, kinds)] for line in table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder of training checkpoints; without it, the bundled pair")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = arguments.work
    models = {name: from_checkpoint(name, work) if work else load_model(f"demo/{name}") for name in NAMES}
    print(report(models))


if __name__ == "__main__":
    main()
