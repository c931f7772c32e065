"""Learned probes with their controls.

run.py is the entry; cells.py and label.py say what is probed for what; held_out.py and shared.py fit; scores.py,
resampling.py and table.py say what was found, and references.py against what.
"""

from probes.probing.cells import ProbeCell
from probes.probing.references import REFERENCES
from probes.probing.run import probe_cells
from probes.probing.scores import SCORES
from probes.probing.table import COLUMNS

__all__ = ["COLUMNS", "REFERENCES", "SCORES", "ProbeCell", "probe_cells"]
