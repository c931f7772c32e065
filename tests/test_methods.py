"""Each causal method on models whose composition is known: it finds the plant, first of all, or sees nothing at all.

The table of what can be seen in principle is probes.planted.VISIBLE; here every cell of it is tried on 50 plantings.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch

from model import Engine, capture
from model.config import SITES
from probes.attribution import attribute
from probes.metrics import mixing_metrics
from probes.planted import METHODS, PLANTS, VISIBLE, Plant, planted
from probes.sweeps import branch_cells, edge_cells, patch_cells, sweep
from probes.virtual_heads import logit_direction, score_row, virtual_heads

SEEDS = range(50)
NOTHING = 1e-4
"""Below this a value is rounding, in the units of its method (logits, scores, or shares)."""
REAL = [name for name in PLANTS if name not in ("nothing", "random")]


@lru_cache(maxsize=len(PLANTS) * len(SEEDS))
def plant_of(name: str, seed: int) -> Plant:
    return planted(name, seed, "float64")


@lru_cache(maxsize=len(PLANTS) * len(SEEDS))
def runs_of(name: str, seed: int):
    plant = plant_of(name, seed)
    return capture(plant.model, plant.prompts)


def examples_of(plant: Plant, corrupted: bool = False):
    """One trigger of each prompt: the sweeps are what takes the time here."""
    return plant.examples(corrupted)[:: plant.trigger_positions.shape[1]]


# -- what each method says of a plant: place -> size -------------------------------------------------


def by_branch(plant: Plant) -> pd.Series:
    cells = [cell for cell in branch_cells(plant.cfg) if cell.labels["branch"] != "all"]
    table = sweep(Engine(plant.model), examples_of(plant), cells, ["logit_difference"], confidence=None)
    return table.set_index(["layer", "site", "branch"]).change.abs()


def by_edge(plant: Plant) -> pd.Series:
    table = sweep(
        Engine(plant.model), examples_of(plant), edge_cells(plant.cfg, own=True), ["logit_difference"], confidence=None
    )
    return table.set_index(["layer", "site", "source", "target"]).change.abs()


def by_gradient(plant: Plant) -> pd.Series:
    table = attribute(
        plant.model, examples_of(plant), edge_cells(plant.cfg, own=True), "logit_difference", confidence=None
    )
    return table.set_index(["layer", "site", "source", "target"]).estimate.abs()


def by_virtual_heads(plant: Plant) -> pd.Series:
    def beyond_identity(run, layer, query):
        direction = logit_direction(plant.model, run, query, plant.answer, plant.contrast)
        values = run.layers[layer].values_along(run.keys_seen(layer, query), direction)
        own = (run.row(layer, "pattern_raw", query).double() * values.T).sum(1)
        return virtual_heads(run, layer, query, direction).attribution - torch.diag(own)

    return edges_of(plant, "post", beyond_identity)


def by_scores(plant: Plant) -> pd.Series:
    def beyond_identity(run, layer, query):
        given = [score_row(run, layer, query, target).mean(1) for target in range(plant.cfg.n_heads)]
        return torch.stack(given, dim=1) - torch.diag(run.row(layer, "scores_raw", query).double().mean(1))

    return edges_of(plant, "pre", beyond_identity)


def edges_of(plant: Plant, site: str, read) -> pd.Series:
    """Size of what a decomposition at one site says beyond M = I, over all triggers, by layer and edge."""
    found = {}
    for layer in range(plant.cfg.n_layers):
        sizes = torch.zeros(plant.cfg.n_heads, plant.cfg.n_heads, dtype=torch.float64)
        for run, places in zip(runs_of(plant.name, plant.seed), plant.trigger_positions.tolist(), strict=True):
            for query in places:
                sizes += read(run, layer, query).abs()
        for source, row in enumerate((sizes / plant.trigger_positions.numel()).tolist()):
            found |= {(layer, site, source, target): size for target, size in enumerate(row)}
    return pd.Series(found)


def by_patching(plant: Plant) -> pd.Series:
    cells = patch_cells(plant.cfg, examples_of(plant, corrupted=True))
    table = sweep(Engine(plant.model), examples_of(plant), cells, ["logit_difference"], batch_size=16, confidence=None)
    return table.set_index(["layer", "site"]).change.abs()


def by_distance(plant: Plant) -> pd.Series:
    runs = runs_of(plant.name, plant.seed)
    return pd.Series({
        (layer, site, head): np.mean([float(run.mixing(layer, site).distance_from_identity()[head]) for run in runs])
        for layer in range(plant.cfg.n_layers) for site in SITES for head in range(plant.cfg.n_heads)
    })  # fmt: skip


def by_metric(metric: str):
    def of(plant: Plant) -> pd.Series:
        runs = runs_of(plant.name, plant.seed)
        return mixing_metrics(runs, [metric]).set_index(["layer", "site"]).value

    return of


def by_shares(plant: Plant) -> pd.Series:
    runs = runs_of(plant.name, plant.seed)
    table = mixing_metrics(runs, ["query_share", "key_share"])
    return table.assign(side=table.metric.str.removesuffix("_share")).set_index(["layer", "site", "side"]).value


READ = {
    "branch ablation": by_branch,
    "edge ablation": by_edge,
    "gradient attribution": by_gradient,
    "virtual-head attribution": by_virtual_heads,
    "score decomposition": by_scores,
    "composition patching": by_patching,
    "distance from identity": by_distance,
    "off-diagonal mass": by_metric("off_diagonal"),
    "query/key share": by_shares,
}


def true_places(method: str, plant: Plant) -> list[tuple]:
    """Where the largest value must stand."""
    here = (plant.layer, plant.site)
    if method in ("edge ablation", "gradient attribution", "virtual-head attribution", "score decomposition"):
        return [(*here, *edge) for edge in plant.edges]
    last = {
        "branch ablation": [plant.branch],
        "distance from identity": [target for _, target in plant.edges],
        "query/key share": [plant.side],
    }.get(method)
    return [here] if last is None else [(*here, name) for name in last]


def test_every_method_is_tried():
    assert list(READ) == list(METHODS)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("method", METHODS)
def test_what_can_be_seen_is_found_first_and_the_rest_is_not_seen(method, name):
    for seed in SEEDS:
        plant = plant_of(name, seed)
        sizes = READ[method](plant)
        truth = true_places(method, plant)
        if VISIBLE[method][name]:
            assert sizes.idxmax() in truth, f"seed {seed}: {sizes.idxmax()} instead of {truth}"
            assert sizes.max() > 100 * NOTHING
            elsewhere = sizes[[place[:2] != (plant.layer, plant.site) for place in sizes.index]]
            assert elsewhere.empty or elsewhere.max() < sizes.max()
        else:
            assert sizes.max() < NOTHING, f"seed {seed}: {sizes.idxmax()} is seen"


@pytest.mark.parametrize("method", METHODS)
def test_where_composition_does_nothing_nothing_is_reported(method):
    for seed in SEEDS:
        sizes = READ[method](plant_of("nothing", seed))
        assert sizes.max() < NOTHING, f"seed {seed}: {sizes.idxmax()} is seen"


@pytest.mark.parametrize("method", METHODS)
def test_in_a_random_model_no_place_is_the_one(method):
    """The baseline: over seeds the largest value stands in many places, and it is not far above the next."""
    largest, ratios = [], []
    for seed in SEEDS:
        sizes = READ[method](plant_of("random", seed)).sort_values(ascending=False)
        largest.append(sizes.index[0])
        ratios.append(sizes.iloc[0] / sizes.iloc[1])
    assert pd.Series(largest).value_counts().iloc[0] < 0.8 * len(SEEDS)
    assert np.median(ratios) < 3
