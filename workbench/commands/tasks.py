"""How well a model answers the DCFormer paper's in-context tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.commands.options import model_options, open_model

if TYPE_CHECKING:
    import pandas as pd


@click.command(context_settings={"show_default": True})
@model_options
@click.option("--file", "file", type=click.Path(exists=True, dir_okay=False), help="Rows to score; default: make them.")
@click.option("--rows-per-rule", type=click.IntRange(min=1), default=2, help="Rows made of each rule.")
@click.option("--family", "families", multiple=True, help="Family of rules to make rows of, repeatable; default: all.")
@click.option("--rule", "rule_ids", type=int, multiple=True, help="Rule to make rows of, by id, repeatable.")
@click.option("--lines", default=8, help="Lines of a row that is made.")
@click.option("--demonstrations", default=2, help="Lines of these, the first ones, whose answers do not count.")
@click.option("--seed", default=0, help="Of the rows made.")
@click.option(
    "--split", type=click.Choice(["train", "held_out"]), default="held_out", help="Which word pairs they use."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, help="Rows that run at once.")
@click.option("--rules", is_flag=True, help="Print a line for each rule too.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the table, .json or .csv.")
@click.option("--save-rows", type=click.Path(dir_okay=False), help="Write the rows that were scored, as JSON lines.")
def command(
    model_name: str, device: str, dtype: str | None, file: str | None, rows_per_rule: int, families: tuple[str, ...],
    rule_ids: tuple[int, ...], lines: int, demonstrations: int, seed: int, split: str, batch_size: int, rules: bool,
    out: str | None, save_rows: str | None,
) -> None:  # fmt: skip
    """Print exact match with its 95% interval, chance, token accuracy and loss of the in-context tasks, by family.

    An answer counts as right when each of its tokens is the model's first choice given the text before it.
    """
    if out is not None and Path(out).suffix not in (".json", ".csv"):
        raise ValueError(f"--out is {out}, and the table is written as JSON or CSV. End the name in .json or .csv.")
    for wanted in (out, save_rows):
        if wanted is not None and not Path(wanted).parent.is_dir():
            raise FileNotFoundError(f"The folder {Path(wanted).parent} does not exist. Create it, or choose another.")
    from probes.tasks import read_tasks, score, write_tasks
    from workbench.task_runs import TaskRequest

    asked = TaskRequest((model_name,), families, rule_ids, rows_per_rule, seed, split, lines, demonstrations)
    rows = asked.task_rows() if file is None else read_tasks(file)
    if save_rows is not None:
        write_tasks(rows, save_rows)
    table = score(open_model(model_name, device, dtype), rows, batch_size=batch_size).table(rules)
    click.echo(table.to_string(float_format=lambda number: f"{number:.3f}"))
    if out is not None:
        _write(table, Path(out), {"model": model_name, "rows": len(rows), "file": file})


def _write(table: pd.DataFrame, out: Path, about: dict[str, object]) -> None:
    from workbench.report import write_text

    if out.suffix == ".csv":
        write_text(out, table.to_csv(index_label="group"))
    else:
        write_text(out, json.dumps(about | {"scores": table.to_dict("index")}, indent=1))
