"""config.json of model directories in every layout."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.fuzzing.checkpoint_files import ERRORS, directories, load
from tests.fuzzing.component import Component
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json

FILE = "config.json"
NEIGHBOURS = (
    "dcformer", "dcpythia", "gpt_neox", "dcformer-workbench", "LG", "LGLL", "LGL6", "RMS", "LN", "silu", "gelu",
    "standard", "rotary", "query", "key", "pre", "post", "float16", "float64",
)  # fmt: skip
"""Words that mean something in some place of some layout."""


def component() -> Component:
    return Component("config", lambda: directories("whole"), harm, load, ERRORS)


def harm(draw: Draw, files: Files) -> str:
    if draw(st.integers(0, 5)) == 0:
        files[FILE], told = harm_bytes(draw, files[FILE])
    else:
        files[FILE], told = harm_json(draw, json.loads(files[FILE]), VALUES | st.sampled_from(NEIGHBOURS))
    return told
