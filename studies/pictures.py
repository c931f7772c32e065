"""Plotly figures as PNG files for docs/images, drawn by Chromium."""

from __future__ import annotations

import tempfile
from pathlib import Path

import plotly.graph_objects as go

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLOURS = {"dcformer": "#0f62fe", "transformer": "#da1e28"}


def screenshot(figure: go.Figure, name: str) -> None:
    """Write docs/images/NAME.png; the figure's layout has its width and height in pixels."""
    from playwright.sync_api import ViewportSize, sync_playwright

    size: ViewportSize = {"width": int(figure.layout.width), "height": int(figure.layout.height)}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as player:
        page_file = Path(folder) / "figure.html"
        figure.write_html(page_file, include_plotlyjs=True, config={"staticPlot": True})
        browser = player.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=size)
        page.goto(page_file.as_uri())
        page.add_style_tag(content="body { margin: 0 }")
        page.wait_for_selector(".main-svg")
        page.screenshot(path=IMAGES / f"{name}.png")
        browser.close()
