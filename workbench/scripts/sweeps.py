"""The sweep of the page Intervene: one change at every place of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.scripts.base import model_line, script
from workbench.sweeping import SweepRequest

CELLS = {"branch": "branch_cells", "edge": "edge_cells", "head": "head_cells", "position": "position_cells"}


def sweep_script(request: SweepRequest) -> str:
    """What a sweep shows: the table of its cells, with an estimate beside each where one was asked for."""
    cells = CELLS[request.grid]
    over, needed = _examples(request)
    lines = [
        model_line(request.model), *over, f"cells = {cells}(", *_arguments(request), ")",
        f"table = sweep(model, examples, cells, [{request.measure!r}])  # one row a cell: a pandas table",
    ]  # fmt: skip
    imports = ["from model import load_model", f"from probes.sweeps import {cells}, sweep", *needed]
    if request.corpus:
        imports.append("from probes import MeanMixing")
    if request.estimate:
        imports.append("from probes.attribution import agreement, attribute")
        lines += [
            f"estimates = attribute(model, examples, cells, {request.measure!r})",
            "# agreement(estimates, table) says how well the two agree",
            "table = table.merge(estimates[[*cells[0].labels, 'estimate']], on=list(cells[0].labels))",
        ]
    return script(imports, lines, {"table": "table.to_dict('records')"})


def _arguments(request: SweepRequest) -> list[str]:
    """Of the function that makes the cells, each on a line of its own."""
    first = ["model.cfg"]
    if request.grid == "position":
        length = f"range(model.to_tokens({request.prompt!r}).shape[1])"
        first.append(repr(list(request.positions)) if request.positions else length)
    where = {name: list(getattr(request, name)) or None for name in ("layers", "sites")}
    named: Mapping[str, Any] = where | dict(request.change)
    arguments = [*first, *(f"{name}={value!r}" for name, value in named.items())]
    if request.corpus:
        arguments.append(f"mean=MeanMixing.over(model, {list(request.corpus)!r})")
    return [f"    {argument}," for argument in arguments]


def _examples(request: SweepRequest) -> tuple[list[str], list[str]]:
    """The lines that make what is measured, and what they need."""
    if request.pair:
        needed = "from workbench.task_rows import RowName, pair_example"
        return [f"examples = [pair_example(model, RowName.read({request.pair!r}))]"], [needed]
    if not request.rows:
        return [f"examples = text_examples(model, [{request.prompt!r}])"], ["from probes.examples import text_examples"]
    lines = [
        f"made = generate(None, {request.rows_of_a_rule}, {request.seed}, 'held_out')",
        f"rows = [made[number * len(made) // {request.rows}] for number in range({request.rows})]  # of all rules",
        "examples = task_examples(model, rows)",
    ]
    return lines, ["from probes.examples import task_examples", "from probes.tasks import generate"]
