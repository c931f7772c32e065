"""What every script is made of: imports, lines that load and run, and a last line that prints numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.model_choice import ModelChoice

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


def load_line(model: str) -> str:
    """The expression that loads the model of this name, on the device and in the dtype that the name says."""
    return ModelChoice.from_name(model).load_line


def model_line(model: str) -> str:
    """The line that loads the model of this name as `model`."""
    return f"model = {load_line(model)}"


def run_lines(model: str, prompt: str, change: str = "") -> list[str]:
    """The lines that load a model and capture a prompt as `model` and `run`; change: JSON of one that is in place."""
    run = RUN_LINE.format(prompt=prompt)
    return [model_line(model), *(under(change, run) if change else [run])]


def under(change: str, line: str) -> list[str]:
    return [f"change = from_json({change!r})", "with change.applied(model):", f"    {line}"]


def run_imports(change: str) -> list[str]:
    """What run_lines needs."""
    needed = ["from model import capture, load_model"]
    return [*needed, "from probes.interventions import from_json"] if change else needed
