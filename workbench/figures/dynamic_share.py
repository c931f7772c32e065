"""How much of mixing depends on the tokens, by class of token: query and key part side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.style import as_typed, finish

SEQUENTIAL = [[0.0, "#f7fcfd"], [0.5, "#66c2a4"], [1.0, "#00441b"]]
ROW_PX, MARGINS_PX = 24, 130


def dynamic_share_figure(table: pd.DataFrame, title: str) -> go.Figure:
    """Classes x places, a panel for each side.

    Args:
        table: columns side, class, place (text), share, low, high.
    """
    classes, places = (list(dict.fromkeys(table[name])) for name in ("class", "place"))
    names = [as_typed(str(name)) for name in classes]
    sides = [side for side in ("query", "key") if side in set(table.side)]
    figure = make_subplots(
        1, len(sides), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[f"{side} part" for side in sides]
    )
    for column, side in enumerate(sides, 1):
        rows = table[table.side == side]

        def grid(of: str, rows: pd.DataFrame = rows) -> np.ndarray:
            return (
                rows.pivot(index="class", columns="place", values=of).reindex(classes, columns=places).to_numpy(float)
            )

        figure.add_heatmap(
            z=grid("share"), x=[as_typed(str(at)) for at in places], y=names,
            texttemplate="%{z:.2f}", textfont={"size": 11}, coloraxis="coloraxis",
            customdata=np.stack([grid("low"), grid("high")], -1), xgap=1, ygap=1, row=1, col=column,
            hovertemplate=f"%{{y}}, %{{x}}, {side} part: %{{z:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]"
            "<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        title={"text": as_typed(title), "font": {"size": 14}},
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "colorbar": {"title": "share", "thickness": 12}},
    )
    figure.update_yaxes(autorange="reversed", type="category")  # a token may be a number
    return finish(figure, ROW_PX * len(classes) + MARGINS_PX).update_layout(margin_l=150, margin_t=80)
