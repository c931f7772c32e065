"""Every architecture against an independent NumPy float64 implementation."""

import numpy as np
import pytest
import torch

from model import capture
from tests import reference
from tests.models import VARIANTS, small_model, some_tokens


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_maps_and_matrices_equal_the_reference(variant):
    model = small_model(variant)
    tokens = some_tokens(7)
    logits, layers = reference.forward(model, tokens.tolist())
    with torch.no_grad():
        np.testing.assert_allclose(model(tokens)[0].numpy(), logits, rtol=0, atol=1e-11)
    _, cache = model.run_with_cache(tokens)
    run = capture(model, tokens)
    names = {"scores_raw": "attn_scores_raw", "scores_composed": "attn_scores",
             "pattern_raw": "pattern_raw", "pattern_composed": "pattern"}  # fmt: skip
    for layer, truth in enumerate(layers):
        for name, hook in names.items():
            cached = cache[f"blocks.{layer}.attn.hook_{hook}"][0].numpy()
            np.testing.assert_allclose(cached, truth[name], rtol=0, atol=1e-12, err_msg=f"{name} of layer {layer}")
        rebuilt = run.maps(layer)
        for name in names:
            np.testing.assert_allclose(rebuilt[name].numpy(), truth[name], rtol=0, atol=2e-6)
        for (site, i, j), matrix in truth["matrices"].items():
            np.testing.assert_allclose(run.mixing(layer, site).matrix(i, j).numpy(), matrix, rtol=0, atol=2e-6)
