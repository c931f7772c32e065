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
from model.mixing import Mixing, distance_from_identity
from studies.demo_pair.data import DATA_KINDS, RULES, Row, facts_of_rule, short_repeats, training_rows
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


def random_repeat(model: HookedDCFormer, block: int, rows: int) -> Tensor:
    """Random tokens, uniform over the vocabulary, and their exact repeat, [rows, 2 * block]."""
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(0, model.cfg.d_vocab - 1, (rows, block), generator=generator)
    return torch.cat([first, first], 1)


@torch.no_grad()
def induction(model: HookedDCFormer, block: int, rows: int) -> tuple[float, float]:
    """Mean loss on random tokens and on their exact repeat, in nats per token."""
    loss = model(random_repeat(model, block, rows), return_type="loss", loss_per_token=True)
    return loss[:, : block - 1].mean().item(), loss[:, block:].mean().item()


@torch.no_grad()
def repeat_accuracy(model: HookedDCFormer, block: int, rows: int) -> float:
    """How often the repeat's next token has the highest logit; any token of the block is right 1 time in `block`."""
    tokens = random_repeat(model, block, rows)
    right = model(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]
    return right[:, block:].float().mean().item()


@torch.no_grad()
def head_weights(model: HookedDCFormer, block: int = 40, rows: int = 16) -> dict[str, tuple[float, str]]:
    """The largest mean raw pattern weight of any head, and its name: on the previous token, and, in the repeat of
    random tokens, on the token after the last occurrence of the present one (an induction head's)."""
    _, cache = model.run_with_cache(random_repeat(model, block, rows))
    best = {"previous token": (0.0, ""), "induction": (0.0, "")}
    queries = torch.arange(block, 2 * block)
    for layer in range(model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern_raw"]
        means = {
            "previous token": pattern.diagonal(-1, 2, 3).mean((0, 2)),
            "induction": pattern[:, :, queries, queries - block + 1].mean((0, 2)),
        }
        for kind, by_head in means.items():
            head = int(by_head.argmax())
            best[kind] = max(best[kind], (by_head[head].item(), f"L{layer}H{head}"))
    return best


@torch.no_grad()
def mixing_distances(model: HookedDCFormer, tokens: Tensor) -> dict[str, list[float]]:
    """For each site, every layer's mean over heads of the distance of M from the identity (0 = no mixing)."""
    _, cache = model.run_with_cache(tokens)
    out: dict[str, list[float]] = {site: [] for site in model.cfg.mixed_sites}
    for site, distances in out.items():
        for layer in range(model.cfg.n_layers):
            prefix = f"blocks.{layer}.attn.{site}.hook_"
            named = {name.removeprefix(prefix): cache[name] for name in cache if name.startswith(prefix)}
            mixing = Mixing(n_heads=model.cfg.n_heads).with_factors(named)
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


def short_repeat_table(models: dict[str, HookedDCFormer]) -> list[str]:
    """What the second stage trained: a few words over and over; the reference is any word of the block."""
    lines = table_head("accuracy on repeats of a few words", list(models))
    for length in (32, 64):
        rows = held_out("short repeats", ROWS, lambda rng, n=length: short_repeats(rng, tokenizer_of(models), n))  # type: ignore[misc]
        lines.append(
            table_row(f"rows of {length} tokens", [f"{score(model, rows)[1]:.3f}" for model in models.values()])
        )
    return lines


def tokenizer_of(models: dict[str, HookedDCFormer]) -> Any:
    return next(iter(models.values())).tokenizer


def induction_table(models: dict[str, HookedDCFormer]) -> list[str]:
    lines = table_head("random tokens and their repeat", [*models, "any token of the block"])
    for block, rows in ((20, ROWS), (60, ROWS), (400, 4)):
        measured = [induction(model, block, rows) for model in models.values()]
        losses = [f"{first:.2f} -> {second:.2f}" for first, second in measured]
        lines.append(table_row(f"{block}: loss, first -> repeat", [*losses, f"{math.log(block):.2f}"]))
        accuracies = [f"{repeat_accuracy(model, block, rows):.3f}" for model in models.values()]
        lines.append(table_row(f"{block}: accuracy on the repeat", [*accuracies, f"{1 / block:.3f}"]))
    return lines


def head_table(models: dict[str, HookedDCFormer]) -> list[str]:
    lines = table_head("strongest head, mean raw pattern weight", list(models))
    best = [head_weights(model) for model in models.values()]
    for kind in best[0]:
        lines.append(table_row(kind, [f"{heads[kind][0]:.2f} ({heads[kind][1]})" for heads in best]))
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
    tables = [
        short_repeat_table(models),
        loss_table(models, kinds),
        answer_table(models, tokenizer),
        induction_table(models),
        head_table(models),
    ]
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
