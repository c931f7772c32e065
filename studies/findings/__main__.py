"""python -m studies.findings COMMAND: measure, write tables into results/, and print what docs/findings.md quotes."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from model import load_model
from studies.findings.branches import branches
from studies.findings.circuits import RULES, circuit
from studies.findings.estimates import agreements, edges
from studies.findings.figures import draw_all
from studies.findings.heads import captures, diversities, mixings
from studies.findings.transfer import transfers

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs/findings")
"""Where sweeps keep what is done, so that a stopped one goes on."""


@click.group()
@click.option("--model", "name", default="demo/dcformer", show_default=True)
@click.option("--plain", default="demo/transformer", show_default=True)
@click.pass_context
def main(context: click.Context, name: str, plain: str) -> None:
    """What composition does in the bundled pair."""
    RESULTS.mkdir(exist_ok=True)
    context.obj = {"model": name, "plain": plain}


@main.command("branches")
@click.pass_obj
def branches_command(names: dict[str, str]) -> None:
    """Which branches and sites matter: zeroed, frozen, shuffled, turned at random."""
    _write("branches", branches(load_model(names["model"]), WORK / "branches.jsonl"))


@main.command("edges")
@click.pass_obj
def edges_command(names: dict[str, str]) -> None:
    """Every edge: gradient estimate against real cut."""
    found = edges(load_model(names["model"]), WORK / "edges.jsonl")
    _write("edges", found)
    _write("agreement", agreements(found).rename_axis("cells of").reset_index())


@main.command("heads")
@click.pass_obj
def heads_command(names: dict[str, str]) -> None:
    """Diversity of raw, composed and plain heads; what the mixing matrices are like."""
    composed = captures(load_model(names["model"]))
    _write("diversity", diversities(composed, captures(load_model(names["plain"]))))
    _write("mixing", mixings(composed).reset_index())


@main.command("circuits")
@click.pass_obj
def circuits_command(names: dict[str, str]) -> None:
    """Three task circuits through named virtual heads."""
    model, tables = load_model(names["model"]), []
    for family, task_id in RULES.items():
        swept, confirmed = circuit(model, task_id)
        tables.append(confirmed.assign(family=family))
        _write(f"circuit_{task_id}", swept.head(20))
    _write("circuits", pd.concat(tables))


@main.command("transfer")
@click.pass_obj
def transfer_command(names: dict[str, str]) -> None:
    """Through which tokens and heads the answers of the same tasks pass."""
    _write("transfer", transfers(load_model(names["model"]), RULES))


@main.command("figures")
def figures_command() -> None:
    """Draw docs/images/findings_*.png from the tables that stand in results/ (needs Chromium)."""
    draw_all(RESULTS)


def _write(name: str, table: pd.DataFrame) -> None:
    table.round(4).to_csv(RESULTS / f"{name}.csv", index=False)
    with pd.option_context("display.width", 220, "display.max_rows", 400, "display.max_columns", 40):
        click.echo(f"\n{name}\n{table.round(3).to_string(index=False)}")


if __name__ == "__main__":
    main()
