"""Write a checkpoint in another layout."""

from __future__ import annotations

import click

from workbench.commands.options import open_model


@click.command(context_settings={"show_default": True})
@click.argument("source")
@click.argument("target", type=click.Path(file_okay=False))
@click.option("--layout", default="own", type=click.Choice(["own", "published"]), help="Layout to write.")
@click.option("--dtype", default=None, help="Store in this dtype; default: as it was.")
def command(source: str, target: str, layout: str, dtype: str | None) -> None:
    """Read SOURCE (any layout) and write it to the directory TARGET."""
    from model import save_model

    model = open_model(source, "cpu", dtype)
    save_model(model, target, layout=layout)
    click.echo(f"Wrote {source} to {target} in the {layout} layout.")
