"""Run a corpus through a model and keep features and labels of its tokens."""

from __future__ import annotations

import os
from typing import Any

import click

from workbench.commands.options import config_of, model_options, open_model

DATA_HELP = (
    "Text files, .jsonl files, the folder of a saved dataset, or tasks:rows=8,rules=0-7+12,seed=1,split=train; give it "
    "several times for several files."
)
FEATURES_HELP = (
    "Comma-separated: query_part@3.post, residual@*, parts, factors, gates, entropy@*.raw, ...; default: parts, "
    "residual stream and predictions, everywhere."
)


@click.command(context_settings={"show_default": True})
@model_options
@click.option("--data", "data", multiple=True, help=DATA_HELP)
@click.option("--out", type=click.Path(), help="Folder of the store; the same again goes on where it stopped.")
@click.option("--features", help=FEATURES_HELP)
@click.option(
    "--labels", help="Comma-separated built-in labels and columns of the corpus; default: all that are built in."
)
@click.option("--every", type=click.IntRange(min=1), default=1, help="Keep every n-th token of a document.")
@click.option("--keep-label", metavar="LABEL=VALUE,...", help="Keep only tokens with one of these values.")
@click.option(
    "--per-document", type=click.IntRange(min=1), help="Keep at most so many tokens of a document, at random."
)
@click.option("--seed", default=0, help="Of --per-document.")
@click.option("--store-dtype", default="float16", help="float16, float32 or float64.")
@click.option("--products", is_flag=True, help="Keep parts as H x H matrices even where their factors are smaller.")
@click.option("--context", type=int, help="Tokens that the model reads at a time; default: its whole context.")
@click.option("--split-text", default="file", help="What is a document in a text file: file, paragraph or line.")
@click.option("--shard-mb", type=click.FloatRange(min=0, min_open=True), default=128.0, help="Size of a shard, MiB.")
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Of one forward pass; default: 2048, on a GPU 32768.")
@click.option("--threads", type=click.IntRange(min=1), help="Of PyTorch on the CPU; equal bits need equal threads.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Only say how large the store would be.")
@click.option("--paper", type=float, metavar="TOKENS", help="Only print what so many tokens would cost, on paper.")
@click.option("--tflops", default=200.0, help="With --paper: 10^12 operations a second that the engine sustains.")
@click.option("--list", "listed", is_flag=True, help="Only list the features and labels that there are.")
def command(
    model_name: str, device: str, dtype: str | None, data: tuple[str, ...], out: str | None, features: str | None,
    labels: str | None, every: int, keep_label: str | None, per_document: int | None, seed: int, store_dtype: str,
    products: bool, context: int | None, split_text: str, shard_mb: float, batch_tokens: int | None,
    threads: int | None, only_estimate: bool, paper: float | None, tflops: float, listed: bool,
) -> None:  # fmt: skip
    """Run a corpus through a model and keep features and labels of its tokens: see docs/store.md and docs/scaling.md.

    A harvest that was stopped goes on with the same command. Several processes, each its own shards:
    torchrun --nproc-per-node 2 -m workbench harvest ...
    """
    if listed:
        _list(model_name)
        return
    if paper is not None:
        _on_paper(model_name, paper, tflops, context, store_dtype)
        return
    if not data or (out is None and not only_estimate):
        raise click.UsageError("A harvest needs --data and --out (or --estimate).")
    import torch

    from probes.corpora import open_corpus
    from probes.harvest import Keep, estimate, harvest

    if threads is not None:
        torch.set_num_threads(threads)
    name, values = _label_values(keep_label)
    settings: dict[str, Any] = {
        "keep": Keep(every=every, label=name, values=values, per_document=per_document, seed=seed),
        "dtype": store_dtype, "products": products, "context": context, "shard_bytes": max(1, round(shard_mb * 2**20)),
        "batch_tokens": batch_tokens,
    }  # fmt: skip
    corpus = open_corpus(data, split_text)
    model = open_model(model_name, _device_of_rank(device), dtype)
    chosen = _names(features), _names(labels)
    if only_estimate or out is None:
        click.echo(str(estimate(model, corpus, *chosen, **settings)))
        return
    store = harvest(model, corpus, out, *chosen, progress=True, tell=click.echo, **settings)
    if store is None:
        click.echo("This process is done; others are still at work, or stopped: the same command goes on.")
    else:
        click.echo(
            f"{out}: {len(store):,} tokens, {len(store.features)} features, {len(store.manifest.shards)} shards."
        )


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _label_values(given: str | None) -> tuple[str | None, tuple[str, ...]]:
    if given is None:
        return None, ()
    name, equals, values = given.partition("=")
    if not equals or not values:
        raise click.UsageError(f"--keep-label is {given!r}. Write it as casing=UPPER,Capitalised.")
    return name, tuple(values.split(","))


def _device_of_rank(device: str) -> str:
    """Under torchrun each process of a machine takes the GPU of its local rank."""
    import torch

    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return f"cuda:{os.environ['LOCAL_RANK']}" if gpu and "LOCAL_RANK" in os.environ else device


def _on_paper(model_name: str, tokens: float, tflops: float, context: int | None, dtype: str) -> None:
    from probes.harvest.paper import Scale, forward_flops, paper_table

    cfg = config_of(model_name)
    scale = Scale(tokens, tflops, context or cfg.n_ctx, dtype)
    table = paper_table(cfg, scale)
    flops = forward_flops(cfg, scale.context)
    click.echo(
        f"{model_name}, {tokens:.3g} tokens in contexts of {scale.context}, stored as {dtype}; {flops / 1e9:.3g} GFLOP "
        f"a token, at {tflops:g} TFLOP/s {tflops * 1e12 / flops:,.0f} tokens/s\n"
    )
    widths = [max(len(name), *(len(_cell(value)) for value in table[name])) for name in table]
    for row in (list(table), *(map(_cell, values) for values in table.itertuples(index=False))):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join([cells[0].strip().ljust(widths[0]), *cells[1:]]))


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _list(model_name: str) -> None:
    from probes.features import KINDS
    from probes.labels import LABELS

    cfg = config_of(model_name)
    for kind in KINDS.values():
        places = list(kind.places(cfg))
        if places:
            shape = kind.at(cfg, places[0]).shape
            first, last = (f"{kind.name}@{place}" if str(place) else kind.name for place in (places[0], places[-1]))
            span = first if first == last else f"{first} to {last}"
            click.echo(f"{span:58} {list(shape)!s:12} {kind.title}")
    click.echo(f"\nlabels: {', '.join(LABELS)}, and any column of the corpus")
