"""What features look like without any label: components, their tokens, their dimension, and whether they come back."""

from probes.components.contexts import top_tokens
from probes.components.decompose import METHODS, Components, decompose
from probes.components.dimension import IntrinsicDimension, participation_ratio, two_nn
from probes.components.stability import stability

__all__ = [
    "METHODS",
    "Components",
    "IntrinsicDimension",
    "decompose",
    "participation_ratio",
    "stability",
    "top_tokens",
    "two_nn",
]
