"""docs/reliability.md lists what is promised and what is run: every promise, every reader, one command each."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.browser_tools import ROOT
from tests.fuzzing.registry import COMPONENTS
from tests.promises import PROMISES

TEXT = (ROOT / "docs/reliability.md").read_text("utf-8")
TABLE = re.findall(r"^\| .* \|$", TEXT, re.MULTILINE)
KEPT = [promise for section in PROMISES.values() for promise in section]


@pytest.mark.parametrize("promise", KEPT, ids=lambda promise: promise.command[:60])
def test_every_promise_stands_in_the_docs_with_its_command_of_files_that_are_there(promise):
    [row] = [row for row in TABLE if f"| {promise.says} |" in row]
    assert row.endswith(f"| `{promise.command}` |")
    assert re.search(r"\| (held|NOT held: )", row), "what came out"
    _, module, *rest = promise.arguments
    places = (
        [one for one in rest if one.startswith("tests/")] if promise.is_tests else [f"{module.replace('.', '/')}.py"]
    )
    assert places
    assert all((ROOT / place).is_file() for place in places)


def test_the_docs_have_a_row_for_every_reader_and_promise_nothing_else():
    told = [shlex.split(command) for row in TABLE for command in re.findall(r"`(python -m [^`]+)` \|$", row)]
    fuzzed = {one[4] for one in told if one[2] == "tests.fuzzing"}
    assert fuzzed == set(COMPONENTS)
    assert len([one for one in told if one[2] != "tests.fuzzing"]) == len(KEPT)
