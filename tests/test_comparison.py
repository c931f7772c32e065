"""Comparisons align tokens and heads, and their numbers are those of the single runs."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from model import Engine, HookedDCFormer, capture
from probes import uncomposed_twin
from probes.comparison import compare
from tests.models import small_config, small_model, some_tokens
from workbench.cli import main

T = 11


@pytest.fixture(scope="module")
def model():
    return small_model("llama windows")


def relabelled(model: HookedDCFormer, order: list[int]) -> HookedDCFormer:
    """The same function with the heads of every layer in another order."""
    twin = HookedDCFormer(model.cfg.replace(), seed=None)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    heads, width = model.cfg.n_heads, model.cfg.d_head
    for name, value in state.items():
        if "wqkv" in name:
            state[name] = value.view(3, heads, width, *value.shape[1:])[:, order].reshape(value.shape)
        elif "attn.wo.weight" in name:
            state[name] = value.view(-1, heads, width)[:, order].reshape(value.shape)
        elif "mix_factors" in name:
            state[name] = value[..., order]
        elif "mix_gates" in name:
            state[name] = value[:, order]
    twin.load_state_dict(state)
    return twin


def test_a_model_and_its_twin(model):
    tokens = some_tokens(T)
    found = compare(model, uncomposed_twin(), tokens)
    a = capture(model, tokens)
    with uncomposed_twin().applied(model):
        b = capture(model, tokens)
    assert found.pairing == "same"
    assert "off the distribution" in found.note
    assert found.pairs == [(i, i) for i in range(T)]
    p, q = (run.logits.double().log_softmax(-1) for run in (a, b))
    np.testing.assert_allclose(found.tokens.kl, (p.exp() * (p - q)).sum(-1), atol=1e-6)
    np.testing.assert_allclose(found.tokens.loss_a[:-1], -p[range(T - 1), tokens[1:]], atol=1e-6)
    assert np.isnan(found.tokens.loss_b.iloc[-1])
    row = found.heads[(found.heads.layer == 1) & (found.heads.head_a == 2)].iloc[0]
    truth = (a.pattern(1)[2] - b.pattern(1)[2]).abs().sum(-1).mean()
    assert row.head_b == 2
    assert row.distance == pytest.approx(float(truth), abs=1e-6)
    assert found.summary["loss_b"] == pytest.approx(float(found.tokens.loss_b.mean()))


def test_heads_of_another_training_are_matched(model):
    order = [2, 0, 3, 1]
    found = compare(model, relabelled(model, order), some_tokens(T))
    assert found.pairing == "matched"
    assert found.tokens.kl.abs().max() < 1e-6
    assert all(order[row.head_b] == row.head_a for row in found.heads.itertuples())
    metrics = found.metrics(["entropy", "row_sum"])
    assert metrics.difference.abs().max() < 1e-5
    assert len(metrics) > 0


def test_models_of_other_shapes_are_left_unpaired(model):
    found = compare(model, small_model("llama", n_layers=2), some_tokens(T))
    assert found.pairing == "unpaired"
    assert found.heads.empty
    assert found.metrics().empty
    assert found.summary["most_changed"] == {}


def test_another_prompt_is_aligned_by_its_tokens(model):
    tokens = torch.arange(T)
    other = torch.cat([torch.tensor([30, 31]), tokens[:5], torch.tensor([33]), tokens[6:]])
    found = compare(model, model, tokens, other_prompt=other)
    assert found.pairs == [*((i, i + 2) for i in range(5)), *((i, i + 2) for i in range(6, T))]
    assert found.pairing == "same"
    assert list(found.tokens.position_b) == [j for _, j in found.pairs]


def test_engines_compare_as_models_do(model):
    tokens = some_tokens(T)
    by_model, by_engine = compare(model, uncomposed_twin(), tokens), compare(Engine(model), uncomposed_twin(), tokens)
    pd.testing.assert_frame_equal(by_model.tokens, by_engine.tokens, atol=1e-6)


def test_what_cannot_be_compared_is_refused(model):
    with pytest.raises(ValueError, match="share no token"):
        compare(model, model, torch.arange(5), other_prompt=torch.arange(10, 15))
    with pytest.raises(ValueError, match=r"\(layers, heads\) \(3, 4\) and \(2, 4\)"):
        compare(model, small_model("llama", n_layers=2), some_tokens(T), same_heads=True)
    other = HookedDCFormer(small_config("llama windows", d_vocab=41), seed=0)
    assert compare(model, other, some_tokens(T)).tokens.kl.isna().all()


# -- the command -----------------------------------------------------------------------------------

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"


def run(*arguments: str):
    return CliRunner().invoke(main, ["compare", "--prompt", PROMPT, *arguments])


def test_the_command_writes_what_it_found(tmp_path):
    done = run("--twin", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "uncomposed twin (b)" in done.output
    assert "off the distribution" in done.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    tokens = pd.read_csv(tmp_path / "tokens.csv")
    assert summary["aligned_tokens"] == len(tokens)
    assert summary["loss_a"] == pytest.approx(tokens.loss_a.mean())
    assert {"layer", "head_a", "metric", "a", "b"} <= set(pd.read_csv(tmp_path / "metrics.csv").columns)


def test_the_command_knows_every_second_side(tmp_path):
    text, change = tmp_path / "corpus.txt", tmp_path / "change.json"
    text.write_text("Mary has an apple.\n\nJohn likes Tokyo.\n")
    change.write_text('[{"layers": [1], "mode": "identity"}]')
    for arguments, words in (
        (["--with", "demo/transformer"], "demo/transformer (b)"),
        (["--frozen", str(text)], "mixing frozen to its mean (b)"),
        (["--change", str(change)], "changed (b)"),
        (["--other-prompt", PROMPT.replace("Mary", "Anna")], "other prompt (b)"),
    ):
        done = run(*arguments)
        assert done.exit_code == 0, done.output
        assert words in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to compare with was given. Name one"),
        (["--twin", "--with", "demo/transformer"], "--with and --twin were given"),
        (["--with", "demo/nothing"], "demo/nothing"),
        (["--twin", "--model", "demo/transformer"], "composition is off"),
        (["--twin", "--out", f"{__file__}/here"], "here cannot be made (Not a directory). Name another"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
