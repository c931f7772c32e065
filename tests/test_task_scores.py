"""Scores of task answers: what was given and its foil, intervals, paired differences, and rows by name."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import load_model
from probes.examples import task_examples
from probes.measures import measured
from probes.per_sequence import PerSequence
from probes.tasks import FAMILIES, RULES, answer_token_mask, compare_scores, corrupted, generate, score
from probes.tasks.paired import sign_flip_p
from probes.tasks.rows import plain
from probes.tasks.scores import GROUPINGS
from workbench.figures import task_accuracy_figure, task_differences_figure
from workbench.task_rows import RowName, pair_example, pair_of, prompt_before
from workbench.task_runs import TaskRequest, TaskResult, asked, filtered, outcomes, short_names

NAMES = ("demo/dcformer", "demo/transformer")
# a rule of which the two models differ, whole words of several tokens, times and lists
RULE_IDS, ROWS = (9, 20, 50, 72), 3


@pytest.fixture(scope="module")
def model():
    return load_model(NAMES[0])


@pytest.fixture(scope="module")
def result():
    request = TaskRequest(NAMES, rules=RULE_IDS, rows=ROWS)
    rows = request.task_rows()
    return TaskResult(request, rows, {name: score(load_model(name), rows, batch_size=5) for name in NAMES})


# -- one by one --------------------------------------------------------------------------------------


def test_what_was_given_and_its_foil_are_those_of_a_slow_loop(model, result):
    scored = iter(result.scores[NAMES[0]].answers)
    for number, row in enumerate(result.rows):
        ids, owners = answer_token_mask(row, model.tokenizer)
        with torch.no_grad():
            probabilities = model(torch.tensor([ids]))[0].softmax(-1)
        for place, answer in enumerate(row.answers):
            one, own = next(scored), [at for at, owner in enumerate(owners) if owner == place]
            before = [probabilities[at - 1] for at in own]
            assert (one.row, one.line, one.text) == (number, 2 + place, answer.text)
            assert one.given == model.tokenizer.decode([int(p.argmax()) for p in before]).strip()
            assert one.right == (one.given == answer.text)
            assert one.first_probability == pytest.approx(float(before[0][ids[own[0]]]), abs=1e-5)
            foil = model.tokenizer.encode(f" {one.foil}", add_special_tokens=False)[0]
            assert one.foil in answer.candidates
            assert foil != ids[own[0]]
            assert one.foil_probability == pytest.approx(float(before[0][foil]), abs=1e-5)
    assert next(scored, None) is None


def test_the_foil_is_the_contrast_of_the_logit_difference(model, result):
    truth = measured(model, task_examples(model, result.rows), ["logit_difference"])["logit_difference"]
    ratios = [np.log(a.first_probability / a.foil_probability) for a in result.scores[NAMES[0]].answers]
    assert np.mean(ratios) == pytest.approx(truth.mean, rel=1e-3)


def test_what_watch_raises_ends_the_scoring(model):
    class Enough(Exception):
        pass

    told = []

    def watch(done: int, total: int) -> None:
        told.append((done, total))
        if done > 3:
            raise Enough

    with pytest.raises(Enough):
        score(model, generate([5], 7), batch_size=2, watch=watch)
    assert told == [(2, 7), (4, 7)]


# -- groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", GROUPINGS)
def test_every_grouping_holds_every_answer_once(result, by):
    table = result.scores[NAMES[1]].by(by)
    assert table.answers[:-1].sum() == table.answers["overall"] == len(RULE_IDS) * ROWS * 6
    right = (table.exact_match * table.answers)[:-1].sum()
    assert right == pytest.approx(sum(one.right for one in result.scores[NAMES[1]].answers))
    assert ((table.low <= table.exact_match + 1e-12) & (table.exact_match <= table.high + 1e-12)).all()


def test_groups_stand_in_their_order(result):
    found = result.scores[NAMES[0]]
    assert list(found.by("family").index) == [
        *(f for f in FAMILIES if f in {RULES[r].family for r in RULE_IDS}),
        "overall",
    ]
    assert list(found.by("rule").index) == [*(f"task {rule}" for rule in RULE_IDS), "overall"]
    assert list(found.by("line").index) == [*(f"line {line}" for line in range(2, 8)), "overall"]
    with pytest.raises(ValueError, match="cannot be grouped by 'day'"):
        found.by("day")


# -- intervals ---------------------------------------------------------------------------------------


def test_the_wilson_interval_is_its_formula_where_sequences_are_single_answers():
    right, n, z = 13, 29, 1.959963984540054
    share = right / n
    middle, reach = share + z * z / 2 / n, z * np.sqrt(share * (1 - share) / n + z * z / 4 / n**2)
    expected = [(middle + sign * reach) / (1 + z * z / n) for sign in (-1, 1)]
    # one sequence: nothing is known of likeness, and all answers count
    assert PerSequence(np.array([13.0]), np.array([29.0])).wilson() == pytest.approx(expected)


def test_alike_answers_of_a_sequence_count_as_one():
    whole = PerSequence(np.array([6.0] * 12 + [0.0] * 8), np.full(20, 6.0))
    single = PerSequence(np.array([1.0] * 12 + [0.0] * 8), np.full(20, 1.0))
    (low, high), (least, most) = whole.wilson(), single.wilson()
    # the variance of 20 sequences is estimated with 19 degrees of freedom, that of 20 answers is known
    assert high - low == pytest.approx(most - least, rel=0.04)
    assert high - low > 2 * np.diff(PerSequence(np.array([72.0]), np.array([120.0])).wilson())[0]


def test_intervals_cover_the_share_though_answers_of_a_row_are_alike():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(400):
        chances = rng.beta(2, 1, size=40)  # of each row; their mean is 2/3
        low, high = PerSequence(rng.binomial(6, chances).astype(float), np.full(40, 6.0)).wilson()
        hits += low <= 2 / 3 <= high
    assert 362 <= hits <= 397  # 380 expected, +- 4 standard deviations


def test_no_answers_have_no_interval():
    assert np.isnan(PerSequence(np.zeros(0), np.zeros(0)).wilson()).all()


# -- differences -------------------------------------------------------------------------------------


def test_differences_are_counted_answer_by_answer(result):
    one, other = (result.scores[name] for name in NAMES)
    table = compare_scores(one, other)
    pairs = list(zip(one.answers, other.answers, strict=True))
    for family in [*table.index[:-1], "overall"]:
        own = [(a.right, b.right) for a, b in pairs if family in ("overall", a.family)]
        assert table.loc[family, "answers"] == len(own)
        assert table.loc[family, "difference"] == pytest.approx(np.mean([a - b for a, b in own]))
        assert table.loc[family, "only_one"] == own.count((True, False))
        assert table.loc[family, "only_other"] == own.count((False, True))
    assert table.loc["overall", "difference"] > 0
    turned = compare_scores(other, one)
    np.testing.assert_allclose(turned.difference, -table.difference)
    np.testing.assert_allclose(turned.p, table.p)


def test_a_model_does_not_differ_from_itself(result):
    table = compare_scores(*[result.scores[NAMES[0]]] * 2)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert (table[["p", "p_holm"]] == 1).all(axis=None)


def test_the_test_is_the_count_of_all_signs():
    sums = np.array([3.0, 1, 0, -1, 2, 2, 0, 1])
    found = PerSequence(sums, np.full(8, 6.0))
    flipped = [abs(np.dot(signs, sums)) for signs in itertools.product((-1, 1), repeat=8)]
    assert sign_flip_p(found) == pytest.approx(np.mean(np.array(flipped) >= abs(sums.sum())))


def test_scores_of_other_rows_are_not_compared(model):
    one, other = (score(model, generate([rule], 1)) for rule in (5, 6))
    with pytest.raises(ValueError, match="of different rows"):
        compare_scores(one, other)


# -- rows by name ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [RowName(12, 3, 7, "train", 6, 1, 4), RowName(70)])
def test_a_name_is_read_back_and_makes_its_row(name):
    assert RowName.read(str(name)) == name
    made = generate(
        [name.task_id], name.index + 1, name.seed, name.split, lines=name.lines, demonstrations=name.demonstrations
    )
    assert name.row() == made[-1]


@pytest.mark.parametrize(
    "text", ["", "12", "12.0.0.dev.8.2.7", "12.0.0.held_out.8.2", "1.0.0.train.8.2.7 ", "-1.0.0.train.8.2.7"]
)
def test_text_that_names_no_row_is_refused(text):
    with pytest.raises(ValueError, match="names no task row"):
        RowName.read(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (RowName(80), "There is no task 80"),
        (RowName(8, line=8), "Line 8 of a row of 8 lines does not exist"),
        (RowName(8, lines=2, line=1), "demonstrations=2 of lines=2"),
    ],
)
def test_a_row_that_cannot_be_made_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        name.row()


@pytest.mark.parametrize("task_id", [3, 8, 40, 51, 66])  # 8 and 40 have words with a token of their own for the space
def test_a_prompt_ends_where_the_answer_is_predicted(model, task_id):
    for index, line in itertools.product(range(3), (2, 7)):
        row = RowName(task_id, index).row()
        ids, owners = answer_token_mask(row, model.tokenizer)
        first = owners.index(line - 2)
        prompt = prompt_before(row, line, model.tokenizer)
        assert model.tokenizer(prompt, add_special_tokens=False)["input_ids"] == ids[:first]


def test_a_demonstration_is_no_place_to_predict(model):
    with pytest.raises(ValueError, match="Line 1 of this row is a demonstration"):
        prompt_before(RowName(3).row(), 1, model.tokenizer)


def test_a_pair_differs_in_its_line_alone_and_in_the_answer(model):
    name = RowName(12, 0, line=5)
    pair = pair_of(name, model.tokenizer)
    whole = corrupted(name.row(), 5, model.tokenizer)
    assert pair.clean.lines == name.row().lines[:6]
    assert pair.corrupted.lines == whole.lines[:6]
    assert pair.answers == (name.row().answers[3].text, whole.answers[3].text)
    assert pair.answers[0] != pair.answers[1]
    assert len(model.to_tokens(pair.clean.plain_text)[0]) == len(model.to_tokens(pair.corrupted.plain_text)[0])


def test_of_a_pair_the_last_answer_counts_against_the_other_rows(model):
    name = RowName(12, 0, line=5)
    pair = pair_of(name, model.tokenizer)
    found = measured(model, [pair_example(model, name)], ["logit_difference", "loss"])
    ids, owners = answer_token_mask(pair.clean, model.tokenizer)
    other, _ = answer_token_mask(pair.corrupted, model.tokenizer)
    at = owners.index(3)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, at - 1]
    assert found["logit_difference"].mean == pytest.approx(float(logits[ids[at]] - logits[other[at]]), abs=1e-3)
    assert found["loss"].mean == pytest.approx(-float(logits.log_softmax(-1)[ids[at]]), abs=1e-4)
    assert found["loss"].counts.tolist() == [1]


# -- requests and results ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ()}, "No model was chosen"),
        ({"families": ("antonyms",)}, "There is no family 'antonyms'"),
        ({"rules": (74,)}, "There is no rule 74"),
        ({"rules": (60,), "families": ("antonym",)}, "None of the rules chosen is of the families"),
        ({"rows": 0}, "rows_per_rule is 0"),
        ({"split": "dev"}, "There is no split 'dev'"),
        ({"lines": 2}, "demonstrations=2 of lines=2"),
    ],
)
def test_what_cannot_be_scored_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TaskRequest(NAMES), **changes).task_rows()


def test_too_much_for_a_page_is_refused():
    with pytest.raises(ValueError, match=r"These are 22,200 answers, and 20,000 .* python -m workbench tasks"):
        TaskRequest(NAMES, rows=50).check_size()


def test_rows_are_found_by_name_and_named(result):
    for number, line in itertools.product(range(len(result.rows)), (0, 7)):
        name = result.request.name_of(number, line)
        assert name.row() == result.rows[number]
        assert result.request.number_of(name) == number
    for other in (RowName(21), RowName(20, 3), RowName(20, seed=1), RowName(20, lines=6), RowName(20, line=8)):
        assert result.request.number_of(other) is None


def test_the_tables_hold_the_scores(result):
    answers, accuracy = result.answers(), result.accuracy("rule")
    assert len(answers) == len(RULE_IDS) * ROWS * 6
    for name in NAMES:
        truth = result.scores[name]
        assert answers[f"{name}: right"].tolist() == [one.right for one in truth.answers]
        own = accuracy[accuracy.model == name].set_index("group")
        assert own.exact_match.to_dict() == truth.by("rule").exact_match.to_dict()
    assert accuracy.group.tolist() == [g for rule in RULE_IDS for g in [f"task {rule}"] * 2] + ["overall"] * 2
    assert (
        result.differences("rule").difference.tolist()
        == compare_scores(*result.scores.values(), "rule").difference.tolist()
    )
    alone = TaskResult(replace(result.request, models=NAMES[:1]), result.rows, {NAMES[0]: result.scores[NAMES[0]]})
    assert alone.differences().empty


def test_filters_keep_what_they_say(result):
    answers = result.answers()
    right = {name: answers[f"{name}: right"] for name in NAMES}
    expected = {
        "all": right[NAMES[0]] | True, "models disagree": right[NAMES[0]] != right[NAMES[1]],
        "all models wrong": ~right[NAMES[0]] & ~right[NAMES[1]],
        f"{NAMES[1]} wrong": ~right[NAMES[1]], f"{NAMES[0]} right": right[NAMES[0]],
    }  # fmt: skip
    for outcome, kept in expected.items():
        assert outcome in outcomes(list(NAMES))
        assert filtered(answers, [], [], outcome).index.tolist() == answers.index[kept].tolist()
    assert set(filtered(answers, ["person and city"], [], "all").task_id) == {20}
    assert set(filtered(answers, [], [72, 9], "all").task_id) == {9, 72}
    assert filtered(answers, ["antonym"], [9], "all").empty
    with pytest.raises(ValueError, match="Unknown outcome 'none'"):
        filtered(answers, [], [], "none")


def test_a_line_asks_what_stands_after_its_statements():
    assert asked("< Al has a bee. >. Who has bee? [ Al ]") == "Who has bee?"
    assert asked("There are a sword, a bee, a sword. Which is different? The [ bee ]") == plain(
        "There are a sword, a bee, a sword. Which is different? The"
    )


def test_models_are_called_by_their_last_names_where_these_differ():
    assert short_names(NAMES) == {NAMES[0]: "dcformer", NAMES[1]: "transformer"}
    assert short_names(["a/x", "b/x"]) == {"a/x": "a/x", "b/x": "b/x"}


# -- figures -----------------------------------------------------------------------------------------


def test_accuracies_are_drawn_with_their_intervals_beside_chance(result):
    cells = result.accuracy("family")
    chance, *models = task_accuracy_figure(cells).data
    assert [trace.name for trace in models] == list(NAMES)
    for trace in models:
        own = cells[cells.model == trace.name]
        np.testing.assert_allclose(trace.x, own.exact_match)
        np.testing.assert_allclose(trace.x + trace.error_x.array, own.high)
        np.testing.assert_allclose(trace.x - trace.error_x.arrayminus, own.low)
    assert [x for x in chance.x if x is not None][::2] == cells.drop_duplicates("group").chance.tolist()


def test_differences_are_drawn_around_0(result):
    cells = result.differences("family")
    figure = task_differences_figure(cells, "dcformer")
    zero, trace = figure.data
    assert {x for x in zero.x if x is not None} == {0.0}
    np.testing.assert_allclose(trace.x, cells.difference)
    low, high = figure.layout.xaxis.range
    assert low == -high
    assert high >= cells[["low", "high"]].abs().to_numpy().max()
