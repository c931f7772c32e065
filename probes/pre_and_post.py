"""What head mixing brings to one number through the scores (pre-mixing) and what through the pattern (post-mixing).

Scores go through the softmax before post-mixing reads them, so the two do not add up: what each brings depends on
whether the other is there already. Both orders are given, and their mean (the Shapley value of two players).
Axes: S key, N head (source), M head (target), K d_head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from model import Capture
from model.capture import mixed_blocks, wide_direction
from model.config import SITES, DCFormerConfig
from model.functional import masked_softmax
from probes.interventions import Intervention
from probes.interventions.change import Source


@dataclass(frozen=True)
class PreAndPost:
    """One number of a run, with mixing at neither site, at one, and at both; in the number's own unit.

    The site that is off has M = I; what the number depends on otherwise is as in the run.
    """

    neither: float
    pre: float
    post: float
    both: float

    @property
    def pre_first(self) -> dict[str, float]:
        """What each site brings if pre-mixing is added first and post-mixing to it: sums to both - neither."""
        return {"pre": self.pre - self.neither, "post": self.both - self.pre}

    @property
    def post_first(self) -> dict[str, float]:
        """What each site brings if post-mixing is added first and pre-mixing to it: sums to both - neither."""
        return {"pre": self.both - self.post, "post": self.post - self.neither}

    @property
    def mean(self) -> dict[str, float]:
        """The mean of both orders (Shapley value): sums to both - neither."""
        return {site: (self.pre_first[site] + self.post_first[site]) / 2 for site in SITES}

    @property
    def interaction(self) -> float:
        """both - pre - post + neither: how much more the two bring together than each alone; 0 if the order is moot."""
        return self.both - self.pre - self.post + self.neither

    def table(self) -> pd.DataFrame:
        """A row for each order and for their mean; columns pre, post and sum."""
        rows = {"pre first": self.pre_first, "post first": self.post_first, "mean": self.mean}
        return pd.DataFrame({name: parts | {"sum": sum(parts.values())} for name, parts in rows.items()}).T


def pre_and_post(
    source: Source, input: Any, measure: Callable[[Tensor], Any], layers: Sequence[int] | None = None
) -> PreAndPost:
    """Run a prompt with mixing at neither site, at one, and at both, and measure its logits.

    Args:
        source: the hooked model, or an engine (the faster way).
        input: text, texts or ids, as the model takes them.
        measure: logits [batch, pos, d_vocab] -> one number, e.g. lambda logits: logits[0, -1, a] - logits[0, -1, b].
        layers: where mixing is taken away; the others mix as ever. None = all.
    Raises:
        ValueError: a model that does not mix at both sites, a layer that does not exist, a measure that gives
            anything but one number.
    """
    _check_both_sites(source.cfg)

    def value(*off: str) -> float:
        change = Intervention(mode="identity", sites=off, layers=layers) if off else None
        with torch.no_grad():
            return _one_number(measure(source(input) if change is None else change.run(source, input)))

    return PreAndPost(neither=value(*SITES), pre=value("post"), post=value("pre"), both=value())


def pre_and_post_of_layer(run: Capture, layer: int, query: int, direction: Tensor) -> PreAndPost:
    """The same for the attention output of one layer at one query along a direction, without b_O; from a capture alone.

    Queries, keys, values and mixing matrices stay as they were in the run: only this layer's own maps change.
    Args:
        direction: [d_model]; for a logit, see probes.virtual_heads.logit_direction.
    Raises:
        ValueError: a model that does not mix at both sites; a layer, query or direction that does not fit the capture.
    """
    _check_both_sites(run.cfg)
    at, seen = run.layers[run.layer_index(layer)], run.keys_seen(layer, query)
    value_SM = at.values_along(seen, wide_direction(direction, run.cfg))

    def with_post(pattern_NS: Tensor) -> float:
        blocks = mixed_blocks(pattern_NS, at.post, seen.stop - 1, seen)
        return sum(float(torch.einsum("snm,sm->", mixed_SNM, value_SM[keys])) for keys, mixed_SNM in blocks)

    def without_post(pattern_NS: Tensor) -> float:
        return float(torch.einsum("ns,sn->", pattern_NS.double(), value_SM))

    unmixed_NS, mixed_NS = masked_softmax(run.row(layer, "scores_raw", query)), run.row(layer, "pattern_raw", query)
    return PreAndPost(without_post(unmixed_NS), without_post(mixed_NS), with_post(unmixed_NS), with_post(mixed_NS))


def _check_both_sites(cfg: DCFormerConfig) -> None:
    if set(cfg.mixed_sites) != set(SITES):
        mixed = f"site {cfg.mixed_sites[0]!r} only" if cfg.mixed_sites else "neither site"
        raise ValueError(
            f"This model mixes heads at {mixed}, so there is nothing to divide between 'pre' and 'post'. "
            "Take a model that mixes at both."
        )


def _one_number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"measure must give one number, got shape {tuple(value.shape)}. Take one entry, or a mean.")
    return float(value)
