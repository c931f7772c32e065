"""Does composition make heads more or less alike? Raw against composed heads, and against those of the plain model."""

from __future__ import annotations

import numpy as np
import pandas as pd
from tqdm import tqdm

from model import Capture, Engine, HookedDCFormer, capture
from probes.metrics import diversity, mixing_metrics
from probes.per_sequence import PerSequence
from studies.findings.corpus import measured_rows

ROWS = 24


def captures(model: HookedDCFormer) -> list[Capture]:
    engine = Engine(model)
    return [capture(engine, row.plain_text, logits=False) for row in measured_rows(ROWS)]


def diversities(composed: list[Capture], plain: list[Capture]) -> pd.DataFrame:
    """Layer x metric x heads ("raw", "composed", "plain"): mean over rows, and its bootstrap interval."""
    found = [
        diversity(run).assign(heads=lambda table, name=name: name or table.stage)
        for name, runs in (("", composed), ("plain", plain))
        for run in tqdm(runs, desc=f"diversity, {name or 'composed'} model")
    ]
    # raw and composed are the same in a plain model
    every = pd.concat(found).query("not (heads == 'plain' and stage == 'composed')")
    return pd.DataFrame(
        {"metric": metric, "layer": layer, "heads": heads} | _mean(part.value.to_numpy())
        for (metric, layer, heads), part in every.groupby(["metric", "layer", "heads"])
    )


def mixings(composed: list[Capture]) -> pd.DataFrame:
    """Layer x site: what the mixing matrices are like over all rows together (shares by the centred split)."""
    return mixing_metrics(composed).pivot(index=["layer", "site"], columns="metric", values="value")


def _mean(values: np.ndarray) -> dict[str, float]:
    over_rows = PerSequence(values, np.ones_like(values))
    low, high = over_rows.interval()
    return {"value": over_rows.mean, "low": low, "high": high}
