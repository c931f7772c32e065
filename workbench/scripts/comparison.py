"""The page Compare: two runs side by side."""

from __future__ import annotations

from workbench.comparisons import NEXT_TOKENS, Place, Side
from workbench.scripts.base import load_line, script


def compare_script(a: Side, b: Side, same_heads: bool, at: Place, kind: str, stage: str) -> str:
    """What Compare shows: both sides by token and head, predictions and head distances at a query, one cell of the
    two maps, and the metrics of the pair of heads."""
    lines = [
        f"model_a = {load_line(a.model)}",
        "model_b = model_a" if a.model == b.model else f"model_b = {load_line(b.model)}",
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
