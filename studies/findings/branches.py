"""Which branches and sites matter: what is lost when each is zeroed, frozen to its mean, or turned at random."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

from model import HookedDCFormer
from probes import Intervention, uncomposed_twin
from probes.examples import task_examples
from probes.sweeps import Cell, branch_cells, sweep
from studies.findings.corpus import mean_mixing, measured_rows

RANDOM_SEEDS = 3


def branches(model: HookedDCFormer, out: Path) -> pd.DataFrame:
    """The sweep of layer x site x branch under each kind of change, and of whole models."""
    examples, mean, cfg = task_examples(model, measured_rows()), mean_mixing(model), model.cfg
    frozen: dict[str, Any] = {"mode": "mean", "mean": mean}
    kinds: dict[str, dict[str, Any]] = {"zero": {}, "frozen": frozen, "shuffled": {"mode": "shuffle", "seed": 0}}
    kinds |= {f"random {seed}": {"mode": "random", "seed": seed} for seed in range(RANDOM_SEEDS)}
    cells = []
    for kind, change in kinds.items():
        some: dict[str, Any] = {} if kind in ("zero", "frozen") else {"branches": ["all"]}
        cells += [Cell({"kind": kind, **cell.labels}, cell.change) for cell in branch_cells(cfg, **some, **change)]
        for name, sites in (("both", None), *((site, [site]) for site in cfg.mixed_sites)):
            whole = {"kind": kind, "layer": "every", "site": name, "branch": "all"}
            cells.append(Cell(whole, Intervention(sites=sites, **change)))
    cells.append(Cell({"kind": "twin", "layer": "every", "site": "both", "branch": "all"}, uncomposed_twin()))
    start = time.perf_counter()
    table = sweep(model, examples, cells, ["loss", "accuracy", "kl"], out=out, progress=True)
    print(f"{len(cells)} cells over {len(examples)} rows: {time.perf_counter() - start:.0f} s")
    return table
