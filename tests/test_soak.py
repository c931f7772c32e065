"""What docs/reliability.md says is run is what is run: one command a row, and all of them in the long test."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.browser_tools import ROOT
from tests.fuzzing.registry import COMPONENTS
from tests.soak import PARTS

ROWS = [
    row for row in re.findall(r"^\| .* \|$", (ROOT / "docs/reliability.md").read_text("utf-8"), re.MULTILINE)
    if not row.endswith("| command |")
]  # fmt: skip
COMMANDS = {row: re.findall(r"`(python [^`]+)`", row.split("|")[-2]) for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:40])
def test_every_row_has_one_command_of_files_that_are_there(row):
    [command] = COMMANDS[row]
    assert row.split("|")[-2].strip() == f"`{command}`"
    _, dash_m, module, *rest = shlex.split(command)
    places = [one for one in rest if one.startswith("tests/")] if module == "pytest" else [module.replace(".", "/")]
    assert dash_m == "-m"
    assert places
    for place in places:
        assert any((ROOT / f"{place}{ending}").is_file() for ending in ("", ".py", "/__main__.py")), place


def test_the_long_test_runs_every_command_and_the_fuzzing_of_every_reader():
    told = [shlex.split(command)[1:] for [command] in COMMANDS.values()]
    fuzzed = {one[3] for one in told if one[:3] == ["-m", "tests.fuzzing", "--component"]}
    assert fuzzed == set(COMPONENTS)
    assert sorted(one for one in told if one[1] != "tests.fuzzing") == sorted(PARTS.values())
