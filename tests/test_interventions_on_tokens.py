"""Interventions that know tokens: at positions, between tokens, from another prompt; and many in one batch."""

import pytest
import torch

from model import Engine, capture
from model.mixing import BRANCHES
from probes import Intervention, MeanMixing
from probes.interventions import Combined, Stacked, from_json, to_json
from tests.models import small_model, some_tokens

H, T = 4, 11
LOWRANK = {"query": "query_lowrank", "key": "key_lowrank"}


@pytest.fixture(scope="module")
def model():
    return small_model("llama windows")


def captured(change, model, tokens):
    with change.applied(model):
        return capture(model, tokens)


def part(run, side, at, layer=0, site="post"):
    mix = run.mixing(layer, site)
    return mix.query_part(at) if side == "query" else mix.key_part(at)


# -- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llama windows", "groups", "rank 3"])
@pytest.mark.parametrize("mode", ["zero", "scale", "mean", "random"])
def test_only_the_parts_of_the_chosen_tokens_change(variant, mode):
    model, tokens = small_model(variant), some_tokens(T)
    mean = MeanMixing.over(model, [some_tokens(2, 7, seed=1)])
    more = {"scale": {"amount": -0.7}, "mean": {"mean": mean}}.get(mode, {})
    run, intact = captured(Intervention(positions=[2, 9], mode=mode, **more), model, tokens), capture(model, tokens)
    everywhere = captured(Intervention(mode=mode, **more), model, tokens)
    for side in ("query", "key"):
        for at in range(T):
            if at in (2, 9) and mode == "mean":
                branches = [f"{side}_{kind}" for kind in ("lowrank", "gate")]
                truth = mean.of(0, "post", branches).float()
            else:
                truth = part(everywhere if at in (2, 9) else intact, side, at)
            torch.testing.assert_close(part(run, side, at), truth, rtol=0, atol=1e-5)


def test_one_side_is_set_at_a_token(model):
    tokens, value = some_tokens(T), torch.randn(H, H, generator=torch.Generator().manual_seed(0))
    change = Intervention(positions=[4], branches=["key_lowrank", "key_gate"], targets=[1, 3], mode="set", value=value)
    run, intact = captured(change, model, tokens), capture(model, tokens)
    truth = part(intact, "key", 4).clone()
    truth[:, [1, 3]] = value[:, [1, 3]]
    torch.testing.assert_close(part(run, "key", 4), truth, rtol=0, atol=1e-5)
    torch.testing.assert_close(part(run, "query", 4), part(intact, "query", 4))
    torch.testing.assert_close(part(run, "key", 5), part(intact, "key", 5))


def test_positions_count_from_each_prompts_first_token(model):
    tokens, long = some_tokens(7), some_tokens(T, seed=8)
    padded = torch.stack([torch.cat([torch.zeros(T - 7, dtype=torch.long), tokens]), long])
    mask = torch.stack([torch.arange(T) >= T - 7, torch.ones(T, dtype=torch.bool)])
    with torch.no_grad():
        alone = Intervention(positions=[3]).run(model, tokens)[0]
        batched = Intervention(positions=[[3], [1, 2]]).run(model, padded, attention_mask=mask)
        other = Intervention(positions=[1, 2]).run(model, long)[0]
    torch.testing.assert_close(batched[0, T - 7 :], alone, rtol=0, atol=1e-10)
    torch.testing.assert_close(batched[1], other, rtol=0, atol=1e-10)


def test_a_position_may_come_later_in_generation(model):
    change, tokens = Intervention(positions=[2, 9]), some_tokens(1, 5)
    with change.applied(model):
        new = Engine(model).generate(tokens, 7)
        whole = model(new)[0, 4:-1].argmax(-1)  # each token from the whole prompt before it
    assert torch.equal(new[0, 5:], whole)


def test_a_position_that_does_not_exist(model):
    with pytest.raises(ValueError, match="Position 11 does not exist: the prompt has 11 tokens, 0 to 10"):
        Intervention(positions=[3, 11]).run(model, some_tokens(T))
    with pytest.raises(ValueError, match="Positions were given for 3 prompts, and 2 are run"):
        Intervention(positions=[[0], [1], [2]]).run(model, some_tokens(2, T))


# -- controls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llama windows", "groups"])
def test_shuffling_gives_each_token_the_part_of_another(variant):
    model, tokens = small_model(variant), torch.randperm(30)[:T]  # no token twice
    run, intact = captured(Intervention(mode="shuffle", seed=5), model, tokens), capture(model, tokens)
    found = []
    for at in range(T):
        distances = [float((part(run, "query", at) - part(intact, "query", i)).abs().max()) for i in range(T)]
        found.append(min(range(T), key=lambda i: distances[i]))
        assert distances[found[-1]] < 1e-5
        torch.testing.assert_close(part(run, "key", at), part(intact, "key", found[-1]), rtol=0, atol=1e-5)
    assert sorted(found) == list(range(T))
    assert found != list(range(T))
    again = captured(Intervention(mode="shuffle", seed=6), model, tokens)
    assert any(not torch.equal(part(run, "key", at), part(again, "key", at)) for at in range(T))


def test_shuffling_some_positions_leaves_the_others(model):
    tokens = some_tokens(T)
    change = Intervention(mode="shuffle", positions=[1, 4, 6], branches=["key_lowrank"], sources=[0, 2])
    run, intact = captured(change, model, tokens), capture(model, tokens)
    for at in set(range(T)) - {1, 4, 6}:
        torch.testing.assert_close(part(run, "key", at), part(intact, "key", at), rtol=0, atol=1e-6)
    for at in range(T):
        rest = part(run, "key", at)[[1, 3]]
        torch.testing.assert_close(rest, part(intact, "key", at)[[1, 3]], rtol=0, atol=1e-6)
    total = sum(part(run, "key", at) for at in (1, 4, 6))
    torch.testing.assert_close(total, sum(part(intact, "key", at) for at in (1, 4, 6)), rtol=0, atol=1e-5)


def test_padding_takes_no_part_in_a_shuffle(model):
    tokens = some_tokens(7)
    padded = torch.cat([torch.zeros(4, dtype=torch.long), tokens])[None]
    with torch.no_grad():
        alone = Intervention(mode="shuffle").run(model, tokens)
        batched = Intervention(mode="shuffle").run(model, padded, attention_mask=(torch.arange(T) >= 4)[None])
    torch.testing.assert_close(batched[:, 4:], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["llama windows", "groups", "rank 3"])
@pytest.mark.parametrize("heads", [{}, {"sources": [0, 3], "targets": [1, 2, 3]}])
def test_random_controls_keep_norm_and_rank_of_what_they_replace(variant, heads):
    model, tokens = small_model(variant), some_tokens(T)
    change = Intervention(branches=["query_lowrank"], sites=["post"], mode="random", seed=1, **heads)
    run, intact = captured(change, model, tokens), capture(model, tokens)
    rows, columns = heads.get("sources", range(H)), heads.get("targets", range(H))
    for at in (0, 4, T - 1):
        old, new = (r.mixing(0, "post").branches(at, 0)["query_lowrank"] for r in (intact, run))
        blocks = [m[list(rows)][:, list(columns)] for m in (old, new)]
        assert not torch.allclose(*blocks, atol=1e-4)
        torch.testing.assert_close(blocks[1].norm(), blocks[0].norm(), rtol=1e-4, atol=1e-6)
        assert torch.linalg.matrix_rank(blocks[1], rtol=1e-4) == torch.linalg.matrix_rank(blocks[0], rtol=1e-4)
        others = torch.ones(H, H, dtype=torch.bool)
        others[torch.tensor(list(rows))[:, None], torch.tensor(list(columns))] = False
        torch.testing.assert_close(new[others], old[others], rtol=0, atol=1e-5)
    gate = Intervention(branches=["key_gate"], sites=["post"], mode="random", **heads)
    diagonal = captured(gate, model, tokens).mixing(0, "post").branches(0, 3)["key_gate"].diagonal()
    before = intact.mixing(0, "post").branches(0, 3)["key_gate"].diagonal()
    torch.testing.assert_close(diagonal.norm(), before.norm(), rtol=1e-4, atol=1e-6)


# -- patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llama windows", "neox", "groups"])
def test_patching_all_of_a_layer_gives_the_other_prompts_attention(variant):
    model, tokens, other = small_model(variant), some_tokens(2, T), some_tokens(2, T, seed=9)
    change = Intervention(layers=[1], mode="patch", prompt=other, what=["mixing", "q", "k", "v"])
    name = "blocks.1.attn.hook_z"
    with torch.no_grad():
        truth = model.run_with_cache(other, names_filter=name)[1][name]
        with change.applied(model):
            found = model.run_with_cache(tokens, names_filter=name)[1][name]
            engine = Engine(model)(tokens)
            torch.testing.assert_close(engine, model(tokens), rtol=0, atol=1e-10)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)


def test_routing_and_content_are_patched_apart(model):
    tokens, other = some_tokens(T), some_tokens(T, seed=9)
    routing = captured(Intervention(layers=[0], mode="patch", prompt=other), model, tokens)
    content = captured(Intervention(layers=[0], mode="patch", prompt=other, what=["q", "k", "v"]), model, tokens)
    intact, donor = capture(model, tokens), capture(model, other)
    for site in ("pre", "post"):
        torch.testing.assert_close(
            routing.mixing(0, site).matrix(8, 7), donor.mixing(0, site).matrix(8, 7), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(content.mixing(0, site).matrix(8, 7), intact.mixing(0, site).matrix(8, 7))
    torch.testing.assert_close(routing.scores(0, "raw"), intact.scores(0, "raw"))
    torch.testing.assert_close(content.scores(0, "raw"), donor.scores(0, "raw"))


def test_a_patch_of_some_heads_and_tokens(model):
    tokens, other = some_tokens(T), some_tokens(T, seed=9)
    change = Intervention(
        layers=[0], mode="patch", prompt=other, what=["k", "v"], sources=[2], targets=[0, 1], positions=[3]
    )
    run, intact, donor = captured(change, model, tokens), capture(model, tokens), capture(model, other)
    key, value = intact.layers[0].k.clone(), intact.layers[0].v.clone()
    key[3, 2], value[3, :2] = donor.layers[0].k[3, 2], donor.layers[0].v[3, :2]
    assert torch.equal(run.layers[0].k, key)
    assert torch.equal(run.layers[0].v, value)
    assert torch.equal(run.layers[0].q, intact.layers[0].q)


@pytest.mark.parametrize("variant", ["llama windows", "groups"])
def test_tokens_of_prompts_of_other_lengths_are_patched_by_name(variant):
    model, tokens, other = small_model(variant), some_tokens(2, T), some_tokens(2, 7, seed=9)
    where = {"positions": [[8, 3], [5]], "prompt_positions": [[2, 6], [1]]}
    change = Intervention(layers=[0], mode="patch", prompt=other, what=["mixing", "v"], targets=[1], **where)
    with change.applied(model):
        runs = capture(model, tokens)
    intact, donors = capture(model, tokens), capture(model, other)
    for number, pairs in enumerate(({8: 2, 3: 6}, {5: 1})):
        for at in range(T):
            truth = part(intact[number], "key", at).clone()
            value = intact[number].layers[0].v[at].clone()
            if at in pairs:
                truth[:, 1] = part(donors[number], "key", pairs[at])[:, 1]
                value[1] = donors[number].layers[0].v[pairs[at], 1]
            torch.testing.assert_close(part(runs[number], "key", at), truth, rtol=0, atol=1e-5)
            assert torch.equal(runs[number].layers[0].v[at], value)
    with pytest.raises(ValueError, match="which has 7 tokens, 0 to 6"):
        Intervention(mode="patch", prompt=other, positions=[1], prompt_positions=[7]).run(model, tokens)


def test_a_prompt_of_which_no_token_is_named_is_not_patched(model):
    tokens, other = some_tokens(2, T), some_tokens(2, 7, seed=9)
    for positions, prompt_positions in (([[], []], [[], []]), ([[8], []], [[2], []])):
        change = Intervention(mode="patch", prompt=other, positions=positions, prompt_positions=prompt_positions)
        found, intact = change.run(model, tokens), model(tokens)
        assert torch.equal(found[0], intact[0]) == (not positions[0])
        assert torch.equal(found[1], intact[1])


def test_a_donor_runs_in_the_model_as_it_stands(model):
    tokens, other = some_tokens(T), some_tokens(T, seed=9)
    patch, cut = Intervention(layers=[2], mode="patch", prompt=other), Intervention(layers=[0])
    with cut.applied(model), torch.no_grad():
        donor = capture(model, other)
        run = captured(patch, model, tokens)
    torch.testing.assert_close(run.mixing(2).matrix(5, 4), donor.mixing(2).matrix(5, 4), rtol=0, atol=1e-6)


def test_content_of_a_plain_model_can_be_patched():
    model, tokens, other = small_model("plain"), some_tokens(T), some_tokens(T, seed=9)
    with torch.no_grad():
        found = Intervention(layers=[0], mode="patch", prompt=other, what=["v"]).run(model, tokens)
        assert not torch.allclose(found, model(tokens))
    with pytest.raises(ValueError, match="composition is off"):
        Intervention(mode="patch", prompt=other).run(model, tokens)


def test_patches_between_other_lengths_are_refused(model):
    with pytest.raises(ValueError, match=r"has 9 tokens, the run 11\. Patch between prompts of one length"):
        Intervention(mode="patch", prompt=some_tokens(9)).run(model, some_tokens(T))
    with pytest.raises(ValueError, match="2 prompts to take values from were given for 3"):
        Intervention(mode="patch", prompt=some_tokens(2, T)).run(model, some_tokens(3, T))
    for mode in ({"mode": "patch", "prompt": some_tokens(1, T)}, {"mode": "shuffle"}):
        with pytest.raises(ValueError, match="whole prompt at once"), Intervention(**mode).applied(model):
            Engine(model).generate(some_tokens(1, T), 3)


# -- several at once -------------------------------------------------------------------------------


def some_changes(model):
    mean, value = MeanMixing.over(model, [some_tokens(2, 7, seed=1)]), torch.randn(H, H)
    dynamic = [f"{side}_{kind}" for side in model.cfg.dynamic_sides for kind in ("lowrank", "gate")]
    return (
        Intervention(layers=[1], branches=dynamic[:1]),
        Intervention(mode="identity"),
        Intervention(mode="set", value=0.0, branches=["base", *dynamic], sources=[1], targets=[0]),
        Intervention(layers=[0, 2], mode="mean", mean=mean),
        Intervention(mode="set", value=value) + Intervention(layers=[1], mode="identity"),
        Intervention(mode="random", positions=[1, 5]),
        Intervention(layers=[2], mode="patch", prompt=some_tokens(1, T, seed=9), what=["v", "mixing"]),
    )


@pytest.mark.parametrize("variant", ["llama windows", "static and dynamic", "key side", "query side", "neox"])
def test_changes_side_by_side_are_those_changes_one_by_one(variant):
    model, tokens = small_model(variant), some_tokens(2, T)
    changes = some_changes(model)
    with torch.no_grad():
        alone = torch.cat([change.run(model, tokens) for change in changes])
        stacked = Stacked(changes)
        for source in (model, Engine(model)):
            found = stacked.run(source, tokens.repeat(len(changes), 1))
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-9)
    assert stacked.first_layer(model.cfg) == 0
    with pytest.raises(ValueError, match="5 prompts cannot be shared out among 7 changes"):
        stacked.run(model, some_tokens(5, T))


# -- JSON ------------------------------------------------------------------------------------------


def test_changes_survive_json(model):
    tokens = some_tokens(2, T)
    more = Intervention(mode="scale", amount=0.5, branches=list(BRANCHES[1:]), layers=[-1], positions=[[0, 3], [2]])
    for change in (*some_changes(model), more, Intervention(mode="patch", prompt=some_tokens(2, T, seed=4))):
        again = from_json(to_json(change))
        assert len(again.parts()) == len(change.parts())
        with torch.no_grad():
            torch.testing.assert_close(again.run(model, tokens), change.run(model, tokens), rtol=0, atol=1e-12)
    assert to_json(Intervention(layers=[3], sites=["post"])) == '[{"layers": [3], "sites": ["post"]}]'
    assert from_json(to_json(Combined((more, more)))) == more + more


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "This is no JSON"),
        ('{"layers": [1]}', "written as a list of objects"),
        ('[{"layer": [1]}]', "Interventions have no layer. They have: layers, sites"),
        ('[{"mode": "mean", "mean": 3}]', "The mean of this intervention cannot be read"),
        ('[{"mode": "off"}]', "Unknown mode 'off'"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_stacks_are_not_written():
    with pytest.raises(ValueError, match="A Stacked cannot be written as JSON"):
        to_json(Stacked((Intervention(),)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": [-1]}, "Positions count from 0"),
        ({"positions": 3}, r"positions must be a list: \[3\]"),
        ({"positions": []}, "positions is empty"),
        ({"positions": [1], "mode": "identity"}, "fixes M of whole pairs"),
        ({"positions": [1], "mode": "set", "value": 1.0}, "or set branches of one side"),
        ({"positions": [1], "branches": ["base"]}, "The base belongs to no token"),
        ({"mode": "patch"}, "Mode 'patch' needs prompt="),
        ({"mode": "patch", "prompt": "x", "prompt_positions": [1]}, "Name one for one"),
        ({"mode": "patch", "prompt": "x", "positions": [1], "prompt_positions": [-1]}, "Positions count from 0"),
        ({"positions": [1], "prompt_positions": [1]}, "takes no prompt_positions="),
        ({"prompt": "x"}, "Mode 'zero' takes no prompt=, which belongs to mode 'patch'"),
        ({"what": ["q"]}, "Mode 'zero' takes no what="),
        ({"mode": "patch", "prompt": "x", "what": ["z"]}, "Unknown part of a prompt 'z'. Choose from mixing, q, k, v"),
        ({"mode": "patch", "prompt": "x", "what": ["q"], "sites": ["pre"]}, "patches no mixing"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(fields, message):
    with pytest.raises(ValueError, match=message):
        Intervention(**fields)
