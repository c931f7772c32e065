"""Views as scripts: the text of a program that gives a view's numbers with the library alone.

A script prints its numbers as one JSON object in its last line, so that it can be read by a person and by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.generating import GenerationRequest
from workbench.model_choice import ModelChoice
from workbench.views import KINDS, Selection

RUN_LINE = "run = capture(model, {prompt!r})"


def script(imports: Sequence[str], lines: Sequence[str], numbers: Mapping[str, str]) -> str:
    """A program: imports, lines, and a last line that prints some numbers.

    Args:
        imports: whole lines. numbers: name -> expression that JSON can hold.
    """
    printed = "\n".join(f"    {name!r}: {expression}," for name, expression in numbers.items())
    body = "\n".join(lines)
    head = "\n".join(sorted({"import json", *imports}, key=lambda line: (line.startswith("from"), line)))
    return f"{head}\n\n{body}\n\nprint(json.dumps({{\n{printed}\n}}))\n"


def run_lines(model: str, prompt: str) -> list[str]:
    """The lines that load a model and capture a prompt as `model` and `run`."""
    return [model_line(model), RUN_LINE.format(prompt=prompt)]


def model_line(model: str) -> str:
    """The line that loads the model of this name, on the device and in the dtype that the name says."""
    return f"model = {ModelChoice.from_name(model).load_line}"


def explore_script(model: str, prompt: str, at: Selection, kind: str) -> str:
    """What Explore shows of one cell: raw and composed values of all heads, the matrix, its branches, the parts."""
    site = KINDS[kind]
    lines = [
        *run_lines(model, prompt),
        f"layer, head, query, key = {at.layer}, {at.head}, {at.query}, {at.key}",
        f"raw = run.{kind}(layer, 'raw', queries=query, keys=key)[:, 0, 0]",
        f"composed = run.{kind}(layer, 'composed', queries=query, keys=key)[:, 0, 0]",
        f"mixing = run.mixing(layer, {site!r})",
        "matrix = mixing.matrix(query, key)  # [source, target]",
        "branches = mixing.branches(query, key)  # five matrices, which sum to it",
        "parts = raw * matrix[:, head]  # of every source head; they sum to composed[head]",
        "row = run.pattern(layer, heads=head, queries=query)[0, 0]",
        "maps = run.maps(layer, heads=head)  # the four whole maps, each [1, query, key]: {name: tensor}",
    ]
    numbers = {
        "raw": "raw.tolist()", "composed": "composed.tolist()", "matrix": "matrix.tolist()",
        "branches": "{name: part.tolist() for name, part in branches.items()}", "parts": "parts.tolist()",
        "row_sum": "float(row.sum())",
    }  # fmt: skip
    return script(["from model import capture, load_model"], lines, numbers)


def generation_script(request: GenerationRequest, tokens: int, shown: int) -> str:
    """The text of a generation, and the composition of one of its tokens.

    Args:
        tokens: how many were generated. shown: which of them is looked at, from 0.
    """
    sampling = "".join(f", {name}={value!r}" for name, value in request.sampling().items())
    lines = [
        model_line(request.model),
        "engine = Engine(model)",
        f"prompt, count = {request.prompt!r}, {tokens}",
        f"text = engine.generate(prompt, count{sampling})",
        "before = model.to_tokens(prompt)",
        f"ids = engine.generate(before, count{sampling})[0]",
        "run = capture(engine, ids, logits=False)",
        f"token = before.shape[1] + {shown}  # position of the new token that is looked at",
        "# how far M(token, j) is from identity over the keys j that it sees: [layer][head]",
        "rows = {",
        "    site: [run.mixing(layer, site).query_distances_from_identity()[token].tolist() for layer in run.layers]",
        '    for site in ("pre", "post")',
        "}",
    ]
    numbers = {"text": "text", "ids": "ids[before.shape[1] :].tolist()", "rows": "rows"}
    return script(["from model import Engine, capture, load_model"], lines, numbers)
