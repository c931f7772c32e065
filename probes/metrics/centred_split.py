"""Shares of constant, query and key part of mixing in the centred split, and how dynamic mixing is."""

from __future__ import annotations

from math import inf

import torch

from model.config import SITES
from probes.metrics.kinds import MixingMetric
from probes.metrics.site_moments import SiteMoments

SPLIT = (
    "Centred split: M = C + (Q(i) - E[Q]) + (K(j) - E[K]) with C = base + E[Q] + E[K], identity included. Expectations "
    "run over query and key tokens drawn independently from all tokens of the given captures, whether or not the one "
    "sees the other; the three squared Frobenius norms then sum to E ||M||^2."
)
SHARE_RANGES = dict.fromkeys(SITES, (0.0, 1.0))


def _share(part: float, *others: float) -> float:
    """part / (part + others); 0 where all are 0."""
    total = part + sum(others)
    return part / total if total else 0.0


def _constant(moments: SiteMoments) -> float:
    return float(moments.constant.square().sum())


def _added_constant(moments: SiteMoments) -> float:
    """||C - I||^2."""
    return float((moments.constant - torch.eye(len(moments.constant))).square().sum())


CONSTANT_SHARE = MixingMetric(
    name="constant_share",
    title="Share of the constant in mixing",
    unit="share",
    definition="||C||^2 / E ||M||^2. " + SPLIT,
    ranges=SHARE_RANGES,
    value=lambda of: _share(_constant(of), of.query_variance, of.key_variance),
    baseline=1.0,
)

QUERY_SHARE = MixingMetric(
    name="query_share",
    title="Share of the query token in mixing",
    unit="share",
    definition="E ||Q(i) - E[Q]||^2 / E ||M||^2. " + SPLIT,
    ranges=SHARE_RANGES,
    value=lambda of: _share(of.query_variance, of.key_variance, _constant(of)),
    baseline=0.0,
)

KEY_SHARE = MixingMetric(
    name="key_share",
    title="Share of the key token in mixing",
    unit="share",
    definition="E ||K(j) - E[K]||^2 / E ||M||^2. " + SPLIT,
    ranges=SHARE_RANGES,
    value=lambda of: _share(of.key_variance, of.query_variance, _constant(of)),
    baseline=0.0,
)

ADDED_CONSTANT_SHARE = MixingMetric(
    name="added_constant_share",
    title="Share of the constant in what mixing adds to the identity",
    unit="share",
    definition="||C - I||^2 / E ||M - I||^2, 0 where M = I: the constant's share with the identity left out. " + SPLIT,
    ranges=SHARE_RANGES,
    value=lambda of: _share(_added_constant(of), of.query_variance, of.key_variance),
    baseline=0.0,
)

DYNAMIC_RATIO = MixingMetric(
    name="dynamic_ratio",
    title="How dynamic: variance of mixing over its mean",
    unit="ratio of squared norms",
    definition=(
        "(E ||Q(i) - E[Q]||^2 + E ||K(j) - E[K]||^2) / ||C||^2: the variance of M over tokens against the squared norm "
        "of its mean; 0 where mixing does not depend on its tokens. " + SPLIT
    ),
    ranges=dict.fromkeys(SITES, (0.0, inf)),
    value=lambda of: _ratio(of.query_variance + of.key_variance, _constant(of)),
    baseline=0.0,
)


def _ratio(part: float, whole: float) -> float:
    """part / whole; 0 where nothing varies, whatever the mean."""
    if not part:
        return 0.0
    return part / whole if whole else inf
