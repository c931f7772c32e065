"""Comparisons align tokens and heads, and their numbers are those of the single runs."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from model import Engine, HookedDCFormer, capture
from probes import Intervention, uncomposed_twin
from probes.comparison import compare, compare_runs
from probes.examples import text_examples
from probes.measures import measured
from probes.side_by_side import same_vocabulary
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


def test_both_sides_may_be_changed(model):
    first, second = Intervention(layers=[0]), Intervention(layers=[2], mode="identity")
    runs = []
    for change in (first, second):
        with change.applied(model):
            runs.append(capture(model, some_tokens(T)))
    found = compare_runs(*runs, same_heads=True)
    log_p, log_q = (change.run(model, some_tokens(1, T))[0].log_softmax(-1).detach() for change in (first, second))
    np.testing.assert_allclose(found.tokens.kl, (log_p.exp() * (log_p - log_q)).sum(-1), atol=1e-6)


def test_means_are_those_of_the_measures(model):
    found = compare(model, uncomposed_twin(), some_tokens(T)).summary
    examples = text_examples(model, some_tokens(1, T))
    intact, changed = measured(model, examples), measured(model, examples, ["loss", "kl"], uncomposed_twin())
    assert found["predicted"] == T - 1
    truth = intact["loss"].mean, changed["loss"].mean, changed["kl"].mean
    assert (found["loss_a"], found["loss_b"], found["kl"]) == pytest.approx(truth, rel=1e-5)


def test_a_match_says_how_clear_it_is(model):
    found = compare(model, relabelled(model, [2, 0, 3, 1]), some_tokens(T))
    patterns = [run.pattern(1) for run in found.runs]
    for row in found.heads[found.heads.layer == 1].itertuples():
        far = (patterns[0][row.head_a] - patterns[1]).abs().sum(-1).mean(-1)
        assert row.distance == pytest.approx(float(far[row.head_b]), abs=1e-6)
        others = [float(value) for head, value in enumerate(far) if head != row.head_b]
        assert row.runner_up == pytest.approx(min(others), abs=1e-6)
    assert compare(model, uncomposed_twin(), some_tokens(T)).heads.runner_up.isna().all()


def test_heads_at_one_query_are_l1_of_aligned_rows(model):
    tokens = torch.arange(T)
    other = torch.cat([torch.tensor([30, 31]), tokens[:5], torch.tensor([33]), tokens[6:]])
    for b in (model, small_model("llama windows", seed=5)):
        found = compare(model, b, tokens, other_prompt=other)
        query, places = found.pairs[6], torch.tensor(found.pairs)
        at = found.heads_at(6)
        assert at[["layer", "head_a", "head_b"]].equals(found.heads[["layer", "head_a", "head_b"]])
        for row in at.itertuples():
            sides = zip(found.runs, (row.head_a, row.head_b), range(2), strict=True)
            one, two = (run.pattern(row.layer)[head, query[side], places[:, side]] for run, head, side in sides)
            assert row.distance == pytest.approx(float((one - two).abs().sum()), abs=1e-5)


def test_heads_left_over_are_unpaired(model):
    wider = small_model("llama windows", n_heads=6)
    found = compare(wider, model, some_tokens(T))
    assert found.pairing == "matched"
    assert (found.heads.groupby("layer").size() == 4).all()
    assert set(found.unpaired.side) == {"a"}
    for layer, rows in found.unpaired.groupby("layer"):
        paired = found.heads[found.heads.layer == layer].head_a
        assert sorted([*rows["head"], *paired]) == list(range(6))
    assert len(compare(model, small_model("llama", n_layers=2), some_tokens(T)).unpaired) == 3 * 4 + 2 * 4


def test_next_tokens_are_the_best_of_both_sides(model):
    found = compare(model, uncomposed_twin(), some_tokens(T))
    p, q = (run.logits[7].double().softmax(-1) for run in found.runs)
    table = found.next_tokens(7, 3)
    assert set(table.id_a) == {*p.topk(3).indices.tolist(), *q.topk(3).indices.tolist()}
    assert table.id_a.equals(table.id_b)
    np.testing.assert_allclose(table.p_a, p[table.id_a.astype(int).tolist()], atol=1e-7)
    np.testing.assert_allclose(table.p_b, q[table.id_b.astype(int).tolist()], atol=1e-7)
    assert table[["p_a", "p_b"]].max(axis=1).is_monotonic_decreasing


def test_vocabularies_that_differ_have_no_divergence_and_separate_predictions(model):
    other = HookedDCFormer(small_config("llama windows", d_vocab=41), seed=0)
    assert not same_vocabulary(model, other)
    assert same_vocabulary(model, small_model("plain"))
    found = compare(model, other, some_tokens(T))
    assert np.isnan(found.summary["same_next_token"])
    table = found.next_tokens(2, 3)
    assert len(table) == 6
    assert (table.id_a.isna() != table.id_b.isna()).all()
    assert (table.p_a.isna() == table.id_a.isna()).all()


def test_equal_sizes_do_not_make_equal_vocabularies(model):
    one, other = small_model("llama windows"), small_model("llama windows")
    one.tokenizer, other.tokenizer = (SimpleNamespace(get_vocab=lambda at=at: {"a": at}) for at in (0, 1))
    assert not same_vocabulary(one, other)
    assert not same_vocabulary(one, model)
    runs = capture(model, some_tokens(T)), capture(model, some_tokens(T))
    assert compare_runs(*runs, same_heads=True, same_ids=False).tokens.kl.isna().all()


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
