"""How well a model predicts text files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from workbench.commands.options import model_options, open_model


@click.command(context_settings={"show_default": True})
@model_options
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--context", type=int, help="Tokens the model sees at a time; default: its whole context.")
@click.option("--stride", type=int, help="How far the window moves; default: half the context.")
@click.option("--json", "json_out", type=click.Path(dir_okay=False, allow_dash=True), help="Write numbers; - = stdout.")
def command(
    model_name: str, device: str, dtype: str | None, files: tuple[str, ...],
    context: int | None, stride: int | None, json_out: str | None,
) -> None:  # fmt: skip
    """Print the loss of text FILES under a sliding context: nats per token, perplexity, bits per byte.

    Each token but a file's first is predicted once, with at least context - stride tokens before it (fewer only at
    the start of the file).
    """
    from model import Engine
    from probes import perplexity
    from workbench.report import write_text

    engine = Engine(open_model(model_name, device, dtype))
    found = {name: perplexity(engine, _read(name), context=context, stride=stride, progress=True) for name in files}
    if len(found) > 1:
        first, *rest = found.values()
        found["all"] = sum(rest, start=first)
    rows = {
        name: {"tokens": r.tokens, "bytes": r.bytes, "nats_per_token": r.nats_per_token,
               "perplexity": r.perplexity, "bits_per_byte": r.bits_per_byte}
        for name, r in found.items()
    }  # fmt: skip
    if json_out == "-":
        click.echo(json.dumps({"model": model_name, "files": rows}, indent=1))
        return
    _print_table(rows)
    if json_out is not None:
        write_text(Path(json_out), json.dumps({"model": model_name, "files": rows}, indent=1))


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {error.start} cannot be read). Convert it first.") from error


def _print_table(rows: dict[str, dict[str, Any]]) -> None:
    width = max(map(len, rows))
    click.echo(f"{'':{width}}  {'tokens':>9}  {'nats/token':>10}  {'perplexity':>10}  {'bits/byte':>9}")
    for name, row in rows.items():
        click.echo(
            f"{name:{width}}  {row['tokens']:>9,}  {row['nats_per_token']:>10.4f}  {row['perplexity']:>10.3f}  "
            f"{row['bits_per_byte']:>9.4f}"
        )
