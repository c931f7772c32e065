"""What a study measures, and what it changes."""

from probes.interventions import Intervention, uncomposed_twin
from probes.mean_mixing import MeanMixing
from probes.perplexity import Perplexity, perplexity

__all__ = ["Intervention", "MeanMixing", "Perplexity", "perplexity", "uncomposed_twin"]
