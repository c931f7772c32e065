"""Views as scripts: the text of a program that gives a view's numbers with the library alone.

A script prints its numbers as one JSON object in its last line, so that it can be read by a person and by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from probes.tasks import RULES
from workbench.comparisons import NEXT_TOKENS, Place, Side
from workbench.head_tables import RandomTokens
from workbench.task_runs import TaskRequest
from workbench.views import KINDS, Selection

MODEL_LINE = "model = load_model({model!r})"
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


def run_lines(model: str, prompt: str, change: str = "") -> list[str]:
    """The lines that load a model and capture a prompt as `model` and `run`; change: JSON of one that is in place."""
    run = RUN_LINE.format(prompt=prompt)
    return [MODEL_LINE.format(model=model), *(_under(change, run) if change else [run])]


def _under(change: str, line: str) -> list[str]:
    return [f"change = from_json({change!r})", "with change.applied(model):", f"    {line}"]


def run_imports(change: str) -> list[str]:
    """What run_lines needs."""
    needed = ["from model import capture, load_model"]
    return [*needed, "from probes.interventions import from_json"] if change else needed


def explore_script(model: str, change: str, prompt: str, at: Selection, kind: str) -> str:
    """What Explore shows of one cell: raw and composed values of all heads, the matrix, its branches, the parts."""
    site = KINDS[kind]
    lines = [
        *run_lines(model, prompt, change),
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
    return script(run_imports(change), lines, numbers)


def intervene_script(model: str, prompt: str, change: str) -> str:
    """What Intervene shows of one change: losses and divergence at every position; change: its JSON."""
    lines = [
        *run_lines(model, prompt),
        f"change = from_json({change!r})",
        "with change.applied(model):",
        "    changed = capture(model, run.tokens)",
        "found = compare_runs(run, changed, same_heads=True)",
        "# found.tokens and found.heads are the whole tables; changed has maps and mixing like run",
    ]
    numbers = {
        "loss_intact": "found.tokens['loss_a'].tolist()", "loss_changed": "found.tokens['loss_b'].tolist()",
        "kl": "found.tokens['kl'].tolist()",
    }  # fmt: skip
    imports = [
        "from model import capture, load_model", "from probes.comparison import compare_runs",
        "from probes.interventions import from_json",
    ]  # fmt: skip
    return script(imports, lines, numbers)


def virtual_heads_script(
    model: str, change: str, prompt: str, query: int, tokens: tuple[int, int | None], head: tuple[int, int, int]
) -> str:
    """What Virtual heads shows: every virtual head of a query along a token's logit, and one of them key by key."""
    lines = [
        *run_lines(model, prompt, change),
        f"query, token, contrast = {query}, {tokens[0]}, {tokens[1]}  # token ids; a contrast's logit is subtracted",
        f"layer, source, target = {head[0]}, {head[1]}, {head[2]}",
        "direction = logit_direction(model, run, query, token, contrast)",
        "table = ranked_virtual_heads(run, query, direction, count=None)  # all of all layers, the largest first",
        "sums = table.groupby('layer').attribution.sum()",
        "seen = run.keys_seen(layer, query)",
        "pattern = run.pattern(layer, 'raw', heads=source, queries=query)[0, 0, seen]",
        "mixing = run.mixing(layer, 'post').row(query)[:, source, target]  # M_post at every key",
        "scores = score_contrast(run, layer, query, query)  # source x target, before the softmax",
    ]
    numbers = {
        "largest": "table.head(20).to_dict('records')", "sums": "sums.to_dict()", "pattern": "pattern.tolist()",
        "mixing": "mixing.tolist()", "scores": "scores.tolist()",
    }  # fmt: skip
    imports = [
        *run_imports(change),
        "from probes.virtual_heads import logit_direction, ranked_virtual_heads, score_contrast",
    ]
    return script(imports, lines, numbers)


def heads_script(model: str, change: str, text: str | RandomTokens, kind: str) -> str:
    """One of the tables of Heads: a list of its rows."""
    measure = {
        "heads": "head_metrics", "raw to composed": "raw_to_composed", "diversity": "diversity",
        "mixing": "mixing_metrics",
    }[kind]  # fmt: skip
    imports = [*run_imports(change), f"from probes.metrics import {measure}"]
    if isinstance(text, RandomTokens):
        imports.append("from probes.metrics import repeated_random_tokens")
        run = "run = capture(model, tokens, logits=False)"
        lines = [
            MODEL_LINE.format(model=model),
            f"tokens = repeated_random_tokens(model, {text.block}, {text.repeats}, {text.seed})",
            *(_under(change, run) if change else [run]),
        ]
    else:
        lines = run_lines(model, text, change)
    lines.append(f"table = {measure}(run)  # one row a value: a pandas table")
    return script(imports, lines, {"table": "table.to_dict('records')"})


def tasks_script(request: TaskRequest, by: str) -> str:
    """What Tasks shows: accuracy of each model by family, rule or line, and the first model minus each other one."""
    rules = None if len(request.rule_ids) == len(RULES) else request.rule_ids
    options = f"{request.rows}, {request.seed}, {request.split!r}, "
    options += f"lines={request.lines}, demonstrations={request.demonstrations}"
    lines = [
        f"names = {list(request.models)!r}",
        f"rows = generate({rules}, {options})",
        "scores = {name: score(load_model(name), rows) for name in names}",
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


def compare_script(a: Side, b: Side, same_heads: bool, at: Place, kind: str, stage: str) -> str:
    """What Compare shows: both sides by token and head, predictions and head distances at a query, one cell of the
    two maps, and the metrics of the pair of heads."""
    lines = [
        f"model_a = load_model({a.model!r})",
        "model_b = model_a" if a.model == b.model else f"model_b = load_model({b.model!r})",
        *_side_lines("a", a),
        *_side_lines("b", b),
        f"same_heads = {same_heads or a.model == b.model}  # head h of a is head h of b",
        "found = compare_runs(a, b, same_heads=same_heads, same_ids=same_vocabulary(model_a, model_b))",
        "# found.tokens, found.heads and found.metrics() are the whole tables",
        f"query, key = {at.query}, {at.key}  # rows of found.tokens: aligned pairs of positions",
        f"(layer_a, head_a), (layer_b, head_b) = {at.a}, {at.b}",
        "(query_a, query_b), (key_a, key_b) = found.pairs[query], found.pairs[key]",
        f"cell_a = a.{kind}(layer_a, {stage!r}, heads=head_a, queries=query_a, keys=key_a)",
        f"cell_b = b.{kind}(layer_b, {stage!r}, heads=head_b, queries=query_b, keys=key_b)",
        "metrics = found.metrics().query('layer == @layer_a and head_a == @head_a')",
    ]
    numbers = {
        "summary": "found.summary", "tokens": "found.tokens[['loss_a', 'loss_b', 'kl']].values.tolist()",
        "heads": "found.heads[['layer', 'head_a', 'head_b', 'distance']].values.tolist()",
        "heads_at_query": "found.heads_at(query)['distance'].tolist()",
        "next": f"found.next_tokens(query, {NEXT_TOKENS})[['p_a', 'p_b']].values.tolist()",
        "cell": "[float(cell_a), float(cell_b)]",
        "metrics": "metrics[['metric', 'stage', 'a', 'b']].values.tolist()",
    }  # fmt: skip
    imports = [
        "from model import capture, load_model", "from probes.comparison import compare_runs",
        "from probes.side_by_side import same_vocabulary", *_change_import(a), *_change_import(b),
    ]  # fmt: skip
    return script(imports, lines, numbers)


def _side_lines(name: str, side: Side) -> list[str]:
    run = f"{name} = capture(model_{name}, {side.prompt!r})"
    if side.composition == "as trained":
        return [run]
    return [f"change = {_change(name, side)}", f"with change.applied(model_{name}):", f"    {run}"]


def _change(name: str, side: Side) -> str:
    if side.composition == "uncomposed twin":
        return "uncomposed_twin()"
    if side.composition == "frozen":
        return f"Intervention(mode='mean', mean=MeanMixing.over(model_{name}, {list(side.corpus)!r}))"
    return f"from_json({side.written!r})"


def _change_import(side: Side) -> list[str]:
    needed = {
        "uncomposed twin": "from probes import uncomposed_twin",
        "frozen": "from probes import Intervention, MeanMixing",
        "intervention": "from probes.interventions import from_json",
    }  # fmt: skip
    return [needed[side.composition]] if side.composition in needed else []
