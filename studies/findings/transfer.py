"""Where a task's answer passes from token to token: parts of another prompt put in, within a wording and between two.

The last line of a row is changed so that another answer is right (two names trade places). What single tokens of that
changed row attend with, queries, keys, values or mixing, is put into the row as it was: if the model then gives the
changed row's answer, the answer passed through there. The changed row comes in the same wording, or in the other one,
whose sentences are built differently; the other wording unchanged is the control.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from scipy.stats import binomtest
from tqdm import tqdm

from model import Engine, HookedDCFormer
from probes import Intervention
from probes.tasks import corrupted
from probes.tasks.pairs import paired_rows
from studies.findings.roles import RowTokens, row_tokens

ROWS, SEED = 16, 22
DONORS = ("same wording, changed", "other wording, changed", "other wording, as it was")
PASSES = ((0, "v", "name"), (1, "k", "stop"), (2, "v", "asked"))
"""Layer, part and role at which the answer was found to pass; each is tried by head too."""
OTHERS = (
    (0, "v", "word"), (0, "v", "stop"), (0, "mixing", "name"), (1, "k", "word"), (1, "k", "name"), (1, "v", "stop"),
    (1, "mixing", "stop"), (1, "mixing", "asked"), (2, "v", "stop"), (2, "mixing", "asked"), (2, "mixing", "before"),
)  # fmt: skip


class Patch(NamedTuple):
    """What is taken from which tokens. head: one source head (queries, keys) or target head (values); None = all."""

    layer: int
    part: str
    role: str
    head: int | None = None


class Trial(NamedTuple):
    """A row of one wording; the rows that parts are taken from; and the token that answers it, here and if changed."""

    row: RowTokens
    donors: dict[str, RowTokens]
    answer: int
    changed: int


def transfers(model: HookedDCFormer, rules: dict[str, int]) -> pd.DataFrame:
    """Task x patch x donor: how many rows keep their answer and how many give the changed row's."""
    engine, lines = Engine(model), []
    patches = [Patch(*place) for place in (*PASSES, *OTHERS)]
    patches += [Patch(*place, head) for place, head in itertools.product(PASSES, range(model.cfg.n_heads))]
    for (family, task_id), side in tqdm(list(itertools.product(rules.items(), (0, 1))), desc="rules and wordings"):
        found = list(trials(model, task_id, side))
        for patch, donor in itertools.product(patches, DONORS):
            given = [answered(engine, trial, patch, donor) for trial in found]
            kept = sum(token == trial.answer for token, trial in zip(given, found, strict=True))
            changed = sum(token == trial.changed for token, trial in zip(given, found, strict=True))
            interval = binomtest(changed, len(found)).proportion_ci(method="wilson")
            lines.append(
                {"family": family, "task": task_id + side, **patch._asdict(), "from": donor, "rows": len(found)}
                | {"kept": kept, "changed": changed, "low": interval.low, "high": interval.high}
            )
    return pd.DataFrame(lines)


def trials(model: HookedDCFormer, task_id: int, side: int) -> Iterator[Trial]:
    """Rows whose last line can be changed in both wordings, to one answer that is a token of its own."""
    for pair in paired_rows(task_id, ROWS, SEED, "held_out"):
        row, other = pair[side], pair[1 - side]
        try:
            changed, other_changed = (corrupted(one, -1, model.tokenizer) for one in (row, other))
        except ValueError:  # two of its facts share a name or an answer
            continue
        tokens = [row_tokens(model, one) for one in (row, changed, other_changed, other)]
        answers = [_answer(one) for one in tokens[:3]]
        if answers[1] == answers[2] != answers[0]:
            yield Trial(tokens[0], dict(zip(DONORS, tokens[1:], strict=True)), answers[0], answers[1])


def answered(engine: Engine, trial: Trial, patch: Patch, donor: str) -> int:
    """The token that the model gives as the last line's answer with a part of the donor put in."""
    other = trial.donors[donor]
    heads: dict[str, Any] = {}
    if patch.head is not None:
        heads = {"targets" if patch.part == "v" else "sources": [patch.head]}
    change = Intervention(
        layers=[patch.layer], mode="patch", what=[patch.part], positions=trial.row.last_line[patch.role],
        prompt=torch.tensor([other.ids]), prompt_positions=other.last_line[patch.role], **heads,
    )  # fmt: skip
    place = trial.row.last_line["before"][0]
    with change.applied(engine):
        return int(engine(torch.tensor([trial.row.ids[: place + 1]]), last=True).argmax())


def _answer(tokens: RowTokens) -> int:
    return tokens.ids[tokens.last_line["before"][0] + 1]
