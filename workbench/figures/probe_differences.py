"""How far each probed cell is above or below each reference, with the differences that survive correction marked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.style import DIVERGING, as_typed, finish

ROW_PX, MARGINS_PX = 22, 170


def probe_differences_figure(table: pd.DataFrame, title: str, unit: str, alpha: float = 0.05) -> go.Figure:
    """Cells x references; a star where p after Holm's correction is below alpha.

    Args:
        table: columns cell (text), against, difference, difference_low, difference_high, p_holm.
    """
    cells, references = (list(dict.fromkeys(table[name])) for name in ("cell", "against"))

    def grid(column: str) -> np.ndarray:
        return table.pivot(index="cell", columns="against", values=column).reindex(cells, columns=references).to_numpy()

    values = grid("difference").astype(float)
    stars = np.where(grid("p_holm").astype(float) < alpha, " *", "")
    text = np.vectorize(lambda value, star: "" if np.isnan(value) else f"{value:+.3f}{star}")(values, stars)
    reach = float(np.nanmax(np.abs(values))) or 1.0
    intervals = np.stack([grid("difference_low"), grid("difference_high"), grid("p_holm")], -1)
    heat = go.Heatmap(
        z=values, x=[as_typed(name).replace("_", "<br>") for name in references], y=[as_typed(name) for name in cells],
        text=text, texttemplate="%{text}",
        textfont={"size": 11}, customdata=intervals, colorscale=DIVERGING, zmin=-reach, zmax=reach, xgap=1, ygap=1,
        colorbar={"title": {"text": as_typed(unit), "side": "right"}, "thickness": 12},
        hovertemplate="%{y} against %{x}: %{z:+.3f} [%{customdata[0]:+.3f}, %{customdata[1]:+.3f}], "
        "p %{customdata[2]:.2g}<extra></extra>",
    )  # fmt: skip
    figure = finish(go.Figure(heat), ROW_PX * len(cells) + MARGINS_PX)
    figure.update_layout(title={"text": as_typed(title), "font": {"size": 14}}, margin_l=170, margin_t=108)
    figure.update_xaxes(side="top", tickangle=0)
    figure.update_yaxes(autorange="reversed")
    return figure
