"""A study's file is checked whole before anything is harvested, and what is wrong is said in one sentence."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from probes.study import Study
from tests.study_runs import written

GOOD = {
    "title": "A study", "models": "demo/dcformer", "data": "tasks:rows=1", "features": "parts", "labels": ["task_role"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labelz": ["x"]}, "unknown key labelz. Known keys: analyses"),
        ({"title": None}, "title must be text, got None"),
        ({"title": 5}, "title must be text, got 5"),
        ({"labels": []}, "labels is empty. Name at least one"),
        ({"features": []}, "features is empty"),
        ({"data": []}, "data is empty"),
        ({"seeds": []}, "seeds is empty"),
        ({"analyses": []}, "analyses is empty"),
        ({"references": []}, "references is empty"),
        ({"probes": []}, "probes is empty"),
        ({"models": []}, "models is empty"),
        ({"models": {}}, "models is empty"),
        ({"labels": {"a": 1}}, "labels must be a list"),
        ({"labels": [True]}, "holds True. YAML reads yes"),
        ({"features": [3]}, "features must be a list of names, and holds 3"),
        ({"seeds": ["a"]}, "seeds must be a list of whole numbers, and holds 'a'"),
        ({"probes": ["lasso"]}, "Unknown probe 'lasso'. Choose from linear"),
        ({"score": "f1"}, "score has an unknown 'f1'. Choose from accuracy"),
        ({"references": ["luck"]}, "references has an unknown 'luck'. Choose from constant"),
        ({"analyses": ["magic"]}, "analyses has an unknown 'magic'. Choose from probing"),
        ({"numbers": ["height"]}, "numbers names 'height', which is not among labels. Add it there"),
        ({"keep": {"evry": 2}}, "keep has an unknown key evry"),
        ({"keep": {"every": "two"}}, "keep.every must be a whole number, got 'two'"),
        ({"keep": {"every": 0}}, "every n-th token is kept, n at least 1"),
        ({"keep": {"label": "casing"}}, "belong together"),
        ({"keep": 4}, "keep must be a group of fields"),
        ({"models": ["no/such/step-*"]}, "no directory matches 'no/such/step-*'"),
        ({"models": {"a": "demo/dcformer", "a-random": "demo/dcformer"}}, "two of them would keep what they have"),
        ({"folds": 2}, "folds must be at least 3, got 2"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"drop_rare": "maybe"}, "drop_rare must be true or false"),
    ],
)
def test_a_bad_study_is_refused_in_one_sentence_that_names_its_place(tmp_path, changes, message):
    path = written(tmp_path / "bad.yaml", GOOD | changes)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Study.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_long_value_is_shortened(tmp_path):
    path = written(tmp_path / "bad.yaml", GOOD | {"title": {"a": "x" * 5000}})
    with pytest.raises(ValueError, match=r"title must be text, got \{'a': 'x{9,299} \.\.\. x{9,299}'\}\.$"):
        Study.read(path)


@pytest.mark.parametrize("name", ["title", "models", "data", "features", "labels"])
def test_a_missing_key_is_named(tmp_path, name):
    path = written(tmp_path / "bad.yaml", {key: value for key, value in GOOD.items() if key != name})
    with pytest.raises(ValueError, match=f"bad.yaml lacks {name}"):
        Study.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: [", "cannot be read as YAML"),
        ("- a\n- b\n", "must hold the fields of a study, got list"),
        ("", "NoneType"),
    ],
)
def test_what_is_no_study_is_said_so(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Study.read(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match=r"missing\.yaml cannot be read"):
        Study.read(tmp_path / "missing.yaml")


def test_one_value_stands_for_a_list_and_patterns_for_directories(tmp_path):
    for step in ("a/step-2", "b/step-2", "b/step-1"):
        (tmp_path / step).mkdir(parents=True)
    assert Study.from_dict(GOOD).data == ("tasks:rows=1",)
    of_b = Study.from_dict(GOOD | {"models": f"{tmp_path}/b/step-*"})
    assert of_b.models == {"step-1": f"{tmp_path}/b/step-1", "step-2": f"{tmp_path}/b/step-2"}
    of_both = Study.from_dict(GOOD | {"models": [f"{tmp_path}/*/step-*"]})
    assert sorted(of_both.models.values()) == sorted(
        f"{tmp_path}/{step}" for step in ("a/step-2", "b/step-2", "b/step-1")
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"a\nb": 1}, "unknown key a b"),
        (
            {"title": "t", "models": "m", "data": "tasks", "labels": "token", "features": [{}, ["x" * 5000]]},
            "features",
        ),
    ],
)
def test_what_a_damaged_study_holds_is_told_in_one_short_line(fields, words):
    with pytest.raises(ValueError, match=words) as refused:
        Study.from_dict(fields)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_results_without_any_known_score_are_damaged():
    from types import SimpleNamespace

    from probes.study.words import score_of

    with pytest.raises(ValueError, match="none of the scores f1, balanced_accuracy, r2, compression"):
        score_of(pd.DataFrame({"score": ["another"]}), SimpleNamespace(score="f1"))
