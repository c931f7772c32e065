"""The studies of the bundled pair: tokens by role, and the route of an answer that docs/findings.md tells of."""

from __future__ import annotations

from itertools import chain, islice

import pytest

from model import Engine, load_model
from probes.tasks.pairs import paired_rows
from studies.findings.circuits import RULES
from studies.findings.roles import ROLES, row_tokens
from studies.findings.transfer import DONORS, PASSES, Patch, answered, trials


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


@pytest.mark.parametrize("task_id", RULES.values())
@pytest.mark.parametrize("side", [0, 1])
def test_tokens_are_known_by_their_role_in_both_wordings(model, task_id, side):
    pair = paired_rows(task_id, 1, 3, "held_out")[0]
    found, other = (row_tokens(model, row) for row in (pair[side], pair[1 - side]))
    read = {role: [model.tokenizer.decode([found.ids[i]]) for i in places] for role, places in found.roles.items()}
    twin = {role: [model.tokenizer.decode([other.ids[i]]) for i in places] for role, places in other.roles.items()}
    assert read == twin  # the wordings say the same
    assert set(read["stop"]) == {"."}
    lines = len(pair[side].lines)
    assert [len(read[role]) for role in ROLES] == [3 * lines] * 3 + [lines, len(pair[side].answers)]
    text = pair[side].plain_text
    assert all(f"{name.strip()} " in text or f"{name.strip()}'" in text or f"{name.strip()}." in text
               for name in read["name"])  # fmt: skip
    asked = [line.split(">.")[1].split()[0] for line in pair[side].plain_text.strip().split("\n")]
    assert [name.strip() for name in read["asked"]] == asked
    answers = [answer.text.split()[0] for answer in pair[side].answers]
    assert [model.tokenizer.decode([found.ids[i + 1]]).strip() for i in found.roles["before"]] == answers
    assert {*found.other, *chain(*found.roles.values())} == set(range(len(found.ids)))


@pytest.mark.parametrize("place", PASSES)
def test_answers_pass_where_the_findings_say_and_not_beside(model, place):
    engine, some = Engine(model), list(islice(trials(model, 0, 0), 4))

    def given(donor: str, part: str) -> tuple[int, int]:
        """How many rows keep their answer, and how many give the changed row's."""
        patch = Patch(place[0], part, place[2])
        tokens = [answered(engine, trial, patch, donor) for trial in some]
        kept = sum(token == trial.answer for token, trial in zip(tokens, some, strict=True))
        return kept, sum(token == trial.changed for token, trial in zip(tokens, some, strict=True))

    same, other, unchanged = DONORS
    assert given(same, place[1]) == (0, 4)
    assert given(other, place[1])[1] >= 3
    assert given(unchanged, place[1])[1] == 0
    assert given(same, "mixing") == (4, 0)
