"""Configurations: the paper's sizes, and values that contradict each other."""

import pytest
import torch

from model import DCFormerConfig, HookedDCFormer
from model.config import PRESETS, window_pattern
from tests.models import SIZES, VARIANTS, small_config

PAPER = {  # layers, width, heads, MLP
    "dcformer-405m": (24, 1024, 16, 2816), "dcformer-834m": (24, 1536, 24, 4096),
    "dcformer-1.4b": (24, 2048, 32, 5632), "dcformer-2.8b": (32, 2560, 32, 6912),
    "dcpythia-2.8b": (32, 2560, 32, 10240), "dcpythia-6.9b": (32, 4096, 32, 16384),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_presets_have_the_papers_sizes(name):
    cfg = DCFormerConfig.preset(name)
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_mlp) == PAPER[name]
    assert (cfg.d_vocab, cfg.n_ctx, cfg.rank, cfg.use_qk_norm, cfg.rotary_base) == (50257, 2048, 2, True, 10000.0)
    neox = name.startswith("dcpythia")
    assert cfg.rotary_width == (cfg.d_head // 4 if neox else cfg.d_head)
    assert cfg.eps == (1e-5 if neox else 1e-6)
    assert cfg.parallel_attn_mlp is neox
    # DCPythia's published prefill shows window_size + 1 keys
    assert cfg.visible_keys[:3] == ((257 if neox else 256), None, (257 if neox else 256))
    assert set(PRESETS) == set(PAPER)


def test_the_405m_preset_has_about_405m_parameters():
    with torch.device("meta"):
        model = HookedDCFormer(DCFormerConfig.preset("dcformer-405m"), seed=None)
    weights = {name: p.numel() for name, p in model.named_parameters()}
    embeddings = weights["embed.W_E"] + weights["unembed.weight"]
    assert 300e6 < sum(weights.values()) - embeddings < 330e6
    assert sum(weights.values()) == pytest.approx(405e6, rel=0.05)


def test_windows_follow_the_number_of_layers_asked_for():
    assert DCFormerConfig.preset("dcformer-405m", n_layers=3).visible_keys == (256, None, 256)
    assert window_pattern("LGLL", 5, 6) == (5, None, 5, 5, 5, None)
    assert window_pattern("LG", None, 6) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_json_round_trip_keeps_every_field(variant):
    cfg = small_config(variant)
    again = DCFormerConfig.from_json_dict(cfg.to_json_dict(), device=cfg.device)
    assert again == cfg
    assert again.to_json_dict() == cfg.to_json_dict()


def test_at_initialisation_mixing_is_nearly_the_identity():
    from model import capture

    model = HookedDCFormer(DCFormerConfig.preset("dcformer-405m", n_layers=2, d_vocab=97), seed=0)
    run = capture(model, torch.arange(9))
    for site in ("pre", "post"):
        distance = run.mixing(1, site).distance_from_identity()
        assert 0 < distance.max() < 0.2
    W1 = model.blocks[0].attn.mix_hidden
    assert W1.std().item() == pytest.approx((2 / (1024 + 2 * 2 * 16)) ** 0.5, rel=0.02)
    assert model.blocks[0].attn.mix_gates.std().item() == pytest.approx(0.05 * (2 / (1024 + 16)) ** 0.5, rel=0.05)


def test_the_same_seed_gives_the_same_weights():
    one, two, other = (HookedDCFormer(small_config(), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embed.W_E"], other["embed.W_E"])


CONTRADICTIONS = [
    ({"compose": False, "static_mixing": True}, "static_mixing=True contradicts compose=False"),
    ({"sides": ()}, r"compose=True contradicts sides=\(\) with static_mixing=False"),
    ({"sites": ()}, r"compose=True contradicts sites=\(\)"),
    ({"groups": 3}, "n_heads=4 cannot be cut into groups=3"),
    ({"positional_embedding_type": "standard", "rotary_dim": 4}, "rotary_dim=4 contradicts positional_embedding_type"),
    ({"rotary_dim": 5}, "rotary_dim=5 must be even"),
    ({"rotary_dim": 8}, "rotary_dim=8 .* at most d_head=6"),
    ({"visible_keys": (3, None)}, "visible_keys names 2 layers but n_layers=3"),
    ({"visible_keys": (3, None, 0)}, r"visible_keys\[2\] must be None or at least 1"),
    ({"visible_keys": (3, None, 2**64)}, r"visible_keys\[2\] must be at most 2147483647, got 18446744073709551616"),
    ({"mgate_groups": 5}, "d_mlp=28 cannot be cut into mgate_groups=5"),
    ({"mgate_groups": 7, "gated_mlp": False}, "mgate_groups=7 needs a gated MLP, but gated_mlp=False"),
    ({"eos_token_id": 37}, "eos_token_id=37 is outside the vocabulary d_vocab=37"),
    ({"n_layers": 0}, "n_layers must be a whole number from 1 to 2147483647, got 0"),
    ({"rank": 0}, "rank must be a whole number from 1"),
    ({"sites": ("pre", "middle")}, "sites=.* must be drawn from"),
    ({"sides": ("query", "query")}, "sides=.* without repeats"),
    ({"act_fn": "tanh"}, "act_fn='tanh' is not known"),
    ({"normalization_type": None}, "normalization_type=None is not known"),
    ({"dtype": "int8"}, "Unknown dtype 'int8'"),
    ({"n_haeds": 3}, "Unknown configuration field n_haeds"),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_contradictory_values_raise_and_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DCFormerConfig.from_architecture("llama", **(SIZES | changes))


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown preset 'dcformer-7b'. Choose one of dcformer-405m"):
        DCFormerConfig.preset("dcformer-7b")
    with pytest.raises(ValueError, match=r"Unknown architecture 'gpt'. Choose one of original, llama, neox"):
        DCFormerConfig.from_architecture("gpt", **SIZES)
    with pytest.raises(ValueError, match="d_model=1025 is not a multiple of n_heads=16"):
        DCFormerConfig.preset("dcformer-405m", d_model=1025)
