"""What docs/demo_pair.md and the model cards say of the pair: python -m studies.demo_pair.report [--runs DIR].

Reads the folders that training left. Prints Markdown tables; writes the loss curves of all runs beside this file
(curves.csv), their picture (docs/images/demo_pair.png, with Chromium), and the metrics of the kept checkpoints into the
zoo.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd
from plotly.subplots import make_subplots
from tqdm import tqdm

from model import HookedDCFormer, load_model
from model.training.metrics import read_metrics
from model.training.saving import kept_models
from probes.tasks import FAMILIES, TaskRow, read_tasks, score
from studies.demo_pair.export import NAMES, ZOO
from studies.demo_pair.measure import BLOCKS, checkpoint, held_out, mixing_distances, repeat_accuracy
from studies.pictures import COLOURS, screenshot

CURVES = Path(__file__).parent / "curves.csv"
BIN = 50
"""Steps over which the loss curves are averaged."""
EVALUATED = "exact_match/overall"


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/demo_pair"), show_default=True)
@click.option("--sample", type=click.Path(path_type=Path), help="Published task rows, as `workbench tasks --file`.")
@click.option("--rows-per-rule", default=4, show_default=True, help="Held-out rows of each of the 74 rules.")
@click.option("--redraw", is_flag=True, help="Only draw the picture again, from curves.csv.")
def main(runs: Path, sample: Path | None, rows_per_rule: int, redraw: bool) -> None:
    """Measure every finished run below a folder."""
    if redraw:
        draw([frame for _, frame in pd.read_csv(CURVES).groupby(["run", "seed"])])
        return
    folders = sorted(folder.parent for folder in runs.glob("*/seed-*/final"))
    if not folders:
        raise click.ClickException(
            f"{runs} holds no finished run. Train the pair first, see studies/demo_pair/README.md."
        )
    write_curves(folders)
    click.echo(f"## Held-out exact match along the way, one row of each rule\n\n{progress_table(folders)}\n")
    models = {name_of(folder): load_model(folder / "final") for folder in folders}
    rows = held_out(rows_per_rule)
    click.echo(f"## Exact match, {rows_per_rule} held-out rows of each rule\n\n{task_table(models, rows)}\n")
    if sample is not None:
        click.echo(f"## Exact match on {sample.name}\n\n{task_table(models, read_tasks(sample))}\n")
    click.echo(f"## Next token right in random tokens and in their repeat\n\n{repeat_table(models)}\n")
    click.echo(f"## Mean distance of M from the identity, by layer\n\n{distance_table(models, rows[0])}\n")
    for name in NAMES:
        write_checkpoints(runs / name / "seed-0", name)


def name_of(folder: Path) -> str:
    return f"{folder.parent.name}, seed {folder.name.removeprefix('seed-')}"


# -- tables ----------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" if line else rule for line in (head, (), *lines))


def progress_table(folders: Sequence[Path]) -> str:
    """Evaluated steps x runs."""
    found = {
        name_of(folder): {line["step"]: line[EVALUATED] for line in read_metrics(folder) if EVALUATED in line}
        for folder in folders
    }
    steps = sorted({int(step) for shares in found.values() for step in shares})
    lines = [
        [f"{step:,}", *(f"{shares[step]:.3f}" if step in shares else "" for shares in found.values())] for step in steps
    ]
    return markdown(["step", *found], lines)


def task_table(models: dict[str, HookedDCFormer], rows: Sequence[TaskRow]) -> str:
    """Families x models; the chance level last."""
    tables = {name: score(model, rows).table() for name, model in models.items()}
    first = next(iter(tables.values()))
    lines = [
        [group, *(f"{table.exact_match[group]:.3f}" for table in tables.values()), f"{first.chance[group]:.3f}"]
        for group in (*FAMILIES, "overall")
    ]
    return markdown(["", *tables, "chance"], lines)


def repeat_table(models: dict[str, HookedDCFormer]) -> str:
    found = {name: [repeat_accuracy(model, block) for block in BLOCKS] for name, model in models.items()}
    lines = [
        [f"{block} tokens", *(f"{first:.3f} -> {again:.3f}" for first, again in (found[name][i] for name in found))]
        for i, block in enumerate(BLOCKS)
    ]
    return markdown(["block", *found], lines)


def distance_table(models: dict[str, HookedDCFormer], row: TaskRow) -> str:
    lines = []
    for name, model in models.items():
        distances = mixing_distances(model, row.plain_text)
        for site in model.cfg.mixed_sites:
            numbers = [f"{distances[f'distance/{site}/{layer}']:.2f}" for layer in range(model.cfg.n_layers)]
            lines.append([f"{name}, {site}", *numbers])
    width = max(len(line) for line in lines) - 1
    return markdown(["", *(str(layer) for layer in range(width))], lines)


# -- files -----------------------------------------------------------------------------------------------


def write_checkpoints(folder: Path, name: str) -> None:
    """checkpoints.csv of a model in the zoo: one line for each of its log-spaced checkpoints."""
    rows = held_out(1)
    lines = []
    for step, kept in tqdm(kept_models(folder).items(), desc=f"checkpoints of {name}"):
        lines.append({"step": step} | checkpoint(load_model(kept), rows))
    pd.DataFrame(lines).round(4).to_csv(ZOO / name / "checkpoints.csv", index=False)


def write_curves(folders: Sequence[Path]) -> None:
    frames = [curve(folder) for folder in folders]
    pd.concat(frames).to_csv(CURVES, index=False)
    draw(frames)


def curve(folder: Path) -> pd.DataFrame:
    """Loss averaged over BIN steps, and what was evaluated."""
    frame = pd.DataFrame(read_metrics(folder))
    frame["step"] = (frame.step - 1) // BIN * BIN + BIN
    means = frame.groupby("step", as_index=False).mean(numeric_only=True).round(4)
    return means.drop(columns="tokens_per_second").assign(
        run=folder.parent.name, seed=folder.name.removeprefix("seed-")
    )


def draw(frames: Sequence[pd.DataFrame]) -> None:
    """Training loss, and held-out exact match, by step."""
    figure = make_subplots(1, 2, subplot_titles=("training loss (nats per weighted token)", "held-out exact match"))
    for frame in frames:
        name, seed = frame.run.iloc[0], int(frame.seed.iloc[0])
        line = {"color": COLOURS[name], "dash": ("solid", "dash", "dot")[seed % 3], "width": 1.5}
        label = f"{name}, seed {seed}"
        evaluated = frame.dropna(subset=EVALUATED)
        figure.add_scatter(x=frame.step, y=frame.loss, line=line, name=label, row=1, col=1)
        figure.add_scatter(x=evaluated.step, y=evaluated[EVALUATED], line=line, showlegend=False, row=1, col=2)
    figure.update_layout(
        width=1200, height=420, template="plotly_white", margin={"t": 40}, legend={"orientation": "h", "y": -0.15}
    )
    figure.update_xaxes(title="step")
    figure.update_yaxes(range=[0, 1], row=1, col=2)
    screenshot(figure, "demo_pair")


if __name__ == "__main__":
    main()
