"""Planted models: M is what was planted, it matters where it should, and methods find it or not as the table says."""

from functools import cache
from itertools import combinations

import pytest
import torch

from model import capture
from model.mixing import BRANCHES
from probes import Intervention, uncomposed_twin
from probes.attribution import attribute
from probes.interventions import Stacked
from probes.planted import HEADS, LAYERS, METHODS, OPENING, PLANTS, RECIPES, VISIBLE, planted
from probes.sweeps import branch_cells, edge_cells, sweep

SEEDS = range(50)
SITES = ("pre", "post")
EDGES = PLANTS[:5]  # those that plant edges; the others are baselines
IDENTITY = torch.eye(HEADS)

# plants are only read, so tests share them
plant_of = cache(planted)


def every_matrix(run, layer, site):
    """M of all pairs that a query sees, one query after the other, [pair, H, H]."""
    return torch.cat([run.mixing(layer, site).row(query) for query in range(len(run))])


def triggered_pairs(plant, tokens):
    """True at the pairs whose query or key, whichever side is planted, is a trigger, in the order of every_matrix."""
    trigger_T = torch.isin(tokens, torch.tensor(plant.trigger_tokens))
    return torch.cat(
        [trigger_T[: i + 1] if plant.side == "key" else trigger_T[i].expand(i + 1) for i in range(len(tokens))]
    )


# -- what is planted -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EDGES, "nothing"])
def test_every_mixing_matrix_is_what_was_planted(name):
    for seed in SEEDS:
        plant = plant_of(name, seed)
        tokens = plant.prompts[0]
        run = capture(plant.model, tokens, logits=False)
        for layer in range(LAYERS):
            for site in SITES:
                found_SNM = every_matrix(run, layer, site)
                truth_SNM = IDENTITY.expand_as(found_SNM).clone()
                if (layer, site) == (plant.layer, plant.site):
                    truth_SNM[triggered_pairs(plant, tokens)] = plant.matrix
                torch.testing.assert_close(found_SNM, truth_SNM, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", EDGES)
def test_the_named_branch_alone_changes_a_pair(name):
    for seed in SEEDS[:5]:
        plant = plant_of(name, seed)
        place = int(plant.trigger_positions[0, 0])
        mix = capture(plant.model, plant.prompts[0], layers=[plant.layer]).mixing(plant.layer, plant.site)
        parts = mix.branches(place, place)
        assert {branch for branch, part in parts.items() if part.any()} == {"base", plant.branch}
        torch.testing.assert_close(parts[plant.branch], plant.matrix - IDENTITY, rtol=0, atol=1e-4)
        assert plant.branch.startswith(plant.side)
        assert set(plant.edges) == set(map(tuple, (plant.matrix != IDENTITY).nonzero().tolist()))


def test_the_stories_are_what_the_matrices_do():
    raw_N = torch.tensor([1.0, 2, 3, 4, 5]).double()  # of the source, the target, and three more
    composed = {name: (raw_N @ RECIPES[name].matrix(source=0, target=1)).tolist() for name in EDGES}
    assert composed == {
        "moved after a token": [1, 3, 3, 4, 5],
        "switched off": [1, 0, 3, 4, 5],
        "switched off before softmax": [1, 0, 3, 4, 5],
        "swapped by key": [2, 1, 3, 4, 5],
        "swapped by key before softmax": [2, 1, 3, 4, 5],
    }


def test_nothing_has_loud_branches_that_add_up_to_the_uncomposed_twin():
    for seed in SEEDS:
        plant = plant_of("nothing", seed)
        with torch.no_grad():
            torch.testing.assert_close(
                plant.model(plant.prompts), uncomposed_twin().run(plant.model, plant.prompts), rtol=0, atol=1e-4
            )
        factors = capture(plant.model, plant.prompts[0]).mixing(seed % LAYERS, SITES[seed % 2]).factors
        for side in ("query", "key"):
            down, up = (getattr(factors, f"{side}_{kind}") for kind in ("down", "up"))
            channels = torch.einsum("btrn,btrm->btrnm", down, up)
            assert channels.square().mean() > 1
            assert channels.sum(2).abs().max() < 1e-4


def test_random_mixes_by_every_branch_everywhere_and_no_edge_stands_out():
    for seed in SEEDS[:3]:
        plant = plant_of("random", seed)
        run = capture(plant.model, plant.prompts[0])
        for layer in range(LAYERS):
            for site in SITES:
                assert all(part.abs().max() > 0.01 for part in run.mixing(layer, site).branches(9, 4).values())
        assert (plant.layer, plant.site, plant.branch, plant.edges, plant.matrix) == (None, None, None, (), None)
        ranked = sorted(effects(plant, edge_changes(every_edge(), mode="identity")), reverse=True)
        assert ranked[0] < 3 * ranked[5]


# -- what it does ----------------------------------------------------------------------------------


@torch.no_grad()
def differences(plant, change=None, prompts=None):
    """Logit differences at all positions, [prompt, pos], intact or under a change."""
    tokens = plant.prompts if prompts is None else prompts
    return plant.logit_difference(plant.model(tokens) if change is None else change.run(plant.model, tokens))


def ablation(plant, **how):
    return Intervention(layers=[plant.layer], sites=[plant.site], **how)


@pytest.mark.parametrize("name", EDGES)
def test_the_branch_moves_the_answer_at_triggers_and_nothing_before_them(name):
    for seed in SEEDS:
        plant = plant_of(name, seed)
        change = (differences(plant, ablation(plant, branches=[plant.branch])) - differences(plant)).abs()
        before = torch.arange(change.shape[1]) < plant.trigger_positions[:, :1]
        assert change[before].max() < 1e-4
        assert plant.at_triggers(change).mean() > 1.0
        assert (plant.at_triggers(change) > 0.3).float().mean() > 0.9


def every_edge():
    heads = range(HEADS)
    return [(layer, site, g, h) for layer in range(LAYERS) for site in SITES for g in heads for h in heads]


def effects(plant, changes):
    """Mean absolute change of the logit difference at triggers under each change."""
    changed = differences(plant, Stacked(tuple(changes)), plant.prompts.repeat(len(changes), 1)).chunk(len(changes))
    intact = differences(plant)
    return [float(plant.at_triggers(one - intact).abs().mean()) for one in changed]


CUT = {"mode": "set", "value": 0.0, "branches": list(BRANCHES)}


def edge_changes(edges, **how):
    where = [{"layers": [layer], "sites": [site], "sources": [g], "targets": [h]} for layer, site, g, h in edges]
    return [Intervention(**one, **how) for one in where]


@pytest.mark.parametrize("name", EDGES)
def test_the_planted_edge_matters_more_than_any_head(name):
    own = [edge for edge in every_edge() if edge[2] == edge[3]]  # between other heads M is 0: see the next test
    for seed in SEEDS:
        plant = plant_of(name, seed)
        true = [(plant.layer, plant.site, *edge) for edge in plant.edges]
        found = effects(plant, edge_changes(true, mode="identity") + edge_changes(own, **CUT))
        first, heads = found[0], found[len(true) :]
        assert first == max(found)
        assert first > 1.1 * max(heads)
        assert max(heads) > 0.1 * first  # heads matter too


@pytest.mark.parametrize("name", EDGES)
def test_of_all_edges_only_the_planted_ones_compose(name):
    for seed in SEEDS[:3]:
        plant = plant_of(name, seed)
        true = {(plant.layer, plant.site, *edge) for edge in plant.edges}
        removed = dict(zip(every_edge(), effects(plant, edge_changes(every_edge(), mode="identity")), strict=True))
        cut = dict(zip(every_edge(), effects(plant, edge_changes(every_edge(), **CUT)), strict=True))
        assert max(removed, key=removed.get) == (plant.layer, plant.site, *plant.edges[0])
        assert max(effect for edge, effect in removed.items() if edge not in true) < 1e-4
        assert max(effect for edge, effect in cut.items() if edge not in true and edge[2] != edge[3]) < 1e-4


@pytest.mark.parametrize("name", EDGES)
def test_mixing_from_the_corrupted_prompt_undoes_the_plant(name):
    for seed in SEEDS[:10]:
        plant = plant_of(name, seed)
        patched = differences(plant, Intervention(mode="patch", prompt=plant.corrupted))
        torch.testing.assert_close(patched, differences(plant, uncomposed_twin()), rtol=0, atol=1e-3)
        corrupted = differences(plant, prompts=plant.corrupted)
        without = differences(plant, uncomposed_twin(), plant.corrupted)
        torch.testing.assert_close(corrupted, without, rtol=0, atol=1e-4)


# -- heads, prompts, seeds -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EDGES, "nothing"])
def test_heads_have_patterns_of_their_own(name):
    for seed in SEEDS[:25]:
        plant = plant_of(name, seed)
        runs = capture(plant.model, plant.corrupted, logits=False)
        for layer in range(LAYERS):
            rows = [run.pattern(layer, "raw", queries=slice(OPENING, None)) for run in runs]
            pattern_NTS = torch.cat(rows, 1)  # of all prompts, one after the other
            for one, other in combinations(range(HEADS), 2):
                # L1 distance of two rows of probabilities, 2 at most
                assert (pattern_NTS[one] - pattern_NTS[other]).abs().sum(-1).mean() > 0.4


@pytest.mark.parametrize("name", PLANTS)
def test_prompts_differ_from_the_corrupted_ones_in_the_triggers_alone(name):
    for seed in SEEDS:
        plant = plant_of(name, seed)
        triggers = torch.tensor(plant.trigger_tokens)
        assert torch.equal((plant.prompts != plant.corrupted).nonzero()[:, 1].view(4, -1), plant.trigger_positions)
        assert torch.equal(torch.isin(plant.prompts, triggers), plant.prompts != plant.corrupted)
        assert not torch.isin(plant.corrupted, triggers).any()
        for example, donor in zip(plant.examples(), plant.examples(corrupted=True), strict=True):
            assert example.ids[-2] in plant.trigger_tokens
            assert example.ids[-1] == donor.ids[-1] == plant.answer
            assert donor.ids[-2] not in plant.trigger_tokens


@pytest.mark.parametrize("name", PLANTS)
def test_a_seed_gives_one_plant_and_others_give_others(name):
    first, again = plant_of(name, 3), planted(name, 3)
    assert all(torch.equal(one, other) for one, other in zip(first.model.parameters(), again.model.parameters()))
    assert torch.equal(first.prompts, again.prompts)
    plants = [plant_of(name, seed) for seed in SEEDS]
    if name in EDGES:
        assert len({(plant.layer, plant.edges) for plant in plants}) > 9
        assert {plant.layer for plant in plants} == set(range(LAYERS))
    assert len({plant.trigger_tokens for plant in plants}) == len(SEEDS)
    assert len({tuple(plant.prompts.flatten().tolist()) for plant in plants}) == len(SEEDS)
    assert len({(plant.answer, plant.contrast) for plant in plants}) > 40


@pytest.mark.parametrize("name", PLANTS)
def test_a_seed_means_the_same_plant_in_every_dtype(name):
    single, double = plant_of(name, 7), planted(name, 7, dtype="float64")
    assert double.cfg.dtype == torch.float64
    assert torch.equal(single.prompts, double.prompts)
    torch.testing.assert_close(differences(single).double(), differences(double), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("moved", {}, "Unknown plant 'moved'. Choose one of moved after a token, switched off"),
     ("nothing", {"dtype": "float63"}, "Unknown dtype 'float63'")],
)  # fmt: skip
def test_what_does_not_exist_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        planted(name, 0, **options)


# -- which methods see it --------------------------------------------------------------------------


def estimated(plant):
    cells = edge_cells(plant.cfg, own=True)
    return attribute(plant.model, plant.examples(), cells, "logit_difference", batch_size=12).estimate.abs().max()


def virtual(plant, run, layer):
    """Attributions of virtual heads at the triggers, minus those with the same raw pattern and M_post = I."""
    with Intervention(layers=[layer], sites=["post"], mode="identity").applied(plant.model):
        twin = capture(plant.model, run.tokens)
    ids = torch.tensor([plant.answer, plant.contrast])
    answer_D, contrast_D = plant.model.tokens_to_residual_directions(ids)
    found = [
        (one.virtual_head_attribution(layer, int(place), answer_D - contrast_D) / one.final_scale[int(place)])
        for place in plant.trigger_positions[0]
        for one in (run, twin)
    ]
    return torch.stack(found[::2]) - torch.stack(found[1::2])


def scores(run, layer):
    """What each source adds to each target's composed scores, minus the target's own raw scores."""
    query, key = torch.tril_indices(len(run), len(run))
    raw_SN = run.scores(layer, "raw")[:, query, key].T
    return raw_SN[:, :, None] * (every_matrix(run, layer, "pre") - IDENTITY)


def off_diagonal(found_SNM):
    return 1 - found_SNM.diagonal(dim1=1, dim2=2).square().sum() / found_SNM.square().sum()


def variances(run, layer, site):
    """Variance over tokens of the query part and of the key part of M."""
    mix = run.mixing(layer, site)
    parts = (torch.stack([part(token) for token in range(len(run))]) for part in (mix.query_part, mix.key_part))
    return torch.stack([(part_TNM - part_TNM.mean(0)).square().sum() for part_TNM in parts])


def readings(plant):
    """Method -> the largest absolute difference to the uncomposed twin that it reports, the literal way."""
    run = capture(plant.model, plant.prompts[0])
    layers, places = range(LAYERS), [(layer, site) for layer in range(LAYERS) for site in SITES]
    return {
        "branch ablation": max(effects(plant, [cell.change for cell in branch_cells(plant.cfg)])),
        "edge ablation": max(effects(plant, edge_changes(every_edge(), mode="identity"))),
        "gradient attribution": estimated(plant),
        "virtual-head attribution": max(virtual(plant, run, layer).abs().max() for layer in layers),
        "score decomposition": max(scores(run, layer).abs().max() for layer in layers),
        "composition patching": max(effects(plant, [Intervention(mode="patch", prompt=plant.corrupted)])),
        "distance from identity": max(run.mixing(*place).distance_from_identity().max() for place in places),
        "off-diagonal mass": max(off_diagonal(every_matrix(run, *place)) for place in places),
        "query/key share": max(variances(run, *place).max() for place in places),
    }


@pytest.mark.parametrize("name", PLANTS)
def test_methods_see_what_the_table_says(name):
    plant = plant_of(name, PLANTS.index(name))
    found = readings(plant)
    assert {method: float(found[method]) > 0.02 for method in METHODS} == plant.visible_to
    assert all(found[method] < 1e-4 for method in plant.blind)


def test_every_cell_of_the_table_is_answered_and_every_no_has_its_reason():
    assert list(VISIBLE) == list(METHODS)
    for method, row in VISIBLE.items():
        assert list(row) == list(PLANTS)
        for name, visible in row.items():
            assert visible == (method not in RECIPES[name].blind)
    assert all(reason.endswith(".") for recipe in RECIPES.values() for reason in recipe.blind.values())
    assert not any(plant_of("nothing", 0).visible_to.values())
    assert all(plant_of("random", 0).visible_to.values())


@pytest.mark.parametrize("name", EDGES)
def test_sweep_and_attribution_rank_the_planted_edge_first(name):
    plant = plant_of(name, 10 + PLANTS.index(name))
    asked = plant.model, plant.examples(), edge_cells(plant.cfg, own=True)
    real, guess = sweep(*asked, ["logit_difference"], batch_size=12), attribute(*asked, "logit_difference")
    for table, column in ((real, "change"), (guess, "estimate")):
        top = table.loc[table[column].abs().idxmax()]
        assert (top.layer, top.site, (top.source, top.target)) == (plant.layer, plant.site, plant.edges[0])


@pytest.mark.parametrize("name", EDGES)
def test_the_share_of_query_and_key_tells_the_side(name):
    plant = plant_of(name, 0)
    query, key = variances(capture(plant.model, plant.prompts[0]), plant.layer, plant.site)
    mine, other = (query, key) if plant.side == "query" else (key, query)
    assert mine > 0.05
    assert other == 0
