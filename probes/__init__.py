"""What a study measures."""

from probes.perplexity import Perplexity, perplexity

__all__ = ["Perplexity", "perplexity"]
