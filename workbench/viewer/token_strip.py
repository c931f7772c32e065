"""The prompt as a strip of tokens, shaded by one row of a map: click chooses the query, shift-click the key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import streamlit as st

from workbench.viewer.view import max_abs, visible_token

_HERE = Path(__file__).parent / "js"
_mount = st.components.v2.component(
    "dcformer_token_strip",
    html='<div class="strip" role="listbox" aria-label="Tokens of the prompt" data-testid="token-strip"></div>',
    css=(_HERE / "token_strip.css").read_text(),
    js=(_HERE / "token_strip.js").read_text(),
)


def token_strip(
    tokens: Sequence[str], weights: np.ndarray, query: int, key: int, *, widget_key: str,
    on_query: Callable[[int], None], on_key: Callable[[int], None],
) -> None:  # fmt: skip
    """Draw the tokens.

    Args:
        weights: one signed value a token, shown as its shade on a diverging scale; NaN leaves it plain.
        query, key: the chosen positions, outlined.
        on_query, on_key: called with a position before the page runs again.
    """

    def chosen(name: str, act: Callable[[int], None]) -> Callable[[], None]:
        def callback() -> None:
            position = getattr(st.session_state.get(widget_key), name, None)
            if type(position) is int and 0 <= position < len(tokens):
                act(position)

        return callback

    scale = max_abs(np.asarray(weights, dtype=float))
    shades = [None if not np.isfinite(w) else round(float(w) / scale, 3) for w in weights]
    _mount(
        key=widget_key,
        data={"tokens": [visible_token(t) for t in tokens], "shades": shades, "query": query, "key": key},
        on_query_change=chosen("query", on_query), on_key_change=chosen("key", on_key),
    )  # fmt: skip
