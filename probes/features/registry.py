"""Every kind of feature. A new one is a new file and a line here."""

from __future__ import annotations

from model.mixing import FACTORS
from probes.features.factors import FACTOR_KINDS
from probes.features.heads import HEAD_KINDS
from probes.features.parts import KEY_PART, QUERY_PART
from probes.features.predictions import NEXT_TOKEN_LOSS, NEXT_TOKEN_RANK
from probes.features.residual import RESIDUAL

KINDS = {
    kind.name: kind
    for kind in (QUERY_PART, KEY_PART, *FACTOR_KINDS, RESIDUAL, *HEAD_KINDS, NEXT_TOKEN_LOSS, NEXT_TOKEN_RANK)
}

GROUPS = {
    "parts": ("query_part", "key_part"),
    "factors": FACTORS,
    "gates": ("query_gate", "key_gate"),
    "predictions": ("next_token_loss", "next_token_rank"),
}
"""Names for several kinds at once."""
