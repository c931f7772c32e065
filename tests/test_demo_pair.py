"""The bundled pair: what a person who types a prompt may count on, and what the generated corpus promises."""

from __future__ import annotations

import random

import pytest
import torch

from model import HookedDCFormer, load_model
from studies.demo_pair.data import DATA_KINDS, RULES, line, short_repeats, training_rows
from studies.demo_pair.evaluate import held_out, mixing_distances, score
from studies.demo_pair.tokenizer import spaced_words
from studies.demo_pair.train import train

PAIR = ("dcformer", "transformer")


@pytest.fixture(scope="module")
def pair() -> dict[str, HookedDCFormer]:
    return {name: load_model(f"demo/{name}") for name in PAIR}


@pytest.fixture(params=PAIR)
def model(request, pair) -> HookedDCFormer:
    return pair[request.param]


def test_the_pair_differs_in_composition_alone(pair):
    composed, plain = (pair[name].cfg.to_json_dict() for name in PAIR)
    assert {key for key in composed if composed[key] != plain[key]} == {"compose", "model_name"}
    assert (composed["compose"], plain["compose"]) == (True, False)


def test_both_read_the_same_tokens(pair):
    first, second = (pair[name].tokenizer for name in PAIR)
    assert first.get_vocab() == second.get_vocab()
    assert len(first) == pair["dcformer"].cfg.d_vocab


@pytest.mark.parametrize(
    "text",
    ["John has it.", "\x00\x1b[31m\r\n\t ", "<script>alert(1)</script>", "\U0001f9d1‍\U0001f680 é", "  two  spaces ",
     "<|endoftext", "混合"],
)  # fmt: skip
def test_any_text_comes_back_from_its_tokens(model, text):
    assert model.to_string(model.to_tokens(text)[0]) == text


def test_every_listed_word_is_one_token(model):
    vocabulary = model.tokenizer.get_vocab()
    assert not spaced_words(model.tokenizer.backend_tokenizer.pre_tokenizer) - set(vocabulary)


@pytest.mark.parametrize(("name", "floor"), [("dcformer", 0.95), ("transformer", 0.5)])
def test_a_few_words_over_and_over_are_continued(pair, name, floor):
    model = pair[name]
    rows = held_out("short repeats", 24, lambda rng: short_repeats(rng, model.tokenizer, 32))
    _, accuracy = score(model, rows)
    assert accuracy > floor


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [(" apple hammer violin bus apple hammer", " violin"), (" cat table milk car cat table", " milk")],
)
def test_a_typed_repeat_is_continued(model, prompt, answer):
    assert model.to_string(model(prompt)[0, -1].argmax()) == answer


def test_the_composed_model_has_an_induction_head(pair):
    model, words = pair["dcformer"], " apple hammer violin bus"
    _, cache = model.run_with_cache(words * 3)
    raw = torch.stack([cache["pattern_raw", layer, "attn"][0] for layer in range(model.cfg.n_layers)])
    queries = torch.arange(5, 12)
    # the token after the last occurrence of the query's own token stands three positions back
    assert raw[:, :, queries, queries - 3].mean(-1).max() > 0.25


def test_mixing_is_far_from_the_identity(pair):
    model = pair["dcformer"]
    distances = mixing_distances(model, model.to_tokens("John has an apple. Mary has a hammer. Who has the apple?"))
    assert distances.keys() == {"pre", "post"}
    assert all(max(by_layer) > 0.3 for by_layer in distances.values()), distances


def test_long_prompts_do_not_break(model):
    (row,) = training_rows(7, 0, model.tokenizer, rows=1, length=model.cfg.n_ctx)
    loss = model(torch.tensor([row.tokens]), return_type="loss", loss_per_token=True)[0]
    assert loss[-300:].mean() < loss[:300].mean() + 0.5


def test_rows_depend_on_seed_and_step_alone(model):
    same, again, other = (training_rows(0, step, model.tokenizer, rows=3, length=50) for step in (4, 4, 5))
    assert same == again
    assert same != other


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_a_row_has_the_asked_length_and_weighs_its_answers(kind, model):
    make, share = DATA_KINDS[kind]
    row = make(random.Random(3), model.tokenizer, 77)
    assert 0 < share < 1
    assert len(row.tokens) == len(row.answers) == len(row.weights) == 77
    assert all(weight > 0 for weight, answer in zip(row.weights, row.answers, strict=True) if answer)


@pytest.mark.parametrize("rule", RULES)
def test_a_line_has_one_answer_and_its_pieces_are_encoded_as_the_whole(rule, model):
    before, answer, after = line(random.Random(5), rule).split("|")
    pieces = [token for piece in (before, answer, after) for token in model.tokenizer.encode(piece)]
    assert pieces == model.tokenizer.encode(before + answer + after)


def test_stopped_training_goes_on_as_if_never_stopped(tmp_path):
    weights = []
    for folder, stops in (("whole", [3]), ("stopped", [2, 3])):
        (tmp_path / folder).mkdir()
        weights.append([train("dcformer", tmp_path / folder, 100, last).state_dict() for last in stops][-1])
    whole, stopped = weights
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
