"""What must hold for every configuration, in float64, on configurations that Hypothesis draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import DCFormerConfig, Engine, HookedDCFormer, capture
from model.mixing import BRANCHES
from probes import Intervention
from tests.models import relative_error, some_tokens
from tests.reference import forward

EXAMPLES = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
TIGHT = 1e-9


@pytest.fixture(autouse=True)
def counted(record_property):
    record_property("drawn models", EXAMPLES.max_examples)


@st.composite
def configurations(draw: Any) -> DCFormerConfig:
    """Any small model: one head or seven, one layer, groups, windows, sites and sides left out, static, tied, plain."""
    group_heads, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    layers, sides = draw(st.integers(1, 3)), draw(st.sampled_from([(), ("query",), ("key",), ("query", "key")]))
    fields = {
        "n_layers": layers, "n_heads": group_heads * groups, "groups": groups, "d_head": 2 * draw(st.integers(1, 4)),
        "d_model": draw(st.integers(2, 17)), "d_mlp": draw(st.integers(1, 19)), "d_vocab": draw(st.integers(1, 23)),
        "n_ctx": draw(st.integers(7, 12)), "rank": draw(st.integers(1, 3)), "sides": sides,
        "sites": draw(st.sampled_from([("pre",), ("post",), ("pre", "post")])),
        "static_mixing": not sides or draw(st.booleans()), "tie_embeddings": draw(st.booleans()),
        "visible_keys": draw(st.none() | st.tuples(*[st.none() | st.integers(1, 9)] * layers)),
    }  # fmt: skip
    if draw(st.integers(0, 5)) == 0:
        fields |= {"compose": False, "static_mixing": False}
    return DCFormerConfig.from_architecture(
        draw(st.sampled_from(["llama", "neox", "original"])), dtype=torch.float64, device="cpu", **fields
    )


def filled(cfg: DCFormerConfig) -> HookedDCFormer:
    model = HookedDCFormer(cfg, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return model


@EXAMPLES
@given(configurations())
def test_logits_and_matrices_are_those_of_the_loops(cfg):
    model, tokens = filled(cfg), some_tokens(1, 5, vocabulary=cfg.d_vocab)
    logits, layers = forward(model, tokens[0].tolist())
    run = capture(model, tokens)
    for logits_of in (model, Engine(model)):
        assert relative_error(logits_of(tokens)[0], torch.from_numpy(logits)) < TIGHT
    for layer in range(cfg.n_layers):
        for site in cfg.mixed_sites:
            for query, key in ((4, 0), (4, 4), (2, 1)):
                given_, truth = run.mixing(layer, site).matrix(query, key), layers[layer]["matrices"][site, query, key]
                np.testing.assert_allclose(given_.numpy(), truth, rtol=1e-5, atol=1e-5)


@EXAMPLES
@given(configurations())
def test_branches_sum_to_the_matrix_and_groups_mix_nothing_between_them(cfg):
    run = capture(filled(cfg), some_tokens(1, 6, vocabulary=cfg.d_vocab))
    size = cfg.heads_per_group
    outside = 1 - torch.block_diag(*[torch.ones(size, size)] * cfg.groups)
    for layer in range(cfg.n_layers):
        for site in cfg.mixed_sites:
            mix = run.mixing(layer, site)
            parts = mix.branches(5, 2)
            assert set(parts) == set(BRANCHES)
            torch.testing.assert_close(sum(parts.values()), mix.matrix(5, 2))
            assert not (mix.matrix(5, 2) * outside).any()


@EXAMPLES
@given(configurations())
def test_virtual_heads_sum_to_the_attention_output(cfg):
    model, tokens = filled(cfg), some_tokens(1, 6, vocabulary=cfg.d_vocab)
    run, (_, cache) = capture(model, tokens), model.run_with_cache(tokens)
    direction = torch.randn(cfg.d_model, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for layer in range(cfg.n_layers):
        bias = model.blocks[layer].attn.b_O if cfg.use_bias else 0.0
        whole = float((cache[f"blocks.{layer}.hook_attn_out"][0, 5] - bias) @ direction)
        found = run.virtual_head_attribution(layer, 5, direction)
        assert found.shape == (cfg.n_heads, cfg.n_heads)
        assert float(found.sum()) == pytest.approx(whole, rel=1e-4, abs=1e-4)


@EXAMPLES
@given(configurations())
def test_the_identity_makes_the_twin_of_the_plain_model(cfg):
    model, tokens = filled(cfg), some_tokens(2, 6, vocabulary=cfg.d_vocab)
    if not cfg.mixed_sites:
        with pytest.raises(ValueError, match="mixes no heads"):
            Intervention(mode="identity").run(model, tokens)
        return
    plain = HookedDCFormer(cfg.replace(compose=False, static_mixing=False), seed=3)
    weights = {name: value for name, value in model.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(weights)
    for way in (model, Engine(model)):
        assert relative_error(Intervention(mode="identity").run(way, tokens), plain(tokens)) < TIGHT


@EXAMPLES
@given(st.integers(0, 2**31 - 1), configurations())
def test_a_seed_gives_the_same_bits_and_another_gives_others(seed, cfg):
    one, two, other = (HookedDCFormer(cfg, seed=number) for number in (seed, seed, seed + 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed.W_E, other.embed.W_E)
