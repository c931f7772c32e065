"""Changes of head mixing, as values that are applied to a model for a while.

intervention.py says what is changed and how; edits.py does it to the factors; donors.py takes values of other prompts;
directions.py takes directions out of a token's part of M; stacked.py runs several changes in one batch; written.py
turns interventions into JSON and back.
"""

from probes.interventions.change import Change, Combined
from probes.interventions.directions import WithoutDirections
from probes.interventions.intervention import MODES, Intervention, uncomposed_twin
from probes.interventions.stacked import Stacked
from probes.interventions.written import from_json, to_json

__all__ = [
    "MODES",
    "Change",
    "Combined",
    "Intervention",
    "Stacked",
    "WithoutDirections",
    "from_json",
    "to_json",
    "uncomposed_twin",
]
