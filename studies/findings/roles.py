"""Which tokens of a task row play which role, the same in both wordings of its rule. Rows about persons only."""

from __future__ import annotations

from typing import NamedTuple

from model import HookedDCFormer
from probes.tasks import TaskRow, answer_token_mask
from probes.tasks.rows import facts, plain

ROLES = {
    "word": "the last token of what a fact says a person has, does or when",
    "name": "the last token of a fact's name",
    "stop": "the full stop of a fact",
    "asked": "the first token of the question, the name that is asked about",
    "before": "the token before the answer",
}
"""One token of each fact (word, name, stop), or one of each question, in the order of the row."""
Roles = dict[str, list[int]]


class RowTokens(NamedTuple):
    """A row's ids; positions by role in the whole row, and in its last line alone."""

    ids: tuple[int, ...]
    roles: Roles
    last_line: Roles

    @property
    def other(self) -> list[int]:
        """Tokens without a role."""
        return sorted({*range(len(self.ids))} - {place for places in self.roles.values() for place in places})


def row_tokens(model: HookedDCFormer, row: TaskRow) -> RowTokens:
    encoded = model.tokenizer(row.plain_text, add_special_tokens=False, return_offsets_mapping=True)
    ends = {end: place for place, (_, end) in enumerate(encoded["offset_mapping"])}
    lines, offset = [], 1
    for line in map(plain, row.lines):
        # " >." is one token, and so is the name after it
        question = ends[offset + line.index(">.") + 2] + 1
        roles: Roles = {"word": [], "name": [], "stop": [], "asked": [question], "before": []}
        for fact in facts(row.rule, line):
            for role, end in (("word", fact.object_span[1]), ("name", fact.span[1]), ("stop", fact.end)):
                roles[role].append(ends[offset + end])
        lines.append(roles)
        offset += len(line) + 1
    ids, owners = answer_token_mask(row, model.tokenizer)
    asking = lines[len(lines) - len(row.answers) :]
    for number, roles in enumerate(asking):
        roles["before"] = [owners.index(number) - 1]
    whole = {role: [place for roles in lines for place in roles[role]] for role in ROLES}
    return RowTokens(tuple(ids), whole, lines[-1])
