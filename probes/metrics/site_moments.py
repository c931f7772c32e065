"""Means and covariances of the mixing matrices of one layer and site over a corpus of captures.

M(i, j) = base + Q(i) + K(j), so every sum over pairs is made of sums over tokens: no pair's matrix is built.
Axes: T query, S key, N head (source), M head (target), X entry of a matrix (source * heads + target).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from model import Capture
from model.mixing import Mixing, base_matrix, side_part, windowed_sum


class SiteMoments:
    """What the mixing metrics are made of, in float64, each computed when it is first asked for.

    Unless a name says "visible", expectations run over independent pairs: the query token and the key token are drawn
    independently, each uniformly from all tokens of all captures, whether or not the one could see the other. The
    centred split of M is then orthogonal: E ||M||^2 = ||constant||^2 + query_variance + key_variance.

    Raises:
        ValueError: this model does not mix at this site.
    """

    def __init__(self, runs: Sequence[Capture], layer: int, site: str):
        cfg = runs[0].cfg
        if not cfg.mixed_sites:
            raise ValueError("This model mixes no heads (composition is off): every mixing matrix is the identity.")
        if site not in cfg.mixed_sites:
            raise ValueError(f"This model does not mix at site {site!r}. Its sites: {', '.join(cfg.mixed_sites)}.")
        self.runs, self.layer, self.site = runs, layer, site
        self.tokens = sum(map(len, runs))

    @cached_property
    def constant(self) -> Tensor:
        """C = base + E[Q] + E[K], [H, H]: what mixing would be if it did not depend on its tokens."""
        heads = self.runs[0].cfg.n_heads
        return (self._means["query"] + self._means["key"]).unflatten(0, (heads, heads))

    @cached_property
    def query_covariance(self) -> Tensor:
        """E of vec(Q - E[Q]) vec(Q - E[Q])^T, [H*H, H*H]."""
        return self._covariance("query")

    @cached_property
    def key_covariance(self) -> Tensor:
        """E of vec(K - E[K]) vec(K - E[K])^T, [H*H, H*H]."""
        return self._covariance("key")

    @property
    def query_variance(self) -> float:
        """E ||Q - E[Q]||^2, squared Frobenius norm."""
        return float(self.query_covariance.trace())

    @property
    def key_variance(self) -> float:
        """E ||K - E[K]||^2, squared Frobenius norm."""
        return float(self.key_covariance.trace())

    @cached_property
    def visible_squares(self) -> Tensor:
        """Mean of the square of each entry of M(i, j) over all pairs where query i may see key j, [H, H]."""
        heads, window = self.runs[0].cfg.n_heads, self.runs[0].cfg.keys_visible_in(self.layer)
        totals = [
            visible_square_sum(query_TX, key_SX, window)
            for query_TX, key_SX in zip(self._side("query"), self._side("key"))
        ]
        squares_X = torch.stack([total for total, _ in totals]).sum(0) / sum(pairs for _, pairs in totals)
        return squares_X.clamp(min=0).unflatten(0, (heads, heads))

    # -- sums over tokens ----------------------------------------------------------------------------

    def _side(self, side: str) -> Iterator[Tensor]:
        """base + Q(i) (side "query") or K(j) (side "key") of every token, [T, H*H] for each capture."""
        for run in self.runs:
            mixing: Mixing = run.mixing(self.layer, self.site).factors.map(lambda factor: factor.double())
            constant = base_matrix(mixing).double() if side == "query" else torch.zeros(())
            if getattr(mixing, f"{side}_gate") is None:
                matrices = constant.expand(len(run), run.cfg.n_heads, run.cfg.n_heads).double()
            else:
                matrices = constant + side_part(mixing, side)[0]
            yield matrices.flatten(1)

    @cached_property
    def _means(self) -> dict[str, Tensor]:
        return {
            side: torch.stack([matrices.sum(0) for matrices in self._side(side)]).sum(0) / self.tokens
            for side in ("query", "key")
        }

    def _covariance(self, side: str) -> Tensor:
        mean_X = self._means[side]
        total = torch.zeros(len(mean_X), len(mean_X), dtype=torch.float64)
        for matrices_TX in self._side(side):
            centred_TX = matrices_TX - mean_X
            total += centred_TX.mT @ centred_TX / self.tokens
        # matrices that are all equal differ from their mean by its rounding, which has a rank of its own
        rounding = (self.tokens * torch.finfo(total.dtype).eps) ** 2 * mean_X.square().sum()
        return total if total.trace() > rounding else torch.zeros_like(total)


def visible_square_sum(query_TX: Tensor, key_SX: Tensor, window: int | None) -> tuple[Tensor, int]:
    """Sum of (query[i] + key[j])^2 over visible pairs of one prompt, [X], and the number of these pairs.

    The square splits into a query part, a key part and a product whose sum over keys is a difference of running sums.
    """
    length = len(query_TX)
    window = length if window is None else min(window, length)
    counts_T = torch.arange(1, length + 1).clamp(max=window)
    key_sum, key_square = (windowed_sum(x[None], window)[0] for x in (key_SX, key_SX.square()))
    total = counts_T[:, None] * query_TX.square() + 2 * query_TX * key_sum + key_square
    return total.sum(0), int(counts_T.sum())
