"""The recipe and the loop: what an update is, what is written, and what stops a run."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import torch
from click.testing import CliRunner

from model import HookedDCFormer, load_model
from model.training import TrainConfig, read_runs, train
from model.training.config import model_config
from model.training.data import Given, batch, open_source
from model.training.distributed import Ranks
from model.training.metrics import read_metrics
from model.training.recipe import log_spaced_steps, make_optimizer, rate_factor
from model.training.saving import STATE, kept_models
from model.training.step import NotFiniteError, make_trainer, train_step
from tests import training_runs
from tests.training_runs import TINY, VOCABULARY, config
from workbench.cli import main


def trainer_of(settings: TrainConfig):
    model = HookedDCFormer(model_config(settings, None).replace(device="cpu"), seed=settings.seed)
    return make_trainer(model, settings, Ranks(torch.device("cpu")))


def rows_of(step: int, count: int, length: int = 9):
    made = [training_runs.rows(0, step, row, None, length) for row in range(count)]
    return torch.tensor([ids for ids, _ in made]), torch.tensor([weights for _, weights in made])


# -- the recipe ----------------------------------------------------------------------------------


def test_the_rate_rises_over_one_percent_and_falls_along_a_cosine_to_a_tenth():
    rates = [rate_factor(step, 1000, 0.01, 0.1) for step in range(1000)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == 1.0
    assert rates[10 + 989 // 2] == pytest.approx(0.55, abs=1e-3)  # half way down the cosine
    assert rates[999] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


def test_the_scheduler_gives_each_update_its_rate(tmp_path):
    settings = config(tmp_path / "out", warm_up=0.25)
    train(settings)
    written = [line["learning_rate"] for line in read_metrics(settings.out)]
    assert written == pytest.approx([0.01 * rate_factor(step, 12, 0.25, 0.1) for step in range(12)], rel=1e-12)


def test_matrices_decay_vectors_do_not_and_mixing_has_its_own_rate(tmp_path):
    settings = config(tmp_path / "out", mixing_rate=0.3, weight_decay=0.2)
    model = HookedDCFormer(model_config(settings, None), seed=0)
    groups = make_optimizer(model, settings).param_groups
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        mixing = "mix_" in name or "static_blocks" in name
        assert group["weight_decay"] == (0.2 if parameter.ndim > 1 else 0.0), name
        assert group["lr"] == pytest.approx(0.003 if mixing else 0.01), name
        assert group["betas"] == (0.9, 0.95)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_one_update_is_adamw_by_hand(tmp_path):
    """AdamW's first update moves each weight by nearly lr * sign(gradient), after decay and clipping."""
    settings = config(tmp_path / "out", clip=1e-3)
    trainer = trainer_of(settings)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    tokens, weights = rows_of(0, 8)
    loss = trainer.model(tokens, return_type="loss", loss_per_token=True)
    truth = float((loss.detach() * weights[:, 1:]).sum() / weights[:, 1:].sum())
    update = train_step(trainer, tokens, weights)
    assert update.loss == pytest.approx(truth, rel=1e-6)
    assert update.gradient_norm > 1e-3
    clipped = math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.model.parameters()))
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    for name, p in trainer.model.named_parameters():
        rate, decay = 0.01 * rate_factor(0, 12, 0.01, 0.1), 0.1 if p.ndim > 1 else 0.0
        wanted = before[name] * (1 - rate * decay) - rate * p.grad / (p.grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-4, atol=1e-6)


def test_accumulated_parts_equal_the_big_batch(tmp_path):
    whole, parts = trainer_of(config(tmp_path / "a")), trainer_of(config(tmp_path / "b"))
    for step in range(3):
        tokens, weights = rows_of(step, 8)
        first, second = train_step(whole, tokens, weights), train_step(parts, tokens, weights, accumulate=4)
        assert second.loss == pytest.approx(first.loss, rel=1e-6)
        assert second.gradient_norm == pytest.approx(first.gradient_norm, rel=1e-5)


def test_kept_steps_are_log_spaced():
    assert log_spaced_steps(4, 1000) == [1, 10, 100, 1000]
    assert log_spaced_steps(9, 10) == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert log_spaced_steps(20, 3) == [1, 2, 3]
    assert log_spaced_steps(1, 7) == [7]
    assert log_spaced_steps(0, 7) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_learns_rows_that_repeat(tmp_path, dtype):
    trainer = trainer_of(config(tmp_path / "out", dtype=dtype, steps=60))
    tokens = torch.arange(9).repeat(8, 1)
    losses = [train_step(trainer, tokens, torch.ones(8, 9)).loss for _ in range(60)]
    assert losses[0] > 3
    assert losses[-1] < 0.1
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


# -- what a run leaves ---------------------------------------------------------------------------


def test_a_run_leaves_its_model_its_checkpoints_and_its_numbers(tmp_path):
    settings = config(
        tmp_path / "out", evaluation={"generator": "tests.training_runs:rows"}, evaluation_rows=6,
        evaluator="tests.test_training:widest", compose=True,
    )  # fmt: skip
    outcome = train(settings)
    assert (outcome.step, outcome.finished) == (12, True)
    final = load_model(outcome.model)
    assert final.cfg.tie_embeddings
    assert list(kept_models(tmp_path / "out")) == [1, 3, 12]
    last = load_model(kept_models(tmp_path / "out")[12])
    assert all(torch.equal(a, b) for a, b in zip(final.parameters(), last.parameters(), strict=True))
    lines = read_metrics(settings.out)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if "held_out_loss" in line] == [5, 10, 12]
    source = open_source(settings.evaluation, Given(None, settings.length, tmp_path))
    tokens, weights = batch(source, 1_000_003, 0, range(6), 6)
    loss = final(tokens, return_type="loss", loss_per_token=True).detach()
    truth = float((loss * weights[:, 1:]).sum() / weights[:, 1:].sum())
    assert lines[-1]["held_out_loss"] == pytest.approx(truth, rel=1e-6)
    assert lines[-1]["widest"] == pytest.approx(float(final.embed.W_E.detach().abs().max()), rel=1e-6)
    assert list((tmp_path / "out" / "tensorboard").iterdir())


def widest(model) -> dict[str, float]:
    assert not model.training
    return {"widest": float(model.embed.W_E.abs().max())}


def test_the_pair_differs_in_composition_alone(tmp_path):
    path = tmp_path / "pair.yaml"
    shared = training_runs.fields(tmp_path / "pair", model=TINY | {"static_mixing": False})
    path.write_text(json.dumps(shared | {"runs": {"dcformer": {"compose": True}, "transformer": {"compose": False}},
                                         "seeds": [3, 5]}))  # fmt: skip
    found = read_runs(path)
    assert [(run.name, run.seed, run.compose) for run in found] == [
        ("dcformer", 3, True), ("dcformer", 5, True), ("transformer", 3, False), ("transformer", 5, False),
    ]  # fmt: skip
    assert found[1].out == str(tmp_path / "pair" / "dcformer" / "seed-5")
    composed, plain = (model_config(run, None).to_json_dict() for run in (found[0], found[2]))
    assert {key for key in composed if composed[key] != plain[key]} == {"compose"}
    (one,) = read_runs(path, run="transformer", seed=7, out=tmp_path / "here", steps=2)
    assert (one.seed, one.out, one.steps) == (7, str(tmp_path / "here"), 2)


def test_a_start_changes_the_weights_that_training_begins_with(tmp_path):
    settings = config(
        tmp_path / "out", start="tests.training_runs:norms_of_the_seed", seed=5, steps=1, learning_rate=1e-9
    )
    trained = load_model(train(settings).model)
    torch.testing.assert_close(trained.ln_final.w, torch.full((20,), 5.0))
    with pytest.raises(ValueError, match="start"):
        train(dataclasses.replace(settings, start=None))


def test_the_command_trains(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(training_runs.fields(tmp_path / "runs")))
    done = CliRunner().invoke(main, ["train", "--config", str(path), "--out", str(tmp_path / "one"), "--steps", "2"])
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "one" / "final").cfg.d_vocab == VOCABULARY


def test_a_preset_brings_the_papers_rate_and_sizes(tmp_path):
    settings = config(tmp_path / "out", model="dcformer-834m", learning_rate=None)
    assert settings.peak_rate == 2.5e-4
    assert (model_config(settings, None).d_model, model_config(settings, None).compose) == (1536, True)
    plain = model_config(dataclasses.replace(settings, compose=False), None)
    assert (plain.d_model, plain.compose) == (1536, False)


# -- what stops a run ----------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_before_it_touches_a_weight(tmp_path):
    trainer = trainer_of(config(tmp_path / "out"))
    with torch.no_grad():
        trainer.model.ln_final.w[3] = float("nan")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(NotFiniteError, match="loss is nan"):
        train_step(trainer, *rows_of(0, 8))
    for name, p in trainer.model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], equal_nan=True, rtol=0, atol=0)


def test_divergence_names_step_run_and_the_kept_state(tmp_path):
    training_runs.nan_weights_from_step_7.calls = 0
    settings = config(
        tmp_path / "out", name="unlucky", evaluate_every=1, evaluator="tests.training_runs:nan_weights_from_step_7"
    )
    with pytest.raises(ValueError, match=r"loss is nan at step 8 of unlucky\. The state of step 6 is kept in .*resume"):
        train(settings)
    state = torch.load(tmp_path / "out" / STATE, weights_only=True)
    assert state["step"] == 6
    assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"step": 3}, "unknown key step. Known keys"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"tokens_per_step": 18}, "Give one of rows_per_step and tokens_per_step, not both"),
        ({"rows_per_step": None, "tokens_per_step": 20}, "tokens_per_step=20 is not a multiple of length=9"),
        ({"accumulate": 3}, "8 rows a step cannot be taken in accumulate=3 equal parts"),
        ({"learning_rate": None}, "learning_rate is missing"),
        ({"learning_rate": "nan"}, "learning_rate=nan must be more than 0"),
        ({"warm_up": 5}, "warm_up=5.0 is a share"),
        ({"dtype": "float16"}, "dtype='float16' is not one of auto, bfloat16, float32"),
        ({"seed": 1_000_003}, "the seed of the held-out rows"),
        ({"length": 17}, "length=17 is more than the model's context n_ctx=16"),
        ({"compose": False}, "static_mixing=True contradicts compose=False"),
        ({"model": {"n_layers": 2}}, "needs one of preset and architecture"),
        ({"model": TINY | {"dtype": "float64"}}, "model.dtype has no effect"),
        ({"model": TINY | {"compose": False, "static_mixing": False}, "compose": True}, "contradicts model.compose"),
        ({"model": "dcformer-9b"}, "Unknown preset 'dcformer-9b'"),
        ({"start": "tests.training_runs:none"}, "start"),
        ({"evaluator": "tests.training_runs"}, "does not name a function"),
        ({"evaluator": "tests.training_runs:none"}, "cannot be imported"),
    ],
)
def test_a_wrong_configuration_is_refused_in_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        train(config(tmp_path / "out", **changes))
    assert sentence in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "asked", "sentence"),
    [
        ("steps: [1", {}, "cannot be read as YAML"),
        ("- 1", {}, "must hold the fields of a training run, got list"),
        ("steps: 3", {}, "lacks model, data, length"),
        ("seed: 1\nseeds: [1, 2]", {}, "seed=1 contradicts seeds=[1, 2]"),
        ("seeds: 3", {}, "seeds must be a list"),
        ("runs: [a]", {}, "runs in"),
        ("runs: {a: {seed: 3}}", {}, "sets seed or name"),
        ("runs: {a: {}}", {"run": "b"}, "Run 'b' is not in"),
        ("steps: 3", {"run": "b"}, "has no runs"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path, text, asked, sentence):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read_runs(path, **asked)
    assert sentence in str(caught.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files but no training run"):
        train(config(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_another_run_in_the_folder_is_refused_by_what_differs(tmp_path):
    train(config(tmp_path / "out", steps=2))
    with pytest.raises(ValueError, match=r"holds a run with steps=2, but steps=4 is asked for"):
        train(config(tmp_path / "out", steps=4))
    assert train(config(tmp_path / "out", steps=2, log_every=7)).finished
