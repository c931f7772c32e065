"""Write a report of one prompt through one model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workbench.commands.options import model_options, open_model


@click.command(context_settings={"show_default": True})
@model_options
@click.option("--prompt", required=True, help="The text to run the model on.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write a self-contained HTML report here.")
@click.option("--json", "json_out", type=click.Path(dir_okay=False, allow_dash=True), help="Write numbers; - = stdout.")
@click.option("--layer", type=int, help="Layer to show; default: that of the most mixed head.")
@click.option("--head", type=int, help="Target head to show; default: the most mixed one.")
@click.option("--query", type=int, help="Query position; default: the last.")
@click.option("--key", type=int, help="Key position; default: the one the head weighs most.")
def command(
    model_name: str, device: str, dtype: str | None, prompt: str, out: str | None, json_out: str | None,
    layer: int | None, head: int | None, query: int | None, key: int | None,
) -> None:  # fmt: skip
    """Write how the heads of a model are composed on a prompt: pictures (--out), numbers (--json), or both."""
    if out is None and json_out is None:
        raise click.UsageError("Nothing to write. Give --out report.html, --json numbers.json, or both.")
    from model import capture
    from workbench import report, views

    model = open_model(model_name, device, dtype)
    run = capture(model, prompt)
    selection = views.chosen_selection(run, layer=layer, head=head, query=query, key=key)
    if out is not None:
        text = report.html_report(run, selection, model_name, model.to_string)
        report.write_text(Path(out), text)
        click.echo(f"Wrote {out} ({len(text) / 2**20:.1f} MiB).", err=True)
    if json_out is not None:
        numbers = json.dumps(report.numbers(run, selection, model_name, model.to_string), indent=1, allow_nan=False)
        if json_out == "-":
            click.echo(numbers)
        else:
            report.write_text(Path(json_out), numbers)
            click.echo(f"Wrote {json_out}.", err=True)
