"""The page Tasks: accuracy of models on task rows."""

from __future__ import annotations

from probes.tasks import RULES
from workbench.scripts.base import load_line, script
from workbench.task_runs import TaskRequest


def tasks_script(request: TaskRequest, by: str) -> str:
    """What Tasks shows: accuracy of each model by family, rule or line, and the first model minus each other one."""
    rules = None if len(request.rule_ids) == len(RULES) else request.rule_ids
    options = f"{request.rows}, {request.seed}, {request.split!r}, "
    options += f"lines={request.lines}, demonstrations={request.demonstrations}"
    lines = [
        f"models = {{{', '.join(f'{name!r}: {load_line(name)}' for name in request.models)}}}",
        "names = list(models)",
        f"rows = generate({rules}, {options})",
        "scores = {name: score(models[name], rows) for name in names}",
        f"accuracy = {{name: scores[name].by({by!r}) for name in names}}",
        "first, *others = names",
        "# the first model minus each other one",
        f"differences = {{name: compare_scores(scores[first], scores[name], {by!r}) for name in others}}",
    ]
    numbers = {
        "accuracy": "{name: table.to_dict('index') for name, table in accuracy.items()}",
        "differences": "{name: table.to_dict('index') for name, table in differences.items()}",
    }
    imports = ["from model import load_model", "from probes.tasks import compare_scores, generate, score"]
    return script(imports, lines, numbers)
