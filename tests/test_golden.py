"""The published implementation's own numbers: every tensor of two tiny checkpoints, through hooks and capture."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model import capture, load_model
from tests.models import relative_error

GOLDEN = Path(__file__).parent / "golden"
FACTORS = {
    "qw1": "query_down", "qw2": "query_up", "qgate": "query_gate",
    "kw1": "key_down", "kw2": "key_up", "kgate": "key_gate",
}  # fmt: skip
MAPS = {
    "pre_compose.in": ("scores", "raw"), "pre_compose.out": ("scores", "composed"),
    "post_compose.in": ("pattern", "raw"), "post_compose.out": ("pattern", "composed"),
}  # fmt: skip
TOLERANCE = {"float64": 1e-5, "float32": 3e-5}


@pytest.fixture(params=["dcformer-tiny", "dcpythia-tiny"])
def golden(request):
    return GOLDEN / request.param, load_file(GOLDEN / request.param / "expected.safetensors")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_golden_tensor_is_reproduced_through_hooks(golden, dtype):
    folder, expected = golden
    model = load_model(folder, dtype=dtype)
    logits, cache = model.run_with_cache(expected["tokens"])
    seen = {"logits": logits}
    for layer in range(model.cfg.n_layers):
        attn = f"blocks.{layer}.attn"
        for site in ("pre", "post"):
            for name, ours in FACTORS.items():
                seen[f"layer{layer}.{site}.{name}"] = cache[f"{attn}.{site}.hook_{ours}"]
        seen[f"layer{layer}.pre_compose.in"] = cache[f"{attn}.hook_attn_scores_raw"]
        seen[f"layer{layer}.pre_compose.out"] = cache[f"{attn}.hook_attn_scores"]
        seen[f"layer{layer}.post_compose.in"] = cache[f"{attn}.hook_pattern_raw"]
        seen[f"layer{layer}.post_compose.out"] = cache[f"{attn}.hook_pattern"]
        seen[f"layer{layer}.resid_post"] = cache[f"blocks.{layer}.hook_resid_post"]
    compared = set(seen) | {"tokens", "decode.tokens", "decode.logits"}
    assert set(expected) <= compared
    errors = {name: _error(value, expected[name]) for name, value in seen.items()}
    assert max(errors.values()) < TOLERANCE[dtype], max(errors.items(), key=lambda item: item[1])


def test_every_golden_map_is_rebuilt_by_capture(golden):
    folder, expected = golden
    model = load_model(folder)
    for row, run in enumerate(capture(model, expected["tokens"])):
        assert relative_error(run.logits, expected["logits"][row]) < 3e-5
        for layer in range(model.cfg.n_layers):
            for name, (kind, stage) in MAPS.items():
                error = _error(getattr(run, kind)(layer, stage), expected[f"layer{layer}.{name}"][row])
                assert error < 3e-5, f"{name} of layer {layer}: {error}"
            for site in ("pre", "post"):
                factors = run.mixing(layer, site).factors.factors()
                for name, ours in FACTORS.items():
                    assert relative_error(factors[ours][0], expected[f"layer{layer}.{site}.{name}"][row]) < 3e-5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_greedy_decoding_follows_the_published_one(dtype):
    folder = GOLDEN / "dcformer-tiny"
    expected = load_file(folder / "expected.safetensors")
    model = load_model(folder, dtype=dtype)
    prompt, follow = expected["tokens"], expected["decode.tokens"]
    out = model.generate(prompt, max_new_tokens=follow.shape[1])
    assert torch.equal(out, torch.cat([prompt, follow], dim=1))
    with torch.no_grad():
        whole = model(out[:, :-1])
    assert relative_error(whole[:, prompt.shape[1] :], expected["decode.logits"]) < TOLERANCE[dtype]


def _error(given: torch.Tensor, truth: torch.Tensor) -> float:
    # the published scores are masked nowhere, ours are -inf where a query may not look
    visible = given != float("-inf")
    return relative_error(given[visible], truth[visible])
