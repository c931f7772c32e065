"""Interventions change the mixing matrices as they say, alike in the hooked model and in the engine."""

import pytest
import torch

from model import Engine, HookedDCFormer, capture
from model.backends import BACKENDS
from model.mixing import BRANCHES
from probes import Intervention, MeanMixing, uncomposed_twin
from tests.models import relative_error, small_model, some_tokens

H, T = 4, 11
VALUE = torch.randn(H, H, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
DYNAMIC = BRANCHES[1:]


@pytest.fixture(scope="module")
def model():
    return small_model("llama windows")


@pytest.fixture(scope="module")
def mean(model):
    return MeanMixing.over(model, [some_tokens(2, 7, seed=1), some_tokens(1, 5, seed=2)])


def mask(change):
    chosen = torch.zeros(H, H)
    rows = range(H) if change.sources is None else change.sources
    for source in rows:
        for target in range(H) if change.targets is None else change.targets:
            chosen[source, target] = 1
    return chosen.bool()


def expected(change, intact, mean, layer, site):
    """The changed M of one pair, from its five branches and the intervention's own words."""
    branches = DYNAMIC if change.branches is None else change.branches
    chosen = {name: intact[name] for name in branches}
    rest = sum(part for name, part in intact.items() if name not in chosen)
    replaced = {
        "zero": lambda: torch.zeros(H, H),
        "identity": lambda: torch.eye(H) - rest,
        "scale": lambda: change.amount * sum(chosen.values()),
        "set": lambda: torch.as_tensor(change.value).float().expand(H, H),
        "mean": lambda: sum(mean.matrices[layer, site, name] for name in branches).float(),
    }[change.mode]()
    return torch.where(mask(change), rest + replaced, sum(intact.values()))


CHANGES = {
    "zero a branch": {"branches": ["query_lowrank"]},
    "zero a branch between heads": {"branches": ["key_lowrank"], "sources": [1, 3], "targets": [0]},
    "zero a source": {"sources": [2]},
    "zero a target's gates": {"branches": ["query_gate", "key_gate"], "targets": [1]},
    "zero the base": {"branches": ["base"], "sources": [0]},
    "identity": {"mode": "identity"},
    "identity of one target": {"mode": "identity", "targets": [2]},
    "a dose": {"mode": "scale", "amount": 1.7, "branches": ["key_lowrank", "query_gate"]},
    "a dose of an edge": {"mode": "scale", "amount": -0.5, "sources": [0], "targets": [3]},
    "cut an edge": {"mode": "set", "value": 0.0, "branches": list(BRANCHES), "sources": [1], "targets": [2]},
    "set all": {"mode": "set", "value": VALUE},
    "set an edge": {"mode": "set", "value": 0.8, "branches": list(BRANCHES), "sources": [1], "targets": [1]},
    "frozen": {"mode": "mean"},
    "a frozen branch between heads": {"mode": "mean", "branches": ["key_lowrank"], "sources": [0, 1], "targets": [3]},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("variant", ["llama windows", "static and dynamic"])
def test_every_mixing_matrix_becomes_what_the_intervention_says(variant, name):
    model, tokens = small_model(variant), some_tokens(T)
    mean = MeanMixing.over(model, [some_tokens(2, 7, seed=1)])
    change = intervention(name, mean, layers=[0, -1], sites=["post"])  # layer 0's factors know of no earlier change
    intact = capture(model, tokens)
    with change.applied(model):
        changed = capture(model, tokens)
    for query, key in ((0, 0), (6, 2), (10, 9)):
        truth = expected(change, intact.mixing(0, "post").branches(query, key), mean, 0, "post")
        torch.testing.assert_close(changed.mixing(0, "post").matrix(query, key), truth, rtol=0, atol=1e-5)
        untouched = intact.mixing(0, "pre").matrix(query, key)
        torch.testing.assert_close(changed.mixing(0, "pre").matrix(query, key), untouched, rtol=0, atol=0)


def intervention(name, mean, **where):
    fields = CHANGES[name] | where
    return Intervention(**(fields | {"mean": mean} if fields.get("mode") == "mean" else fields))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("variant", ["llama windows", "static and dynamic", "neox"])
def test_the_hooked_model_the_engine_and_cached_decoding_agree(variant, name):
    model, tokens = small_model(variant), some_tokens(2, T)
    change = intervention(name, MeanMixing.over(model, [some_tokens(2, 7, seed=1)]))
    watched = []
    with torch.no_grad():
        intact, truth = model(tokens), change.run(model, tokens)
        with change.applied(model):
            # a hook on a whole map makes the hooked model build every map
            by_maps = model.run_with_hooks(
                tokens, fwd_hooks=[(lambda n: n.endswith("hook_pattern"), lambda x, hook: watched.append(hook.name))]
            )
    assert len(watched) == model.cfg.n_layers
    assert not torch.allclose(truth, intact)
    torch.testing.assert_close(by_maps, truth, rtol=0, atol=1e-10)
    for backend in BACKENDS:
        torch.testing.assert_close(change.run(Engine(model, backend), tokens), truth, rtol=0, atol=1e-10)
    with change.applied(model):
        assert torch.equal(Engine(model).generate(tokens, 9), model.generate(tokens, 9))
    torch.testing.assert_close(Engine(model)(tokens), intact, rtol=0, atol=1e-10)  # nothing is left behind


@pytest.mark.parametrize("name", ["zero a branch", "identity of one target", "a dose"])
def test_heads_in_groups(name):
    model, tokens = small_model("groups"), some_tokens(T)
    change = intervention(name, None, sites=["pre"])
    intact, changed = capture(model, tokens), capture_under(change, model, tokens)
    truth = expected(change, intact.mixing(0, "pre").branches(7, 5), None, 0, "pre")
    torch.testing.assert_close(changed.mixing(0, "pre").matrix(7, 5), truth, rtol=0, atol=1e-5)


def capture_under(change, model, tokens):
    with change.applied(model):
        return capture(Engine(model), tokens)


def test_the_twin_is_the_model_with_composition_off(model):
    tokens = some_tokens(1, 9)
    plain = HookedDCFormer(model.cfg.replace(compose=False), seed=None)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if ".mix_" not in name})
    with torch.no_grad():
        torch.testing.assert_close(uncomposed_twin().run(model, tokens), plain(tokens), rtol=0, atol=1e-10)


def test_sums_apply_the_left_one_first(model, mean):
    tokens = some_tokens(1, T)
    frozen = Intervention(branches=["key_lowrank"], mode="mean", mean=mean)
    cut = Intervention(branches=["key_lowrank", "query_lowrank"])
    both = frozen + cut  # the frozen part is constant by now, and stays
    run = capture_under(both, model, tokens)
    found = run.mixing(0, "pre").branches(5, 3)
    assert not found["key_lowrank"].any()
    assert not found["query_lowrank"].any()
    torch.testing.assert_close(
        found["base"] - torch.eye(H), mean.matrices[0, "pre", "key_lowrank"].float(), rtol=0, atol=1e-6
    )
    assert (cut + frozen).parts() == (cut, frozen)


def test_a_mean_over_one_token_freezes_nothing(model):
    token = some_tokens(1, 1)
    frozen = Intervention(mode="mean", mean=MeanMixing.over(model, [token]))
    with torch.no_grad():
        torch.testing.assert_close(frozen.run(model, token), model(token), rtol=0, atol=1e-10)


def test_means_are_those_of_the_products(model, mean):
    runs = [*capture(model, some_tokens(2, 7, seed=1)), capture(model, some_tokens(5, seed=2))]
    assert mean.tokens == 19
    parts = [run.mixing(1, "post").branches(i, i)["key_lowrank"] for run in runs for i in range(len(run.tokens))]
    truth = torch.stack(parts).mean(0)
    torch.testing.assert_close(mean.matrices[1, "post", "key_lowrank"].float(), truth, rtol=0, atol=1e-6)


def test_gradients_pass_through(model):
    tokens = some_tokens(1, T)
    with Intervention(mode="scale", amount=0.5, sources=[1], targets=[2]).applied(model):
        model(tokens, return_type="loss").backward()
    gradient = model.blocks[1].attn.mix_factors.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sites": ["mid"]}, "Unknown site 'mid'. Choose from pre, post"),
        ({"sites": "pre"}, r"sites must be a list: \['pre'\], not 'pre'"),
        ({"layers": 3}, r"layers must be a list: \[3\], not 3"),
        ({"layers": [1.5]}, "layers must be whole numbers, got 1.5"),
        ({"targets": []}, "targets is empty, so nothing would change"),
        ({"branches": ["gate"]}, "Unknown branch 'gate'. Choose from base, query_lowrank"),
        ({"mode": "off"}, "Unknown mode 'off'. Choose from zero, identity"),
        ({"mode": "scale"}, "Mode 'scale' needs amount="),
        ({"mode": "scale", "amount": float("nan")}, "amount must be a finite number, got nan"),
        ({"mode": "scale", "amount": "2"}, "amount must be a finite number, got '2'"),
        ({"mode": "set", "value": float("inf")}, "value must be a finite number, got inf"),
        ({"mode": "set", "value": torch.full((2, 2), torch.nan)}, "value must be finite, and 4 of its entries are not"),
        ({"mode": "mean"}, "Mode 'mean' needs mean="),
        ({"amount": 2.0}, "Mode 'zero' takes no amount=, which belongs to mode 'scale'"),
        ({"mode": "identity", "branches": ["base"]}, "replaces the whole of M"),
    ],
)
def test_what_no_model_could_do_is_refused_at_once(fields, message):
    with pytest.raises(ValueError, match=message):
        Intervention(**fields)


@pytest.mark.parametrize(
    ("variant", "fields", "message"),
    [
        ("plain", {}, "composition is off"),
        ("llama", {"layers": [3]}, "Layer 3 does not exist: there are 3, 0 to 2"),
        ("llama", {"targets": [4]}, "Head 4 does not exist: there are 4, 0 to 3"),
        ("pre only", {"sites": ["post"]}, "This model has no post. Its sites: pre"),
        ("key side", {"branches": ["query_gate"]}, "This model has no query_gate. Its branches: base, key_lowrank"),
        ("llama", {"mode": "set", "value": torch.zeros(3, 3)}, r"value must be \[4, 4\], got \[3, 3\]"),
        ("groups", {"mode": "set", "value": 1.0, "sources": [0], "targets": [3]}, "within 2 groups"),
        ("llama", {"mode": "mean", "mean": MeanMixing({}, 1)}, "taken over another model"),
    ],
)
def test_what_this_model_lacks_is_named(variant, fields, message):
    model = small_model(variant)
    with pytest.raises(ValueError, match=message), Intervention(**fields).applied(model):
        pass


def test_a_mean_needs_prompts_and_mixing(model):
    with pytest.raises(ValueError, match="No prompts were given"):
        MeanMixing.over(model, [])
    with pytest.raises(ValueError, match="composition is off"):
        MeanMixing.over(small_model("plain"), [some_tokens(1, 4)])


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (4, 4, 1), (5, 5)])
def test_a_mean_whose_matrices_are_none_of_the_models_is_refused(shape):
    model = small_model("llama")
    good = MeanMixing.over(model, [some_tokens(1, 4)])
    good.check(model.cfg)
    bad = MeanMixing({**good.matrices, (1, "post", "key_gate"): torch.zeros(shape)}, 4)
    with pytest.raises(ValueError, match="taken over another model"):
        bad.check(model.cfg)


@pytest.mark.parametrize("variant", ["static and dynamic", "groups", "query side"])
@pytest.mark.parametrize("mode", ["shuffle", "random", "patch", "zero", "mean"])
def test_a_change_after_the_identity_finds_mixing_that_is_zero(variant, mode):
    """After M = I there is no branch left to turn or shuffle; a patch brings the other prompt's back."""
    model, tokens = small_model(variant), some_tokens(1, 7)
    more: dict[str, object] = {"prompt": some_tokens(1, 7, seed=5)} if mode == "patch" else {}
    more |= {"mean": MeanMixing.over(model, [tokens])} if mode == "mean" else {}
    both = Intervention(mode="identity") + Intervention(mode=mode, **more)  # type: ignore[arg-type]
    found, twin = both.run(model, tokens), Intervention(mode="identity").run(model, tokens)
    assert (relative_error(found, twin) < 1e-12) == (mode not in ("patch", "mean"))
