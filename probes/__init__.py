"""What a study measures, and what it changes."""

from probes.comparison import Comparison, compare
from probes.harvest import Keep, harvest
from probes.interventions import Intervention, uncomposed_twin
from probes.mean_mixing import MeanMixing
from probes.metrics import diversity, head_metrics, mixing_metrics
from probes.perplexity import Perplexity, perplexity
from probes.store import Store
from probes.sweeps import sweep
from probes.virtual_heads import virtual_heads

__all__ = [
    "Comparison",
    "Intervention",
    "Keep",
    "MeanMixing",
    "Perplexity",
    "Store",
    "compare",
    "diversity",
    "harvest",
    "head_metrics",
    "mixing_metrics",
    "perplexity",
    "sweep",
    "uncomposed_twin",
    "virtual_heads",
]
