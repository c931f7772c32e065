"""Time and memory of composed attention: the published einsums, the backends, and plain fused attention.

python -m benchmarks.attention --lengths 256 512 1024 2048 --heads 16 --d-head 64 --out attention.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.published_einsums import einsum_attention
from benchmarks.timing import interleaved_medians, markdown_table, matrix_rate, peak_memory, save_figures
from model.backends import BACKENDS, composed_attention
from model.backends.blocks import visible_pairs
from model.config import parse_dtype
from model.mixing import FACTORS, Mixing

PLAIN, EINSUMS, LIMIT = "plain (SDPA)", "published einsums", "arithmetic limit"


QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Problem:
    """The shape of one attention call: batch, positions, heads, width of a head, rank, keys a query sees."""

    batch: int
    length: int
    heads: int
    d_head: int
    rank: int
    visible_keys: int | None

    def limits(self, flops_per_s: float) -> tuple[float, float]:
        """Seconds that the arithmetic alone takes forward, and forward + backward, at the rate of a matrix product.

        Counted over the pairs that the causal mask and window leave. Forward: two products with d_head, and at each
        site R channels read and written and a gate, on two sides. Backward: the maps once more and twice as much again.
        """
        cells = self.batch * self.heads * visible_pairs(self.length, self.visible_keys, 0)
        product, mixing = 2 * self.d_head * cells, 2 * 2 * 2 * (2 * self.rank + 1) * cells
        forward, backward = 2 * product + mixing, 5 * product + 3 * mixing
        return forward / flops_per_s, (forward + backward) / flops_per_s


@dataclass(frozen=True)
class Figure:
    """One line of the result: seconds and peak bytes of one implementation at one length; bytes None where unknown."""

    implementation: str
    length: int
    forward_s: float
    train_s: float
    forward_bytes: int | None = None
    train_bytes: int | None = None


def problem_tensors(problem: Problem, dtype: torch.dtype, device: torch.device) -> tuple[QKV, Mixing, Mixing]:
    """Random q, k, v and the factors of both sites, all asking for gradients."""
    generator = torch.Generator(device).manual_seed(0)
    B, T, H, R = problem.batch, problem.length, problem.heads, problem.rank

    def random(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) / 4).to(dtype).requires_grad_()

    def site() -> Mixing:
        shapes = {name: (B, T, H) if name.endswith("gate") else (B, T, R, H) for name in FACTORS}
        return Mixing(n_heads=H).with_factors({name: random(*shape) for name, shape in shapes.items()})

    q, k, v = (random(B, T, H, problem.d_head) for _ in range(3))
    return (q, k, v), site(), site()


def implementations(
    problem: Problem, qkv: QKV, pre: Mixing, post: Mixing, backends: Sequence[str]
) -> dict[str, Callable[[], Tensor]]:
    """Each way to compute the same composed attention, and plain attention of the same heads."""
    q, k, v = qkv
    runs: dict[str, Callable[[], Tensor]] = {
        EINSUMS: lambda: einsum_attention(q, k, v, pre, post, problem.visible_keys)
    }
    # where no heads are mixed, composed_attention is scaled_dot_product_attention and nothing else
    identity = Mixing(n_heads=problem.heads)
    runs[PLAIN] = lambda: composed_attention(q, k, v, identity, identity, visible_keys=problem.visible_keys)
    for name in backends:
        runs[name] = lambda name=name: composed_attention(  # type: ignore[misc]
            q, k, v, pre, post, visible_keys=problem.visible_keys, backend=name
        )
    return runs


def measure(
    problem: Problem, dtype: torch.dtype, device: torch.device, rounds: int, backends: Sequence[str]
) -> list[Figure]:
    """Times and memory of every implementation at one length, in one interleaved run."""
    qkv, pre, post = problem_tensors(problem, dtype, device)
    leaves = [*qkv, *pre.factors().values(), *post.factors().values()]
    runs = implementations(problem, qkv, pre, post, backends)

    def forward(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            run()

    def train(run: Callable[[], Tensor]) -> None:
        torch.autograd.grad(run().square().sum(), leaves, allow_unused=True)

    tasks = {}
    for name, run in runs.items():
        tasks[f"forward {name}"] = lambda run=run: forward(run)  # type: ignore[misc]
        tasks[f"train {name}"] = lambda run=run: train(run)  # type: ignore[misc]
    seconds = interleaved_medians(tasks, rounds, device)
    memory = {name: peak_memory(task, device) for name, task in tasks.items()}
    return [
        Figure(name, problem.length, seconds[f"forward {name}"], seconds[f"train {name}"],
               memory[f"forward {name}"], memory[f"train {name}"])
        for name in runs
    ]  # fmt: skip


def table(figures: list[Figure]) -> str:
    """The figures as Markdown, each time also as a multiple of plain attention's at that length."""
    plain = {figure.length: figure for figure in figures if figure.implementation == PLAIN}
    header = ["tokens", "implementation", "forward ms", "x plain", "peak MiB", "fwd + bwd ms", "x plain", "peak MiB"]
    rows = []
    for figure in figures:
        base = plain[figure.length]
        forward = _cells(figure.forward_s, base.forward_s, figure.forward_bytes)
        train = _cells(figure.train_s, base.train_s, figure.train_bytes)
        rows.append([str(figure.length), figure.implementation, *forward, *train])
    return markdown_table(header, rows)


def _cells(seconds: float, plain_seconds: float, held: int | None) -> list[str]:
    return [f"{seconds * 1e3:.1f}", f"{seconds / plain_seconds:.2f}", "" if held is None else f"{held / 2**20:.1f}"]


@click.command(help=__doc__)
@click.option("--lengths", type=int, multiple=True, help="Tokens in a sequence; several may follow one another.")
@click.argument("more_lengths", nargs=-1, type=int)
@click.option("--batch", default=1, show_default=True)
@click.option("--heads", default=16, show_default=True)
@click.option("--d-head", default=64, show_default=True)
@click.option("--rank", default=2, show_default=True)
@click.option("--window", type=int, help="Keys that a query sees, itself included; all earlier ones if not given.")
@click.option("--backend", "backends", multiple=True, type=click.Choice(list(BACKENDS)), help="Default: all.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads; PyTorch's choice if not given.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each, taking turns; medians are reported.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(
    lengths: tuple[int, ...], more_lengths: tuple[int, ...], batch: int, heads: int, d_head: int, rank: int,
    window: int | None, backends: tuple[str, ...], dtype: str, device: str, threads: int | None, rounds: int,
    out: Path | None,
) -> None:  # fmt: skip
    if threads is not None:
        torch.set_num_threads(threads)
    where, kind = torch.device(device), parse_dtype(dtype)
    rate = matrix_rate(kind, where)
    figures: list[Figure] = []
    for length in (*lengths, *more_lengths) or (256, 512, 1024):
        problem = Problem(batch, length, heads, d_head, rank, window)
        click.echo(f"measuring {length} tokens", err=True)
        figures += measure(problem, kind, where, rounds, backends or tuple(BACKENDS))
        figures.append(Figure(LIMIT, length, *problem.limits(rate)))
    click.echo(f"H={heads}, K={d_head}, R={rank}, batch {batch}, {dtype}, {rate / 1e9:.0f} GFLOP/s matrix product")
    click.echo(table(figures))
    settings = {"batch": batch, "heads": heads, "d_head": d_head, "rank": rank, "window": window, "dtype": dtype,
                "matrix_flops_per_s": rate}  # fmt: skip
    save_figures(out, where, settings, figures)


if __name__ == "__main__":
    main()
