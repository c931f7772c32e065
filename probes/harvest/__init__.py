"""Running a corpus through a model and keeping features of its tokens: see docs/store.md."""

from probes.harvest.estimate import Estimate
from probes.harvest.harvest import estimate, harvest
from probes.harvest.request import Keep

__all__ = ["Estimate", "Keep", "estimate", "harvest"]
