"""Models that are unusual but right, or cannot be right: a right answer, or one clear sentence, on every way in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from model import Engine, capture, load_model, save_model
from probes import Intervention
from probes.metrics.registry import HEAD_METRICS
from tests.checkpoint_dirs import random_model, word_tokenizer
from tests.models import relative_error, small_model, some_tokens
from tests.reference import forward
from workbench.cli import main

STRANGE = {
    "one head": {"n_heads": 1},
    "one layer": {"n_layers": 1, "visible_keys": None},
    "seven heads": {"n_heads": 7},
    "one head of two dimensions": {"n_heads": 1, "d_head": 2},
    "tied": {"tie_embeddings": True},
    "a context of one": {"n_ctx": 1},
    "a vocabulary of one": {"d_vocab": 1},
    "one key visible": {"visible_keys": (1, 1, 1)},
    "rank above the heads": {"rank": 9},
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_unusual_model_is_right_on_every_way_in(name, tmp_path):
    model = small_model("static and dynamic", **STRANGE[name])
    cfg, length = model.cfg, min(4, model.cfg.n_ctx)
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", device="cpu")
    tokens = some_tokens(1, length, vocabulary=cfg.d_vocab)
    truth = torch.from_numpy(forward(model, tokens[0].tolist())[0])
    run = capture(loaded, tokens)
    for logits in (loaded(tokens)[0], Engine(loaded)(tokens)[0], run.logits):
        assert relative_error(logits.reshape(truth.shape), truth) < 1e-6
    twin = Intervention(mode="identity").run(loaded, tokens)
    assert relative_error(twin, Intervention(mode="identity").run(Engine(loaded), tokens)) < 1e-9
    for metric in HEAD_METRICS:
        try:
            values = metric(run, 0, "raw")
        except ValueError as error:
            assert str(error).endswith(".")  # no query that counts in a prompt this short, say  # noqa: PT017
        else:
            assert values.shape == (cfg.n_heads,)
            assert values.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_never_become_numbers(value, tmp_path):
    model = random_model()
    model.tokenizer = word_tokenizer()
    with torch.no_grad():
        model.blocks[1].mlp.w_in.weight[0, 0] = value
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", device="cpu")
    tokens = some_tokens(1, 5, vocabulary=31)
    assert not torch.isfinite(loaded(tokens)).all()
    assert not torch.isfinite(Engine(loaded)(tokens)).all()
    told = CliRunner().invoke(
        main, ["inspect", "--model", str(tmp_path / "m"), "--prompt", "w2 w3 w4", "--json", "-", "--device", "cpu"]
    )
    assert told.exit_code == 2, told.output
    assert "Error: " in told.output
    assert "Traceback" not in told.output


def test_a_vocabulary_larger_than_the_tokenizers_is_right_and_ids_without_text_are_shown(tmp_path):
    model = random_model(d_vocab=50)
    model.tokenizer = word_tokenizer(31)
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", device="cpu")
    tokens = torch.tensor([[2, 49, 40]])
    np.testing.assert_allclose(
        loaded(tokens)[0].detach().numpy(), forward(loaded, [2, 49, 40])[0], rtol=1e-3, atol=1e-4
    )
    assert len(loaded.to_str_tokens(tokens)) == 3
    told = CliRunner().invoke(
        main, ["inspect", "--model", str(tmp_path / "m"), "--prompt", "w2 w3", "--json", "-", "--device", "cpu"]
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.output[told.output.index("{") :])["tokens"] == [2, 3]
