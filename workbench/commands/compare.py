"""Compare two runs: composed with its uncomposed twin, a plain model, another checkpoint or another prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from workbench.commands.options import MODEL_HELP, make_folder, model_options, open_model

ROWS = 12
"""Rows of each table that are printed; the files have all."""


@click.command(context_settings={"show_default": True})
@model_options
@click.option("--with", "other_name", help=f"The second model. {MODEL_HELP}")
@click.option("--twin", is_flag=True, help="Second side: the first model with M = I everywhere.")
@click.option("--frozen", type=click.Path(exists=True, dir_okay=False), metavar="TEXT",
              help="Second side: the first model, mixing frozen to its mean over this file's lines.")  # fmt: skip
@click.option("--change", type=click.File(), help="Second side: the first model under interventions from a JSON file.")
@click.option("--prompt", required=True, help="The text to run.")
@click.option("--other-prompt", help="What the second side reads instead.")
@click.option("--same-heads", is_flag=True, help="Two checkpoints of one training: head h is head h.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for all tables as CSV, and JSON.")
def command(
    model_name: str, device: str, dtype: str | None, other_name: str | None, twin: bool, frozen: str | None,
    change: Any, prompt: str, other_prompt: str | None, same_heads: bool, out: Path | None,
) -> None:  # fmt: skip
    """Maps, predictions, losses and head metrics of two runs, side by side.

    The second side is --with another model, or the first model changed (--twin, --frozen, --change), or --other-prompt
    alone.
    """
    given = [name for name, value in (("--with", other_name), ("--twin", twin), ("--frozen", frozen),
                                      ("--change", change)) if value]  # fmt: skip
    if len(given) > 1 or (not given and other_prompt is None):
        named = f"{' and '.join(given)} were given." if given else "Nothing to compare with was given."
        raise click.UsageError(f"{named} Name one: --with, --twin, --frozen or --change; or --other-prompt.")
    if out is not None:
        make_folder(out)
    from probes.comparison import PAIRINGS, compare

    model = open_model(model_name, device, dtype)
    second = open_model(other_name, device, dtype) if other_name else _changed(model, twin, frozen, change)
    names = (model_name, _second_name(model_name, other_name, given, other_prompt))
    found = compare(
        model, model if second is None else second, prompt, other_prompt=other_prompt, names=names,
        same_heads=True if same_heads else None,
    )  # fmt: skip
    summary = found.summary
    click.echo(
        f"{names[0]} (a) and {names[1]} (b), {summary['aligned_tokens']} aligned tokens\n"
        f"loss: {summary['loss_a']:.4f} and {summary['loss_b']:.4f} nats per token; KL(a || b) {summary['kl']:.4f}; "
        f"same next token at {summary['same_next_token']:.1%} of positions\nheads: {PAIRINGS[found.pairing]}"
    )
    if found.note:
        click.echo(found.note)
    largest = found.heads.sort_values("distance", ascending=False)
    for title, table in (("Tokens with the largest divergence", found.tokens.sort_values("kl", ascending=False)),
                         ("Heads that differ most (L1 distance of composed patterns)", largest)):  # fmt: skip
        if len(table):
            click.echo(f"\n{title}\n{table.head(ROWS).to_string(index=False, float_format='{:.3f}'.format)}")
    if out is not None:
        for name, table in (("tokens", found.tokens), ("heads", found.heads), ("metrics", found.metrics())):
            table.to_csv(out / f"{name}.csv", index=False)
        (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        click.echo(f"Wrote {out}: tokens.csv, heads.csv, metrics.csv, summary.json.", err=True)


def _changed(model: Any, twin: bool, frozen: str | None, change: Any) -> Any:
    """The change of the first model that makes the second side, or None."""
    from probes import Intervention, MeanMixing, uncomposed_twin
    from probes.interventions import from_json

    if twin:
        return uncomposed_twin()
    if change is not None:
        return from_json(change.read())
    if frozen is None:
        return None
    lines = [line for line in Path(frozen).read_text(encoding="utf-8").splitlines() if line.strip()]
    return Intervention(mode="mean", mean=MeanMixing.over(model, lines))


def _second_name(model_name: str, other_name: str | None, given: list[str], other_prompt: str | None) -> str:
    if other_name:
        return other_name
    words = {"--twin": "uncomposed twin", "--frozen": "mixing frozen to its mean", "--change": "changed"}
    return f"{model_name}, {words[given[0]]}" if given else f"{model_name}, other prompt"
