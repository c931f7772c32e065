"""A finished study as one self-contained HTML file: what was found and what not, figures, how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from probes.probing import SCORES
from probes.study import Study, findings, read_results
from probes.study.words import SAYS, controls, named_place, score_of
from workbench.figures import dynamic_share_figure, probe_differences_figure, probe_scores_figure
from workbench.inline_plotly import figure_json, plotly_script
from workbench.report import templates, version_here

FLAT = ("constant", "position", "token_identity")
"""References that are the same for every cell of a label."""
CURVES = ("residual", "residual_pca", "random_init")
MANY_MODELS = 4
"""From so many models on (checkpoints), figures show the models along the axis."""


def study_html(folder: str | Path) -> str:
    """The report of the study in a folder."""
    study, tables, config = read_results(folder)
    found = findings(tables["probing"], study) if "probing" in tables else []
    verdicts = [
        ("What was found", [one for one in found if one.found]),
        ("What was not found", [one for one in found if not one.found]),
    ]
    sections = [(title, [figure_json(figure) for figure in figures]) for title, figures in study_figures(study, tables)]
    references = {name: SAYS[name] for one in found for name in one.beside}
    return templates().get_template("study_report.html.j2").render(
        study=study, config=config, version=version_here(), verdicts=verdicts, found=found, references=references,
        many_models=len(study.models) > 1, controls=controls(study), named_place=named_place, sections=sections,
        study_fields={name: value for name, value in study.to_dict().items() if name not in ("title", "question")},
        plotly=plotly_script() if sections else "",
    )  # fmt: skip


def study_figures(study: Study, tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, list[go.Figure]]]:
    """(heading, figures) of every part of a study."""
    if "probing" in tables:
        table = tables["probing"]
        table = table[table.seed == study.seeds[0]]
        for (label, probe), rows in table.groupby(["label", "probe"], sort=False):
            chosen = rows[rows.score == score_of(rows, study)]
            yield f"{label}, {probe} probe", list(_probing(chosen))
    if "dynamic_share" in tables:
        shares = tables["dynamic_share"].assign(place=lambda table: table.layer.astype(str) + "." + table.site)
        for (model, label), rows in shares[shares.label != "all"].groupby(["model", "label"], sort=False):
            whole = shares[(shares.model == model) & (shares.label == "all")]
            title = f"{model}: share of mixing that depends on the token, by {label}"
            yield f"Dynamic share by {label}", [dynamic_share_figure(pd.concat([rows, whole]), title)]


def _probing(rows: pd.DataFrame) -> Iterator[go.Figure]:
    score = SCORES[str(rows.score.iloc[0])]
    if rows.model.nunique() >= MANY_MODELS:
        rows = rows.assign(feature=rows.feature + "@" + _places(rows), place=rows.model)
        yield _scores(rows, score.title, score.unit)
        return
    rows = rows.assign(place=_places(rows), cell=rows.feature + "@" + _places(rows))
    for model, part in rows.groupby("model", sort=False):
        yield _scores(part, f"{model}: {score.title.lower()}", score.unit)
        better = f"{score.better} is better, * p < 0.05 after Holm"
        yield probe_differences_figure(part, f"{model}: {score.title.lower()} minus reference ({better})", score.unit)


def _scores(rows: pd.DataFrame, title: str, unit: str) -> go.Figure:
    rows = rows.sort_values("layer", kind="stable")
    cells = rows.drop_duplicates(["feature", "place"])
    first = rows[rows.feature == cells.feature.iloc[0]]
    levels, curves = {}, {}
    for name in (*FLAT, *CURVES):
        values = first[first.against == name].reference
        if len(values) and name in FLAT and values.nunique() == 1:
            levels[name] = float(values.iloc[0])
        elif len(values):
            curves[f"{name} (of {cells.feature.iloc[0]})"] = values.tolist()
    return probe_scores_figure(cells, levels, curves, title, unit)


def _places(rows: pd.DataFrame) -> pd.Series:
    return (rows.layer.astype(str) + "." + rows["where"]).str.rstrip(".").replace("-1", "all")
