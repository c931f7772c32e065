"""Put the trained pair into model/zoo: python -m studies.demo_pair.export [--runs DIR] [--seed N]."""

from __future__ import annotations

from pathlib import Path

import click

from model import load_model
from model.checkpoints import save_model

NAMES = ("dcformer", "transformer")
ZOO = Path(__file__).parents[2] / "model" / "zoo"
BESIDE = ("MODEL_CARD.md", "checkpoints.csv")
"""What lies beside a model's own files and stays."""


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/demo_pair"), show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(runs: Path, seed: int) -> None:
    """Both models of a seed, as their runs finished them."""
    for name in NAMES:
        model = load_model(runs / name / f"seed-{seed}" / "final")
        model.cfg.model_name = name
        kept = {file: (ZOO / name / file).read_bytes() for file in BESIDE if (ZOO / name / file).exists()}
        for file in kept:
            # save_model replaces a directory only if it holds nothing but a model
            (ZOO / name / file).unlink()
        save_model(model, ZOO / name)
        for file, content in kept.items():
            (ZOO / name / file).write_bytes(content)
        click.echo(f"{name}: {ZOO / name}")


if __name__ == "__main__":
    main()
