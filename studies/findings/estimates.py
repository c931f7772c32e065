"""Where gradient attribution and ablation disagree: every edge, estimated from one backward pass and really cut."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from model import HookedDCFormer
from probes.attribution import agreement, attribute
from probes.examples import task_examples
from probes.sweeps import edge_cells, sweep
from studies.findings.corpus import measured_rows

ROWS = 24
"""Rows for the sweep of all edges: each edge costs a forward pass over all of them."""


def edges(model: HookedDCFormer, out: Path) -> pd.DataFrame:
    """Each edge g->h of each layer and site: estimate and real change of the loss, in nats per answer token."""
    examples, cells = task_examples(model, measured_rows(ROWS)), edge_cells(model.cfg, own=True)
    start = time.perf_counter()
    guess = attribute(model, examples, cells, progress=True)
    middle = time.perf_counter()
    real = sweep(model, examples, cells, ["loss"], out=out, progress=True)
    print(
        f"{len(cells)} edges over {len(examples)} rows: estimated in {middle - start:.0f} s, "
        f"swept in {time.perf_counter() - middle:.0f} s"
    )
    labels = ["layer", "site", "source", "target", "measure"]
    return real.merge(guess[[*labels, "estimate"]], on=labels)


def agreements(found: pd.DataFrame) -> pd.DataFrame:
    """How far estimates can be trusted: over all edges, by site, by layer, and apart for edges h->h."""
    own = found.source == found.target
    parts = {"all": found, "between heads": found[~own], "h->h": found[own]}
    parts |= {f"{site}, layer {layer}": part for (site, layer), part in found.groupby(["site", "layer"])}
    labels = ["layer", "site", "source", "target", "measure"]
    return pd.DataFrame(
        {name: agreement(part[[*labels, "estimate"]], part[[*labels, "change"]]) for name, part in parts.items()}
    ).T
