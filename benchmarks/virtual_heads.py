"""Time of taking one query of one layer apart into virtual heads: python -m benchmarks.virtual_heads

A capture of one layer of one of the paper's shapes is made up of random numbers; no model runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.timing import interleaved_medians, markdown_table, save_figures
from model import Capture, DCFormerConfig
from model.capture import LayerCapture
from model.config import DTYPES
from model.mixing import FACTORS, Mixing
from probes.pre_and_post import pre_and_post_of_layer
from probes.virtual_heads import score_contrast, score_row, virtual_heads


@dataclass(frozen=True)
class Figure:
    """Median seconds of one analysis of one query."""

    analysis: str
    tokens: int
    seconds: float


def made_up_capture(preset: str, tokens: int, dtype: torch.dtype, visible_keys: int | None = None) -> Capture:
    """A capture of one layer with random queries, keys, values and factors of both sites; logits were not kept."""
    cfg = DCFormerConfig.preset(preset, n_layers=1, visible_keys=(visible_keys,), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    H, K, R = cfg.n_heads, cfg.d_head, cfg.rank

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    def site() -> Mixing:
        shapes = {name: (1, tokens, H) if name.endswith("gate") else (1, tokens, R, H) for name in FACTORS}
        return Mixing(n_heads=H).with_factors({name: random(*shape) / 4 for name, shape in shapes.items()})

    q, k, v = (random(tokens, H, K) for _ in range(3))
    # laid out as the model's own: a view of [d_model, head * d_head]
    W_O = (random(cfg.d_model, H, K) / (H * K) ** 0.5).permute(1, 2, 0)
    layer = LayerCapture(q=q, k=k, v=v, pre=site(), post=site(), W_O=W_O)
    ids = torch.zeros(tokens, dtype=torch.long)
    return Capture(cfg, ids, [""] * tokens, None, torch.ones(tokens, 1), {0: layer})


def analyses(run: Capture) -> dict[str, Callable[[], Any]]:
    """Each analysis of the last query, by what it gives."""
    last, direction = len(run) - 1, torch.ones(run.cfg.d_model)
    return {
        "virtual heads": lambda: virtual_heads(run, 0, last, direction),
        "virtual heads, ranked": lambda: virtual_heads(run, 0, last, direction).ranked(20),
        "attribution alone": lambda: run.virtual_head_attribution(0, last, direction),
        "score row of a target": lambda: score_row(run, 0, last, 0),
        "score contrast": lambda: score_contrast(run, 0, last, 0),
        "pre and post": lambda: pre_and_post_of_layer(run, 0, last, direction),
    }


@click.command(help=__doc__)
@click.option("--preset", default="dcformer-2.8b", show_default=True)
@click.option("--tokens", default=2048, show_default=True, help="Length of the prompt; the last query sees all of it.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(list(DTYPES)), help="Of the capture.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each, taking turns; medians are reported.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(preset: str, tokens: int, dtype: str, rounds: int, out: Path | None) -> None:
    device = torch.device("cpu")
    seconds = interleaved_medians(analyses(made_up_capture(preset, tokens, DTYPES[dtype])), rounds, device)
    figures = [Figure(name, tokens, value) for name, value in seconds.items()]
    click.echo(f"{preset}, one layer, the last query of {tokens} tokens in {dtype}")
    click.echo(markdown_table(["analysis", "seconds"], [[f.analysis, f"{f.seconds:.3f}"] for f in figures]))
    save_figures(out, device, {"preset": preset, "dtype": dtype, "rounds": rounds}, figures)


if __name__ == "__main__":
    main()
