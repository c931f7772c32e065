"""What a study found and did not find, in sentences made from its tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from probes.probing import SCORES
from probes.probing.scores import Score
from probes.study.spec import Study

ALPHA = 0.05
SAYS = {
    "constant": "what needs no features (the constant guess)",
    "shuffled_labels": "shuffled labels",
    "control_task": "a control task (selectivity)",
    "position": "the token's position alone",
    "token_identity": "a lookup of the token",
    "residual": "the residual stream that they are computed from",
    "residual_pca": "as many principal components of that residual stream",
    "residual_projection": "a random projection of that residual stream to as many dimensions",
    "random_init": "the same features of the model with random weights",
}
CONTROLS = ("constant", "shuffled_labels", "control_task", "position")
"""The references that what is called readable must beat: none of them knows what the label means."""
GROUP = ["model", "label", "probe", "feature"]


@dataclass(frozen=True)
class Finding:
    """What one kind of feature of one model says about one label. found: readable beyond every control, somewhere.

    best: the row of the best cell. text: in words. against: reference -> (cells better, cells worse, cells). beside:
    the same of references that are no controls, after what they get at the best cell: "0.925 (+0 -8 of 8)".
    """

    model: str
    label: str
    probe: str
    feature: str
    found: bool
    best: pd.Series
    text: str
    beside: dict[str, str]
    against: dict[str, tuple[int, int, int]]


def findings(table: pd.DataFrame, study: Study) -> list[Finding]:
    """One for each model, label, probe and kind of feature, by the study's score.

    A cell is better than a reference where p after Holm's correction (over cells, labels and probes with this score
    and reference) is below 0.05, and worse where the whole interval of the difference lies on the other side. With
    several seeds, where this holds with each.
    """
    return [_finding(part[part.score == score_of(part, study)]) for _, part in table.groupby(GROUP, sort=False)]


def score_of(rows: pd.DataFrame, study: Study) -> str:
    """The study's score, or the one that stands for it where a label or a probe does not have it.

    Raises:
        ValueError: a table that has none of them: it is damaged.
    """
    there, known = set(rows.score), (study.score, "balanced_accuracy", "r2", "compression")
    for name in known:
        if name in there:
            return name
    raise ValueError(f"The results have none of the scores {', '.join(known)}. They are damaged: run the study again.")


def controls(study: Study) -> tuple[str, ...]:
    """The controls that a study has."""
    return tuple(name for name in CONTROLS if study.references is None or name in study.references)


def _finding(part: pd.DataFrame) -> Finding:
    score = SCORES[str(part.score.iloc[0])]
    higher = score.better == "higher"
    cells = part.groupby(["layer", "where"]).value.mean()
    layer, where = cells.idxmax() if higher else cells.idxmin()
    at_best = part[(part.layer == layer) & (part["where"] == where)]
    best = at_best[at_best.seed == at_best.seed.min()].iloc[0]
    against = {str(name): _counts(rows, higher) for name, rows in part.groupby("against", sort=False)}
    needed = [name for name in CONTROLS if name in against]
    beats = [set(_cells(part[part.against == name], higher)) for name in needed]
    both = set.intersection(*beats) if beats else set()
    text = " ".join(_sentences(best, against, needed, len(both), score))
    beside = {name: _beside(name, at_best, counts) for name, counts in against.items() if name not in needed}
    return Finding(best.model, best.label, best.probe, best.feature, bool(both), best, text, beside, against)


def _cells(rows: pd.DataFrame, higher: bool) -> Iterator[tuple[int, str]]:
    """Cells that are better than a reference with every seed."""
    for place, seeds in rows.groupby(["layer", "where"]):
        if (seeds.p_holm < ALPHA).all():
            yield place  # type: ignore[misc]


def _counts(rows: pd.DataFrame, higher: bool) -> tuple[int, int, int]:
    places = rows.groupby(["layer", "where"])
    worse = places.apply(lambda of: ((of.difference_high < 0) if higher else (of.difference_low > 0)).all())
    return len(list(_cells(rows, higher))), int(worse.sum()), places.ngroups


def _sentences(
    best: pd.Series, against: dict[str, tuple[int, int, int]], needed: list[str], readable: int, score: Score
) -> Iterator[str]:  # fmt: skip
    cells = next(iter(against.values()))[2]
    verdict = f"is readable from {best.feature}" if readable else f"was not shown to be readable from {best.feature}"
    yield (
        f"{best.label} {verdict} by the {best.probe} probe beyond every control in {readable} of {cells} places. "
        f"Best at {named_place(best)}: {score.title.lower()} {best.value:.3f} [{best.low:.3f}, {best.high:.3f}]."
    )
    for name in needed:
        better, _, of = against[name]
        if better < of:
            yield f"Not better than {SAYS[name]} in {of - better} of {of}."


def _beside(name: str, at_best: pd.DataFrame, counts: tuple[int, int, int]) -> str:
    reference = at_best[at_best.against == name].reference.iloc[0]
    return f"{reference:.3f} (+{counts[0]} -{counts[1]} of {counts[2]})"


def named_place(row: pd.Series) -> str:
    """layer 3, post"""
    if row.layer < 0:
        return "the whole model"
    return f"layer {row.layer}" + (f", {row['where']}" if row["where"] else "")
