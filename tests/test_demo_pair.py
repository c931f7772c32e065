"""The bundled pair: what a person who types a prompt may count on, and what its training rows promise."""

from __future__ import annotations

import random

import pytest
import torch

from model import DCFormerConfig, Engine, HookedDCFormer, load_model
from probes.tasks import FAMILIES, RULES, score
from studies.demo_pair import corpus
from studies.demo_pair.corpus import ROWS, STAGES, Words
from studies.demo_pair.export import ZOO
from studies.demo_pair.heads import EXPLAINED, HeadOff, without
from studies.demo_pair.measure import held_out, mixing_distances, repeat_accuracy
from studies.demo_pair.start import heads_that_copy
from studies.demo_pair.vocabulary import listed_words, task_tokenizer
from tests.task_solver import solve

PAIR = ("dcformer", "transformer")


@pytest.fixture(scope="module")
def pair() -> dict[str, HookedDCFormer]:
    return {name: load_model(f"demo/{name}") for name in PAIR}


@pytest.fixture(params=PAIR)
def model(request, pair) -> HookedDCFormer:
    return pair[request.param]


@pytest.fixture(scope="module")
def tokenizer():
    return task_tokenizer()


# -- the models ------------------------------------------------------------------------------------------


def test_the_pair_differs_in_composition_alone(pair):
    composed, plain = (pair[name].cfg.to_json_dict() for name in PAIR)
    assert {key for key in composed if composed[key] != plain[key]} == {"compose", "model_name"}
    assert (composed["compose"], plain["compose"]) == (True, False)


def test_both_read_the_same_tokens(pair, tokenizer):
    first, second = (pair[name].tokenizer.get_vocab() for name in PAIR)
    assert first == second == tokenizer.get_vocab()
    assert len(first) == pair["dcformer"].cfg.d_vocab


@pytest.mark.parametrize(
    "text",
    ["John has it.", "\x00\x1b[31m\r\n\t ", "<script>alert(1)</script>", "\U0001f9d1‍\U0001f680 é", "  two  spaces ",
     "<|endoftext", "混合"],
)  # fmt: skip
def test_any_text_comes_back_from_its_tokens(model, text):
    assert model.to_string(model.to_tokens(text)[0]) == text


def test_every_listed_word_is_one_token(tokenizer):
    pieces = {word: tokenizer.tokenize(word) for word in listed_words() if " " not in word.strip()}
    assert len(pieces) > 700
    # "o'clock" and words with a hyphen are cut where every byte-level tokenizer cuts
    assert {word for word, found in pieces.items() if len(found) > 1 and word.strip().isalnum()} == set()


def test_the_composed_model_answers_held_out_rows(pair):
    table = score(pair["dcformer"], held_out(1)).table()
    assert table.exact_match["overall"] > 0.95
    for family in FAMILIES:
        # half way from chance to all
        assert table.exact_match[family] > (1 + table.chance[family]) / 2, family


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("< Mary has an apple. John has a violin. Anna has a bus. >. Who has violin?", " John"),
        ("< Mary has an apple. John has a gun. John has a bus. >. John does not have a kind of", " fruit"),
        ("There are a sword, a bee, a sword. Which is different? The", " bee"),
    ],
)
def test_a_typed_question_is_answered(pair, prompt, answer):
    model = pair["dcformer"]
    assert model.to_string(model(prompt)[0, -1].argmax()) == answer


def test_mixing_is_far_from_the_identity(pair):
    distances = mixing_distances(pair["dcformer"], held_out(1)[0].plain_text)
    for site in ("pre", "post"):
        assert max(value for name, value in distances.items() if f"/{site}/" in name) > 0.3
    assert mixing_distances(pair["transformer"], "John has it.") == {}


@pytest.fixture(scope="module")
def left(pair):
    """What is left without each explained head, and without the same number of others."""
    others = [HeadOff(layer, "post", head) for layer, head in ((1, 4), (2, 0), (3, 5))]
    return without(Engine(pair["dcformer"]), held_out(1), [*EXPLAINED, *others])


@pytest.mark.parametrize("head", EXPLAINED, ids=str)
def test_the_card_says_what_is_lost_without_a_head(left, head):
    for group, share in head.falls:
        assert left.loc[str(head), group] < share < left.loc["intact", group]
    for group, share in head.stays:
        assert left.loc[str(head), group] > share
    assert str(head) in (ZOO / "dcformer" / "MODEL_CARD.md").read_text()
    assert head.does in (ZOO / "dcformer" / "MODEL_CARD.md").read_text()


def test_other_heads_are_not_missed(left):
    assert (left.loc["intact"] - left.iloc[-3:].min()).max() < 0.05


def test_random_tokens_do_not_repeat_by_chance(model):
    first, again = repeat_accuracy(model, 20)
    assert first < 0.05
    assert again > first


# -- their training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1200, 2000, 2399, 5001])
def test_all_rows_of_a_step_have_one_length_and_follow_from_seed_and_step(tokenizer, step):
    made = [corpus.rows(0, step, number, tokenizer, 192) for number in range(6)]
    assert made == [corpus.rows(0, step, number, tokenizer, 192) for number in range(6)]
    assert len({len(part) for row in made for part in row}) == 1
    assert made != [corpus.rows(1, step, number, tokenizer, 192) for number in range(6)]
    assert made != [corpus.rows(0, step + 1, number, tokenizer, 192) for number in range(6)]


def test_stages_follow_one_another_and_the_last_uses_every_word():
    ends = [stage.until for stage in STAGES]
    assert ends[-1] is None
    assert ends[:-1] == sorted(ends[:-1])
    assert STAGES[-1].vocabulary == 1
    assert all(set(stage.shares) <= set(ROWS) for stage in STAGES)


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_has_the_asked_length_and_some_of_it_can_be_known(kind, tokenizer):
    ids, weights = ROWS[kind](random.Random(3), Words("train", 1.0), tokenizer, 77)
    assert len(ids) == len(weights) == 77
    assert all(weight > 0 for weight in weights)
    assert 0 < sum(weight > corpus.OTHER_WEIGHT for weight in weights) < 77


def test_marked_tokens_are_the_answers(tokenizer):
    ids, weights = corpus._encoded("Who has fox?| Mary|. The| fox| is| Mary|'s.", tokenizer)
    marked = [tokenizer.decode([token]) for token, weight in zip(ids, weights, strict=True) if weight == 1]
    assert marked == [" Mary", " fox", " Mary"]


def test_answers_of_a_quiz_are_right():
    rng = random.Random(4)
    for _ in range(40):
        opening, questions = corpus._quiz(rng, Words("train", 1.0)).split(">. ")
        pieces = questions.split("|")
        assert len(pieces) > 2
        for before, answer in zip(pieces[:-1:2], pieces[1::2], strict=True):
            assert solve(f"{opening}>. {before.removeprefix('. ')}") == answer


def test_a_restated_word_is_an_answer_only_where_nothing_else_could_stand():
    stated = [("Rose", "rifle"), ("Rose", "bee"), ("Paul", "bus")]
    forward, inverted = (
        [corpus._restatement(rule, *pair, stated) for pair in stated] for rule in (RULES[0], RULES[1])
    )  # fmt: skip
    assert forward == ["Rose has a rifle.", "Rose has a bee.", "Paul has a |bus|."]
    assert inverted == ["The rifle is |Rose|'s.", "The bee is |Rose|'s.", "The bus is |Paul|'s."]


def test_heads_start_as_projections_and_mixing_as_it_was():
    cfg = DCFormerConfig.from_architecture("llama", n_layers=2, d_model=16, n_heads=4, d_head=8, d_mlp=24, n_ctx=32,
                                           d_vocab=50, tie_embeddings=True)  # fmt: skip
    before, after = (HookedDCFormer(cfg, seed=3) for _ in range(2))
    heads_that_copy(after, 3)
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert not any(".mix_" in name for name in changed)
    for layer, block in enumerate(after.blocks):
        query, key, value = block.attn.wqkv.weight.chunk(3)
        assert torch.equal(query, key) == (layer > 0)
        through = block.attn.wo.weight @ value
        # two orthonormal bases of the whole space, half as large on each side
        torch.testing.assert_close(through, 0.5 * torch.eye(16), atol=1e-5, rtol=0)
