"""One prompt through one model as a self-contained HTML file, or as numbers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from model import Capture
from model.whole_files import write_whole
from workbench import views
from workbench.figures import mixing_matrix_figure, source_heads_figure
from workbench.inline_plotly import figure_json, plotly_script
from workbench.viewer import fragment_html, script_html
from workbench.viewer.view import visible_token
from workbench.views import Selection

Decode = Callable[[list[int]], Any]

# autoescape: prompts, tokens and names are shown as text, whatever they hold
_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


def html_report(run: Capture, selection: Selection, model_name: str, decode: Decode) -> str:
    """The pictures of the Explore page for one selection, as one HTML document that needs nothing else."""
    maps = _one_head(run, selection)
    return templates().get_template("report.html.j2").render(
        model=model_name, cfg=run.cfg, version=version_here(), at=selection,
        tokens=[visible_token(token) for token in run.str_tokens],
        overview=Markup(fragment_html(views.overview(run, selection))),
        maps=[
            (kind, views.MEANINGS[kind], Markup(fragment_html(views.head_maps(maps, run, selection, kind))))
            for kind in views.KINDS
        ],
        cells=[_cell(run, selection, kind) for kind in views.KINDS],
        row_sum=views.read_cell(run, selection, "pattern").row_sum,
        predictions=[(visible_token(t), p) for t, p in views.next_tokens(run, selection.query, decode)],
        viewer_script=Markup(script_html()), plotly=plotly_script(),
    )  # fmt: skip


def templates() -> Environment:
    """The report templates of this package."""
    return _TEMPLATES


def numbers(run: Capture, selection: Selection, model_name: str, decode: Decode) -> dict[str, Any]:
    """What the report shows, as JSON can hold it. Scores that a query may not see are null."""
    cells = {kind: views.read_cell(run, selection, kind) for kind in views.KINDS}
    return {
        "model": model_name,
        "version": version_here(),
        "tokens": run.tokens.tolist(),
        "str_tokens": run.str_tokens,
        "selection": vars(selection),
        "distance_from_identity": {site: values.tolist() for site, values in views.distances(run).items()},
        "row": {name: _finite(values[0, 0]) for name, values in run.maps(
            selection.layer, heads=selection.head, queries=selection.query).items()},
        "cell": {
            kind: {
                "site": views.KINDS[kind],
                "visible": cell.visible,
                "raw": cell.raw.tolist(),
                "composed": cell.composed.tolist(),
                "matrix": cell.matrix.tolist(),
                "branches": {name: part.tolist() for name, part in cell.branches.items()},
            }
            for kind, cell in cells.items()
        },
        "next_tokens": [{"token": t, "probability": p} for t, p in views.next_tokens(run, selection.query, decode)],
    }  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"The folder {path.parent} does not exist. Create it, or choose another place to write."
        )
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def _cell(run: Capture, selection: Selection, kind: str) -> dict[str, Any]:
    cell = views.read_cell(run, selection, kind)
    figures = {
        "matrix": mixing_matrix_figure(cell.matrix, cell.branches, selection.head),
        "sources": source_heads_figure(cell.parts, selection.head, views.UNITS[kind]),
    }
    return {name: figure_json(figure) for name, figure in figures.items()} | {
        "kind": kind, "site": views.KINDS[kind], "raw": cell.raw[selection.head],
        "composed": cell.composed[selection.head], "composed_error": cell.composed_error,
        "branch_error": cell.branch_error,
    }  # fmt: skip


def _one_head(run: Capture, selection: Selection) -> dict[str, Tensor]:
    return {name: values[0] for name, values in run.maps(selection.layer, heads=selection.head).items()}


def _finite(values: Tensor) -> list[float | None]:
    return [value if value != float("-inf") else None for value in values.tolist()]


def version_here() -> str:
    """The workbench's own version."""
    try:
        return version("dcformer-workbench")
    except PackageNotFoundError:  # run from a checkout without installing it
        return "unreleased"
