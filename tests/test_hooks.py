"""Every declared hook fires, has its documented shape, changes the logits when edited, and passes gradients."""

import pytest
import torch

from model import HookedDCFormer
from tests.models import SIZES, VARIANTS, small_model, some_tokens

B, T = 2, 9
VARIANTS_WITH_ALL_HOOKS = ("llama windows", "neox", "original", "groups", "mgate", "talking heads", "plain")


def expected_shape(name: str, cfg) -> tuple[int, ...]:
    H, K, D, R = cfg.n_heads, cfg.d_head, cfg.d_model, cfg.rank
    factor = (B, T, R, H) if cfg.groups == 1 else (B, T, cfg.groups, R, H // cfg.groups)
    last = name.rsplit("hook_")[1]
    if ".pre." in name or ".post." in name:
        return (B, T, H) if last.endswith("gate") else factor
    shapes = {
        **dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "z"), (B, T, H, K)),
        **dict.fromkeys(("attn_scores_raw", "attn_scores", "pattern_raw", "pattern"), (B, H, T, T)),
        "result": (B, T, H, D), "scale": (B, T, 1), "mgate": (B, T, cfg.mgate_groups),
    }  # fmt: skip
    if ".mlp." in name:
        return shapes.get(last, (B, T, cfg.d_mlp))
    return shapes.get(last, (B, T, D))


def all_hooks():
    for variant in VARIANTS_WITH_ALL_HOOKS:
        # the last layer's factors reach the logits too, and one layer keeps the list short
        for name in HookedDCFormer(small_model(variant).cfg, seed=None).hook_dict:
            if not name.startswith("blocks.") or name.startswith("blocks.1."):
                yield variant, name


@pytest.fixture(scope="module")
def models():
    return {variant: small_model(variant) for variant in VARIANTS_WITH_ALL_HOOKS}


@pytest.mark.parametrize(("variant", "name"), list(all_hooks()))
def test_hook_fires_has_its_shape_changes_the_logits_and_passes_gradients(models, variant, name):
    model, tokens, seen = models[variant], some_tokens(B, T), []
    intact = model(tokens).detach()

    def edit(activation, hook):
        seen.append((hook.name, tuple(activation.shape)))
        edited = activation * 1.5 + 0.25 * (activation.abs() < 1e9)
        # -inf marks keys that may not be seen: it is left as it is
        return torch.where(activation == float("-inf"), activation, edited)

    changed = model.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
    assert seen == [(name, expected_shape(name, model.cfg))]
    assert (changed - intact).abs().max() > 1e-6

    leaf = {}

    def watch(activation, hook):
        leaf["x"] = activation.detach().clone().requires_grad_()
        return leaf["x"]

    model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[(name, watch)]).backward()
    assert torch.isfinite(leaf["x"].grad).all()
    assert leaf["x"].grad.abs().max() > 0
    model.zero_grad()


@pytest.mark.parametrize("variant", VARIANTS)
def test_watching_the_maps_changes_nothing(variant):
    model, tokens = small_model(variant), some_tokens(B, T)
    watched, cache = model.run_with_cache(tokens)
    assert "blocks.0.attn.hook_pattern" in cache
    torch.testing.assert_close(watched, model(tokens), rtol=0, atol=1e-11)


def test_the_documented_relation_between_the_four_maps():
    model, tokens = small_model("llama windows"), some_tokens(1, T)
    _, cache = model.run_with_cache(tokens)
    scores = cache["attn_scores", 0]
    torch.testing.assert_close(scores.softmax(-1), cache["pattern_raw", 0, "attn"], rtol=0, atol=1e-12)
    assert torch.equal(scores == float("-inf"), cache["pattern_raw", 0, "attn"] == 0)
    z = torch.einsum("bnts,bsnk->btnk", cache["pattern", 0], cache["v", 0])
    torch.testing.assert_close(z, cache["z", 0], rtol=0, atol=1e-12)
    assert not torch.allclose(cache["pattern", 0].sum(-1), torch.ones(()).double())
    assert not torch.isinf(cache["attn_scores_raw", 0, "attn"]).any()


@pytest.mark.parametrize("variant", ["llama windows", "groups"])
def test_pos_slice_cuts_the_position_axis_of_every_activation(variant):
    model, tokens = small_model(variant), some_tokens(B, T)
    _, whole = model.run_with_cache(tokens)
    _, cut = model.run_with_cache(tokens, pos_slice=(2, 5))
    _, last = model.run_with_cache(tokens, pos_slice=-1)
    for name, hook in model.hook_dict.items():
        axis = 2 if hook.pos_dim == -2 else 1
        assert torch.equal(cut[name], whole[name].narrow(axis, 2, 3)), name
        assert torch.equal(last[name], whole[name].narrow(axis, T - 1, 1)), name


def test_cache_without_batch_axis():
    model, tokens = small_model(), some_tokens(1, T)
    _, cache = model.run_with_cache(tokens, remove_batch_dim=True)
    assert cache["resid_pre", 0].shape == (T, SIZES["d_model"])
    assert cache["query_down", 0, "attn.pre"].shape == (T, 2, SIZES["n_heads"])


def test_hook_result_is_computed_only_on_demand():
    model, tokens = small_model(), some_tokens(1, T)
    intact = model(tokens)
    fired = []
    model.blocks[0].attn.hook_result.register_forward_hook(lambda *_: fired.append(True))
    model(tokens)
    assert not fired
    model.set_use_attn_result(True)
    torch.testing.assert_close(model(tokens), intact, rtol=0, atol=1e-11)
    assert fired


def test_an_unknown_hook_name_is_refused_with_its_neighbours():
    with pytest.raises(ValueError, match=r"no hook 'blocks.0.attn.hook_patern'. Near it: .*hook_pattern"):
        small_model().run_with_hooks(some_tokens(1, T), fwd_hooks=[("blocks.0.attn.hook_patern", lambda x, hook: x)])
