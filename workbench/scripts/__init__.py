"""Views as scripts: the text of a program that gives a view's numbers with the library alone.

A script prints its numbers as one JSON object in its last line, so that it can be read by a person and by a test. A new
page adds a file here and its name to the list below.
"""

from workbench.scripts.comparison import compare_script
from workbench.scripts.generation import generation_script
from workbench.scripts.prompts import explore_script, heads_script, intervene_script, virtual_heads_script
from workbench.scripts.stores import components_script, store_script, study_script
from workbench.scripts.sweeps import sweep_script
from workbench.scripts.tasks import tasks_script

__all__ = [
    "compare_script",
    "components_script",
    "explore_script",
    "generation_script",
    "heads_script",
    "intervene_script",
    "store_script",
    "study_script",
    "sweep_script",
    "tasks_script",
    "virtual_heads_script",
]
