"""Pages on one prompt through one model: Explore, Intervene, Virtual heads, Heads."""

from __future__ import annotations

from workbench.head_tables import RandomTokens
from workbench.scripts.base import model_line, run_imports, run_lines, script, under
from workbench.views import KINDS, Selection


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
            model_line(model),
            f"tokens = repeated_random_tokens(model, {text.block}, {text.repeats}, {text.seed})",
            *(under(change, run) if change else [run]),
        ]
    else:
        lines = run_lines(model, text, change)
    lines.append(f"table = {measure}(run)  # one row a value: a pandas table")
    return script(imports, lines, {"table": "table.to_dict('records')"})
