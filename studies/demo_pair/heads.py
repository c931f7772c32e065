"""What single heads of the pair do, found by switching them off: python -m studies.demo_pair.heads [--model M].

Prints, for every head, what is lost when its output is taken away (its value circuit gets no values) and where it
looks from the token before an answer; for the strongest edges g -> h of the mixing matrices, what is lost when the
edge is cut. Losses are shares of held-out answers, and of random tokens that are repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import click
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from model import Engine, HookedDCFormer, capture, load_model
from model.taps import LayerActivations
from probes import Intervention
from probes.interventions import Change
from probes.tasks import FAMILIES, TaskRow, answer_token_mask, generate, score
from probes.tasks.rows import facts, plain
from studies.demo_pair.measure import SEED, repeat_accuracy

REPEATED = "repeats of 20"


@dataclass(frozen=True)
class Edge:
    """Source head -> target head of one layer and site."""

    layer: int
    site: str
    source: int
    target: int

    def __str__(self) -> str:
        return f"L{self.layer} {self.site} {self.source}->{self.target}"

    def cut(self) -> Change:
        """Nothing of the source head's map reaches the target head; a head's own map is edge h -> h."""
        return Intervention(
            layers=[self.layer], sites=[self.site], sources=[self.source], targets=[self.target],
            branches=["base", "query_lowrank", "query_gate", "key_lowrank", "key_gate"],
        )  # fmt: skip


@contextmanager
def heads_off(engine: Engine, heads: Sequence[tuple[int, int]]) -> Iterator[Engine]:
    """The model without what these (layer, head) write: whatever pattern reaches them, they read zeros."""

    def off(at: LayerActivations) -> None:
        mine = [head for layer, head in heads if layer == at.layer]
        if mine:
            at.v = at.v.clone()
            at.v[:, :, mine] = 0

    with engine.tapped(off):
        yield engine


def accuracies(engine: Engine, rows: Sequence[TaskRow]) -> dict[str, float]:
    """Exact match by family and overall, and the accuracy on repeated random tokens."""
    table = score(engine, rows).table()
    found = {name: float(table.exact_match[name]) for name in (*FAMILIES, "overall")}
    return found | {REPEATED: repeat_accuracy(engine, 20)[1]}


def losses_without_heads(engine: Engine, rows: Sequence[TaskRow]) -> pd.DataFrame:
    """Heads x what is lost."""
    intact = accuracies(engine, rows)
    found = {}
    for layer, head in tqdm(list(itertools.product(range(engine.cfg.n_layers), range(engine.cfg.n_heads))), "heads"):
        with heads_off(engine, [(layer, head)]):
            found[f"L{layer}H{head}"] = _lost(intact, accuracies(engine, rows))
    return pd.DataFrame(found).T


def losses_without_edges(engine: Engine, rows: Sequence[TaskRow], edges: Sequence[Edge]) -> pd.DataFrame:
    """Edges x what is lost."""
    intact = accuracies(engine, rows)
    found = {}
    for edge in tqdm(edges, "edges"):
        with edge.cut().applied(engine):
            found[str(edge)] = _lost(intact, accuracies(engine, rows))
    return pd.DataFrame(found).T


def strongest_edges(model: HookedDCFormer, rows: Sequence[TaskRow], count: int) -> list[Edge]:
    """Edges between different heads by the root mean square of M[g, h] at the tokens before answers."""
    sums: dict[Edge, float] = {}
    for row in rows:
        run, at = capture(model, row.plain_text), [place - 1 for place in answer_places(model, row)]
        for layer, site in itertools.product(range(model.cfg.n_layers), model.cfg.mixed_sites):
            mixing = run.mixing(layer, site)
            squares = torch.stack([mixing.matrix(query=i, key=j).square() for i in at for j in range(max(0, i - 7), i)])
            for source, target in itertools.permutations(range(model.cfg.n_heads), 2):
                edge = Edge(layer, site, source, target)
                sums[edge] = sums.get(edge, 0.0) + float(squares[:, source, target].mean())
    return sorted(sums, key=lambda edge: -sums[edge])[:count]


def answer_places(model: HookedDCFormer, row: TaskRow) -> list[int]:
    """Position of the first token of each answer."""
    owners = answer_token_mask(row, model.tokenizer)[1]
    return [owners.index(answer) for answer in range(len(row.answers))]


# -- where heads look ------------------------------------------------------------------------------------


def looks(model: HookedDCFormer, rows: Sequence[TaskRow]) -> pd.DataFrame:
    """Heads x roles: mean raw pattern weight from the token before an answer to the tokens of each role."""
    total: dict[str, Tensor] = {}
    for row in rows:
        run = capture(model, row.plain_text)
        patterns = torch.cat([run.pattern(layer, "raw") for layer in range(model.cfg.n_layers)])
        for place, roles in roles_of(model, row):
            for role, keys in roles.items():
                weight = patterns[:, place - 1, keys].sum(-1)
                total[role] = total.get(role, torch.zeros_like(weight)) + weight
    count = sum(len(row.answers) for row in rows)
    names = [
        f"L{layer}H{head}" for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads))
    ]
    return pd.DataFrame({role: (weight / count).tolist() for role, weight in total.items()}, index=names)


def roles_of(model: HookedDCFormer, row: TaskRow) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """For each answer its position, and the positions of each role in its line; rows of persons only."""
    encoded = model.tokenizer(row.plain_text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    places, offset = iter(answer_places(model, row)), 1
    for line in row.lines:
        text = plain(line)
        if line != text:
            place = next(places)
            yield place, _roles(row, text, offset, encoded, place)
        offset += len(text) + 1


def _roles(
    row: TaskRow, line: str, offset: int, encoded: Sequence[tuple[int, int]], place: int
) -> dict[str, list[int]]:
    def tokens(start: int, stop: int) -> list[int]:
        return [i for i, (a, b) in enumerate(encoded) if a < offset + stop and b > offset + start and i < place]

    # the answer is the end of the line
    answer = line[encoded[place][0] + 1 - offset :].strip()
    question = line.index(">.") + 2
    roles: dict[str, list[int]] = {name: [] for name in ("right word", "other words", "right name", "other names")}
    for fact in facts(row.rule, line):
        start = line.lower().find(fact.object.lower())
        right = answer in (fact.subject, row.rule.labelling.of(fact.object))
        roles["right word" if right else "other words"] += tokens(start, start + len(fact.object))
        roles["right name" if right else "other names"] += tokens(*fact.span)
    asked = tokens(question, len(line))
    roles["question"] = [i for i in asked if i < place - 1]
    roles["itself"] = [place - 1]
    roles["line before"] = [i for i, (_, b) in enumerate(encoded) if b <= offset]
    return roles


def _lost(intact: dict[str, float], changed: dict[str, float]) -> dict[str, float]:
    return {name: intact[name] - changed[name] for name in intact}


@click.command()
@click.option("--model", "name", default="demo/dcformer", show_default=True)
@click.option("--rows-per-rule", default=1, show_default=True)
@click.option("--edges", default=30, show_default=True, help="How many of the strongest edges are cut.")
def main(name: str, rows_per_rule: int, edges: int) -> None:
    """Switch off every head, and the strongest edges, one at a time."""
    model = load_model(name)
    engine, rows = Engine(model), generate(None, rows_per_rule, SEED, "held_out")
    persons = [row for row in rows if row.rule.form != "odd one out"]
    with pd.option_context("display.width", 200, "display.max_rows", None, "display.float_format", "{:.2f}".format):
        click.echo(f"Intact: {accuracies(engine, rows)}\n\nLost without a head\n{losses_without_heads(engine, rows)}\n")
        click.echo(f"Where each head looks from the token before an answer, raw pattern\n{looks(model, persons)}\n")
        if model.cfg.mixed_sites:
            chosen = strongest_edges(model, rows[::6], edges)
            click.echo(f"Lost without an edge\n{losses_without_edges(engine, rows, chosen)}")


if __name__ == "__main__":
    main()
