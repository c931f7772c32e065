"""Every metric. A new one is a new file and a line here."""

from __future__ import annotations

from probes.metrics.centred_split import ADDED_CONSTANT_SHARE, CONSTANT_SHARE, DYNAMIC_RATIO, KEY_SHARE, QUERY_SHARE
from probes.metrics.first_token import FIRST_TOKEN
from probes.metrics.mixing_rank import MIXING_RANK, VARYING_RANK
from probes.metrics.off_diagonal import OFF_DIAGONAL
from probes.metrics.output_similarity import OUTPUT_SIMILARITY
from probes.metrics.pattern_cosine import PATTERN_COSINE
from probes.metrics.pattern_divergence import PATTERN_DIVERGENCE
from probes.metrics.previous_token import PREVIOUS_TOKEN
from probes.metrics.raw_to_composed import PATTERN_DISTANCE, SCORE_DIVERGENCE
from probes.metrics.repeats import DUPLICATE_TOKEN, INDUCTION
from probes.metrics.score_rank import SCORE_RANK
from probes.metrics.signs import NEGATIVE_MASS, NEGATIVE_SHARE, ROW_SUM
from probes.metrics.spread import ABSOLUTE_DISTANCE, ABSOLUTE_ENTROPY, ENTROPY, MEAN_DISTANCE
from probes.metrics.value_weighted import VALUE_WEIGHTED_FIRST_TOKEN, VALUE_WEIGHTED_NORM

HEAD_METRICS = (
    PREVIOUS_TOKEN,
    INDUCTION,
    DUPLICATE_TOKEN,
    FIRST_TOKEN,
    ENTROPY,
    ABSOLUTE_ENTROPY,
    MEAN_DISTANCE,
    ABSOLUTE_DISTANCE,
    ROW_SUM,
    NEGATIVE_MASS,
    NEGATIVE_SHARE,
    VALUE_WEIGHTED_NORM,
    VALUE_WEIGHTED_FIRST_TOKEN,
)
"""A number for each head, from its pattern, raw or composed."""

DISTANCE_METRICS = (SCORE_DIVERGENCE, PATTERN_DISTANCE)
"""A number for each head: from its raw to its composed map, one metric a site."""

DIVERSITY_METRICS = (PATTERN_COSINE, PATTERN_DIVERGENCE, OUTPUT_SIMILARITY, SCORE_RANK)
"""A number for each layer: how different its heads are, raw or composed."""

MIXING_METRICS = (
    OFF_DIAGONAL,
    CONSTANT_SHARE,
    QUERY_SHARE,
    KEY_SHARE,
    ADDED_CONSTANT_SHARE,
    DYNAMIC_RATIO,
    MIXING_RANK,
    VARYING_RANK,
)
"""A number for each layer and site: what its mixing matrices are like."""
