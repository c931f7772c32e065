"""Effective rank of the set of mixing matrices."""

from __future__ import annotations

from math import inf

from torch import Tensor

from model.config import SITES
from probes.metrics.effective_rank import SOURCE, effective_rank
from probes.metrics.kinds import MixingMetric
from probes.metrics.site_moments import SiteMoments

PAIRS = (
    "Query and key tokens are drawn independently from all tokens of the given captures, so that the second moment is "
    "vec(C) vec(C)^T plus the covariances of Q and of K (C the constant of the centred split). "
)


def _varying(moments: SiteMoments) -> Tensor:
    return moments.query_covariance + moments.key_covariance


def _second_moment(moments: SiteMoments) -> Tensor:
    constant_X = moments.constant.flatten()
    return constant_X[:, None] * constant_X + _varying(moments)


MIXING_RANK = MixingMetric(
    name="mixing_rank",
    title="Effective rank of the mixing matrices",
    unit="matrices",
    definition=(
        "exp of the entropy of the normalised singular values of the set of all M(i, j), each a vector of H*H: 1 where "
        "every pair has the same matrix up to a factor, at most H*H. " + PAIRS + SOURCE
    ),
    ranges=dict.fromkeys(SITES, (0.0, inf)),
    value=lambda moments: effective_rank(_second_moment(moments)),
    baseline=1.0,
)

VARYING_RANK = MixingMetric(
    name="varying_rank",
    title="Effective rank of what varies in mixing",
    unit="matrices",
    definition=(
        "The same of M(i, j) - C: in how many directions mixing moves with its tokens; 0 where it does not. "
        + PAIRS
        + SOURCE
    ),
    ranges=dict.fromkeys(SITES, (0.0, inf)),
    value=lambda moments: effective_rank(_varying(moments)),
    baseline=0.0,
)
