"""Directions are taken out of mixing exactly, and a probe's direction that the model uses costs more than chance."""

import numpy as np
import pytest
import torch

from model import Engine, capture
from model.backends import BACKENDS
from model.mixing import side_part
from probes.causal_check import COLUMNS, causal_check, part_moments, probe_directions, probe_patterns
from probes.estimators import LinearProbe
from probes.examples import text_examples
from probes.interventions import Intervention, Stacked, WithoutDirections
from probes.planted import planted
from tests.models import SIZES, small_model, some_tokens

H, T = SIZES["n_heads"], 11


def directions(count, groups=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inside = torch.block_diag(*[torch.ones(H // groups, H // groups)] * groups)
    return torch.randn(count, H, H, generator=generator, dtype=torch.float64) * inside


def parts(model, tokens, layer, site, side, change=None):
    if change is None:
        return side_part(capture(model, tokens).mixing(layer, site).factors, side)[0]
    with change.applied(model):
        return parts(model, tokens, layer, site, side)


@pytest.mark.parametrize("side", ["query", "key"])
@pytest.mark.parametrize(("variant", "groups"), [("llama windows", 1), ("groups", 2), ("static and dynamic", 1)])
def test_nothing_is_left_along_the_directions_and_all_else_stays(variant, groups, side):
    model, tokens = small_model(variant), some_tokens(T)
    given = directions(2, groups)
    mean = directions(1, groups, seed=1)[0]
    flat = given.flatten(1).numpy()
    span = np.linalg.qr(flat.T)[0]  # [H*H, 2]
    for held in (None, mean):
        change = WithoutDirections(0, "post", side, given, held)
        before, after = (parts(model, tokens, 0, "post", side, c).flatten(1).numpy() for c in (None, change))
        level = np.zeros(2) if held is None else held.flatten().numpy() @ span
        np.testing.assert_allclose(after @ span, np.broadcast_to(level, (T, 2)), atol=1e-10)
        across = np.eye(H * H) - span @ span.T
        np.testing.assert_allclose(after @ across, before @ across, atol=1e-10)
        other = "key" if side == "query" else "query"
        torch.testing.assert_close(
            parts(model, tokens, 0, "post", other, change), parts(model, tokens, 0, "post", other), rtol=0, atol=0
        )


def test_lengths_and_bases_of_directions_do_not_count():
    model, tokens = small_model("llama"), some_tokens(2, T)
    given = directions(2)
    mixed = torch.stack([3 * given[0] - given[1], 0.01 * given[1], given[0] + given[1]])
    with torch.no_grad():
        one, other = (WithoutDirections(1, "pre", "key", d).run(model, tokens) for d in (given, mixed))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_without_every_direction_a_side_is_zeroed():
    model, tokens = small_model("llama windows"), some_tokens(2, T)
    every = torch.eye(H * H, dtype=torch.float64).unflatten(1, (H, H))
    zeroed = Intervention(layers=[1], sites=["post"], branches=["query_lowrank", "query_gate"])
    with torch.no_grad():
        found = WithoutDirections(1, "post", "query", every).run(model, tokens)
        torch.testing.assert_close(found, zeroed.run(model, tokens), rtol=0, atol=1e-10)


def test_model_engine_decoding_and_stacked_changes_agree():
    model, tokens = small_model("llama windows"), some_tokens(2, T)
    changes = tuple(WithoutDirections(1, "post", "query", directions(k, seed=k)) for k in (1, 3))
    with torch.no_grad():
        truth = [change.run(model, tokens) for change in changes]
        assert not torch.allclose(truth[0], model(tokens))
        for backend in BACKENDS:
            torch.testing.assert_close(changes[0].run(Engine(model, backend), tokens), truth[0], rtol=0, atol=1e-10)
        stacked = Stacked(changes).run(Engine(model), tokens.repeat(2, 1))
        torch.testing.assert_close(stacked, torch.cat(truth), rtol=0, atol=1e-10)
        with changes[0].applied(model):
            assert torch.equal(Engine(model).generate(tokens, 7), model.generate(tokens, 7))


def test_moments_are_those_of_all_tokens_without_padding():
    model = small_model("llama")
    prompts = [some_tokens(1, length, seed=length) for length in (5, 9, 7)]
    examples = [text_examples(model, prompt)[0] for prompt in prompts]
    moments = part_moments(Engine(model), examples, 1, "post", "key")
    rows = torch.cat([parts(model, prompt[0], 1, "post", "key").flatten(1) for prompt in prompts])
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(rows.mT, correction=0))
    basis = torch.linalg.qr(directions(2).flatten(1).mT)[0].mT
    along, total = (x.var(0, correction=0).sum() for x in (rows @ basis.mT, rows))
    assert moments.share(basis) == pytest.approx(float(along / total))


PLANT = planted("moved after a token", 3, "float64")


def test_a_probe_of_the_trigger_finds_the_direction_that_the_model_uses():
    """Where composition is planted at some tokens, a probe of these tokens reads it from Q, and removing what it reads
    costs the whole logit difference that the plant makes; removing random directions does not."""
    site = PLANT.site
    layer = PLANT.layer
    X = torch.cat([parts(PLANT.model, prompt, layer, site, "query").flatten(1) for prompt in PLANT.prompts]).numpy()
    trigger = np.zeros(PLANT.prompts.shape, dtype=bool)
    np.put_along_axis(trigger, PLANT.trigger_positions.numpy(), True, axis=1)
    probe = LinearProbe(penalty=1e-3).fit(X, trigger.ravel())
    assert probe.score(X, trigger.ravel()) > 0.99
    table = causal_check(
        PLANT.model, PLANT.examples(), probe_directions(probe.coef_), layer=layer, site=site, hold="zero",
        measures=["logit_difference", "kl"], draws=19,
    )  # fmt: skip
    assert list(table.columns) == list(COLUMNS)
    found = table[table.removed == "probe"].set_index("measure")
    random = table[(table.removed == "random") & (table.measure == "logit_difference")]
    intact = float(found.loc["logit_difference", "intact"])
    assert found.loc["logit_difference", "p"] == pytest.approx(1 / 20)
    assert random.change.abs().max() < 0.5 * abs(found.loc["logit_difference", "change"])
    cut = Intervention(layers=[layer], sites=[site], branches=["query_lowrank"])
    with torch.no_grad():
        logits = cut.run(PLANT.model, PLANT.prompts)
    without = float(PLANT.at_triggers(PLANT.logit_difference(logits)).mean())
    assert found.loc["logit_difference", "value"] == pytest.approx(without, abs=0.02 * abs(intact - without))
    assert found.loc["kl", "value"] > 0


def test_the_table_is_what_each_removal_gives_alone():
    model = small_model("llama windows")
    examples = text_examples(model, some_tokens(3, T))
    given = directions(1)
    table = causal_check(
        model, examples, given.flatten(1), layer=-1, site="pre", side="key", measures=["loss"], draws=4
    )
    assert table.groupby("removed").size().to_dict() == {"probe": 1, "random": 4, "random_like_mixing": 4}
    row = table[table.removed == "probe"].iloc[0]
    mean = part_moments(Engine(model), examples, 2, "pre", "key").mean.unflatten(0, (H, H))
    with torch.no_grad():
        loss = WithoutDirections(2, "pre", "key", given, mean).run(model, some_tokens(3, T), return_type="loss")
    assert row.value == pytest.approx(float(loss), abs=1e-9)
    draws = table[table.removed == "random"].change
    assert row.p == (1 + (draws >= row.change).sum()) / 5
    like_mixing = table[table.removed == "random_like_mixing"].share.mean()
    assert like_mixing > table[table.removed == "random"].share.mean()  # which is why both are there
    assert ((table.share >= 0) & (table.share <= 1)).all()


def test_directions_of_a_probe_are_differences_of_classes():
    coefficients = np.random.default_rng(0).normal(size=(3, 5))
    found = probe_directions(coefficients + 7.0)
    torch.testing.assert_close(found, probe_directions(coefficients))
    torch.testing.assert_close(probe_directions(coefficients[0]), torch.from_numpy(coefficients[:1]))


def test_patterns_of_a_probe_are_where_the_label_shows():
    """The label moves feature 0; feature 1 is a disturbance that the probe subtracts, and no place of the label."""
    rng = np.random.default_rng(1)
    label, disturbance = rng.normal(size=(2, 4000))
    X = np.stack([label + disturbance, disturbance], 1)
    probe = LinearProbe(1e-4).fit(X, label > 0)
    (reads,), (shows,) = probe_directions(probe.coef_[1:] - probe.coef_[:1]), probe_patterns(probe.coef_[1:], X)
    assert abs(reads[1] / reads[0] + 1) < 0.05
    assert abs(shows[1] / shows[0]) < 0.05


REFUSED = {
    "another length": ({"directions": np.ones(9)}, r"among 4 heads has 4\*4 entries, got shape \[9\]"),
    "zero": ({"directions": np.zeros(16)}, "directions must be finite numbers, not all 0"),
    "an unknown layer": ({"layer": 3}, "Layer 3 does not exist: there are 3, 0 to 2"),
    "an unknown site": ({"site": "both"}, "Unknown site 'both'. Choose from pre, post"),
    "an unknown side": ({"side": "value"}, "Unknown side 'value'. Choose from query, key"),
    "no draws": ({"draws": 0}, "draws must be at least 1, got 0"),
    "an unknown level": ({"hold": "median"}, "hold must be 'mean' or 'zero', got 'median'"),
    "no examples": ({"examples": []}, "No examples were given"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_words(name):
    model = small_model("llama")
    changed, message = REFUSED[name]
    given = {"examples": text_examples(model, some_tokens(1, 5)), "directions": np.ones(16), "layer": 0, "site": "pre"}
    with pytest.raises(ValueError, match=message):
        causal_check(model, **(given | changed))


def test_a_side_that_the_model_lacks_and_entries_between_groups_are_refused():
    with pytest.raises(ValueError, match=r"no key part at site 'pre'. Its sites: pre, post; its sides: query"):
        WithoutDirections(0, "pre", "key", directions(1)).check(small_model("query side").cfg)
    with pytest.raises(ValueError, match="mixes heads within 2 groups, and a direction has entries between"):
        WithoutDirections(0, "pre", "key", directions(1)).check(small_model("groups").cfg)
    with pytest.raises(ValueError, match=r"mixes 4 heads, got directions of 5 heads"):
        WithoutDirections(0, "pre", "key", torch.ones(5, 5)).check(small_model("llama").cfg)
