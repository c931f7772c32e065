"""What single heads of demo/dcformer do, found by switching them off: python -m studies.demo_pair.heads [--every].

To switch a head off is to let nothing of its raw map reach any target: its row of M is set to 0 at one site. Prints, as
a table of the model card, what is left of the answers and of the repeats of random tokens without each head explained
here, and where it looks; with --every, for all heads of all layers and sites.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from model import Engine, HookedDCFormer, capture, load_model
from model.mixing import BRANCHES
from probes import Intervention
from probes.tasks import TaskRow, answer_token_mask, score
from probes.tasks.rows import facts, plain
from studies.demo_pair.measure import held_out, repeat_accuracy

ODD, REPEATS = "odd one out", "repeats of 20"
GROUPS = ("persons", "with not", "without not", "who?", "what?", ODD, REPEATS)
"""Answers about persons (all families but the odd one out), those of them whose question has a "not" and those without,
those that ask for a name and those that ask for something else; odd one out; second halves of random tokens."""


VALUES = "values"
PARTS = {"pre": "scores", "post": "pattern", VALUES: "values"}
"""Site -> what of a head is switched off."""


@dataclass(frozen=True)
class HeadOff:
    """A head whose raw map reaches no target at one site or, with site VALUES, whose values no pattern reaches.

    looks: where its raw pattern lies, or what its raw scores serve. does: what follows from switching it off.
    falls, stays: group -> the share of right answers that it falls below, or stays above.
    """

    layer: int
    site: str
    head: int
    looks: str = ""
    does: str = ""
    falls: tuple[tuple[str, float], ...] = ()
    stays: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}, {PARTS[self.site]}"

    @property
    def change(self) -> Intervention:
        # values that no pattern reaches add nothing
        row, column = (None, [self.head]) if self.site == VALUES else ([self.head], None)
        return Intervention(
            layers=[self.layer], sites=["post" if self.site == VALUES else self.site], sources=row, targets=column,
            branches=BRANCHES, mode="set", value=0.0,
        )  # fmt: skip


EXPLAINED = (
    HeadOff(0, "post", 7, "on the token just before, or on itself",
            "binds a word to its neighbour: without it answers about persons are guesses, repeats go on",
            (("persons", 0.5),), ((REPEATS, 0.9),)),
    HeadOff(0, "post", 4, "two to five tokens back, past the last words",
            "tells a word from its list: without it the odd one out is guessed, all else stays",
            ((ODD, 0.75),), (("persons", 0.9), (REPEATS, 0.9))),
    HeadOff(1, "post", 7, "on the same word in earlier lines, and on names and things",
            "looks up who goes with what: without it answers about persons go, the odd one out stays",
            (("persons", 0.6),), ((ODD, 0.9),)),
    HeadOff(1, "post", 2, "on the same token further back, and on what followed it",
            "continues repeats: without it random tokens are not repeated at all, answers about persons stay",
            ((REPEATS, 0.1),), (("persons", 0.9),)),
    HeadOff(1, "post", 1, "on the word that opens the question's object",
            "needed for repeats, and for questions with a \"not\" far more than for those without",
            (("with not", 0.6), (REPEATS, 0.1)), (("without not", 0.8),)),
    HeadOff(1, "pre", 3, "its scores go into other heads' scores",
            "serves questions with a \"not\" alone: those without stay",
            (("with not", 0.8),), (("without not", 0.95), (REPEATS, 0.9))),
    HeadOff(2, "post", 3, "on the \"not\" or the verb of the question",
            "helps to say what a thing is: without it \"what\" answers fall, \"who\" answers stay",
            (("what?", 0.9),), (("who?", 0.95), (REPEATS, 0.9), (ODD, 0.95))),
)  # fmt: skip
"""The heads that the model card explains; tests/test_demo_pair.py holds each to its falls and stays."""


def right_by_group(engine: Engine, rows: Sequence[TaskRow]) -> dict[str, float]:
    """Share of right answers in each of GROUPS."""
    answers = score(engine, rows).answers
    persons = [answer for answer in answers if answer.family != ODD]
    negated = [" not " in rows[answer.row].plain_text for answer in persons]
    asks_who = [rows[answer.row].rule.asks_who for answer in persons]

    def share(chosen: Sequence[bool]) -> float:
        right = [answer.right for answer, wanted in zip(persons, chosen, strict=True) if wanted]
        return sum(right) / max(1, len(right))

    odd = [answer.right for answer in answers if answer.family == ODD]
    shares = (
        share([True] * len(persons)), share(negated), share([not one for one in negated]), share(asks_who),
        share([not one for one in asks_who]), sum(odd) / max(1, len(odd)), repeat_accuracy(engine, 20)[1],
    )  # fmt: skip
    return dict(zip(GROUPS, shares, strict=True))


def without(engine: Engine, rows: Sequence[TaskRow], heads: Sequence[HeadOff]) -> pd.DataFrame:
    """Heads x groups: what is left without each; the first line is the intact model."""
    found = {"intact": right_by_group(engine, rows)}
    for head in tqdm(heads, desc="heads"):
        with head.change.applied(engine):
            found[str(head)] = right_by_group(engine, rows)
    return pd.DataFrame(found).T


def every_head(model: HookedDCFormer) -> list[HeadOff]:
    places = itertools.product(range(model.cfg.n_layers), PARTS, range(model.cfg.n_heads))
    return [HeadOff(layer, site, head) for layer, site, head in places]


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


def answer_places(model: HookedDCFormer, row: TaskRow) -> list[int]:
    """Position of the first token of each answer."""
    owners = answer_token_mask(row, model.tokenizer)[1]
    return [owners.index(answer) for answer in range(len(row.answers))]


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


@click.command()
@click.option("--model", "name", default="demo/dcformer", show_default=True)
@click.option("--rows-per-rule", default=1, show_default=True)
@click.option(
    "--every", is_flag=True, help="Switch off scores, pattern and values of every head, not only those explained."
)
def main(name: str, rows_per_rule: int, every: bool) -> None:
    """Switch heads off, one at a time, and show where they look."""
    model, rows = load_model(name), held_out(rows_per_rule)
    found = without(Engine(model), rows, every_head(model) if every else EXPLAINED)
    click.echo(f"| without | {' | '.join(GROUPS)} |\n|---|{'---:|' * len(GROUPS)}")
    for head, shares in found.iterrows():
        click.echo(f"| {head} | {' | '.join(f'{share:.2f}' for share in shares)} |")
    persons = [row for row in rows if row.family != ODD]
    click.echo(f"\nRaw pattern from the token before an answer\n{looks(model, persons).round(2).to_string()}")


if __name__ == "__main__":
    main()
