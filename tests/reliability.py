"""Hold the workbench to every promise of docs/reliability.md and print its tables: python -m tests.reliability

What tests tried is counted by the tests (pytest's record_property): kills, failed writes, drawn models.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import click

from benchmarks.timing import markdown_table
from tests.browser_tools import ROOT
from tests.promises import PROMISES, Promise

ENDS = ("failure", "error")


@click.command(help=__doc__)
@click.option("--section", type=click.Choice(list(PROMISES)), multiple=True, help="Default: all, an hour.")
def main(section: tuple[str, ...]) -> None:
    held = True
    for title in section or tuple(PROMISES):
        rows = []
        for promise in PROMISES[title]:
            tried, result = outcome(promise)
            held &= result.startswith("held")
            rows.append([promise.says, tried, result, f"`{promise.command}`"])
        click.echo(f"## {title}\n\n{markdown_table(['promise', 'tried', 'result', 'command'], rows)}\n")
    raise SystemExit(not held)


def outcome(promise: Promise) -> tuple[str, str]:
    """What was tried, and what came out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.xml"
        written = [f"--junitxml={path}"] if promise.is_tests else []
        done = subprocess.run(
            [sys.executable, *promise.arguments, *written],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if path.exists():
            return counted(path)
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "nothing")
    return f"it said: {last}", "FAILED" if done.returncode else "held"


def counted(path: Path) -> tuple[str, str]:
    """The same from pytest's results."""
    tree = ElementTree.parse(path).getroot()
    cases = list(tree.iter("testcase"))
    failed = [case.get("name", "") for case in cases if any(case.find(end) is not None for end in ENDS)]
    skipped = [case for case in cases if case.find("skipped") is not None]
    counts: Counter[str] = Counter()
    for one in tree.iter("property"):
        if (number := one.get("value", "")).isdecimal():  # Hypothesis leaves its notes there too
            counts[one.get("name", "")] += int(number)
    tried = [f"{len(cases) - len(skipped)} tests", *(f"{number:,} {what}" for what, number in counts.items())]
    result = f"FAILED: {', '.join(failed)}" if failed or not cases else "held"
    return ", ".join(tried), result + (f", {len(skipped)} skipped" if skipped else "")


if __name__ == "__main__":
    main()
