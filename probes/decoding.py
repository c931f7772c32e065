"""How far M is from identity at the row of each token while an engine decodes: read with a tap, step by step.

The row of query i is M(i, j) = base + Q(i) + K(j) over the keys j that it sees. The mean squared length of a column
needs only Q(i), the sum of K(j) and the sum of K(j)'s squared lengths, and the sums are carried along: a step costs the
same at every length. Axes: L layer, N head (source), M head (target).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.config import SITES, DCFormerConfig
from model.mixing import KEY_FACTORS, Mixing, side_part
from model.taps import LayerActivations

KEYS_AT_ONCE = 64
"""Keys of a prompt whose H x H matrices are built at a time."""


class DecodingDistances:
    """A tap for one prompt: with engine.tapped(distances): run a step, then ask last_row().

    Cached steps of one sequence only, from its first token on. Equal to SiteMixing.query_distances_from_identity of a
    capture of the whole text.
    """

    def __init__(self, cfg: DCFormerConfig):
        self.cfg = cfg
        windows = cfg.keys_visible
        self._groups = {window: [at for at, own in enumerate(windows) if own == window] for window in set(windows)}
        self._sums = {(site, window): _KeySums(window) for site in cfg.mixed_sites for window in self._groups}
        self._step: dict[int, dict[str, Mixing]] = {}

    def __call__(self, at: LayerActivations) -> None:
        if len(at.q) != 1 or at.key_mask is not None:
            raise ValueError(f"Distances while decoding are of one sequence without padding; {len(at.q)} were run.")
        self._step[at.layer] = dict(at.mixing)

    def last_row(self) -> dict[str, Tensor]:
        """By site, of the newest token: sqrt of the mean over its keys of |M(i, j)[:, h] - e_h|^2, [layer, head].

        Raises:
            ValueError: no step was run since the last call.
        """
        if len(self._step) != self.cfg.n_layers:
            raise ValueError(f"{len(self._step)} of {self.cfg.n_layers} layers were run. Run a whole step, then ask.")
        rows = {site: torch.zeros(self.cfg.n_layers, self.cfg.n_heads) for site in SITES}
        for (site, window), sums in self._sums.items():
            layers = self._groups[window]
            rows[site][layers] = sums.extend([self._step[layer][site] for layer in layers]).float()
        self._step = {}
        return rows


class _KeySums:
    """Sums over the keys that the newest query sees, of layers with the same window; one site."""

    def __init__(self, window: int | None):
        self.window, self.seen = window, 0
        self._kept: deque[Mixing] = deque()
        self._matrix: Tensor | float = 0.0  # sum of K(j), [L, N, M]
        self._square: Tensor | float = 0.0  # sum over j of |K(j)[:, h]|^2, [L, M]

    def extend(self, layers: Sequence[Mixing]) -> Tensor:
        """Take in a step's new tokens; the distances of its last query, [L, M]."""
        new, static = _joined(layers)
        length = len(next(iter(new.factors().values()))[0]) if new.factors() else 1
        self.seen += length
        if new.key_gate is not None:
            self._take_in(new, length)
        query = (
            torch.zeros(()) if new.query_gate is None else side_part(new.cut(queries=slice(-1, None)), "query")[:, 0]
        )
        part = query + static  # M(i, j) - I without K(j)
        count = self.seen if self.window is None else min(self.seen, self.window)
        total = count * part.square().sum(-2) + 2 * (part * self._matrix).sum(-2) + self._square
        return (total / count).clamp(min=0).sqrt()

    def _take_in(self, new: Mixing, length: int) -> None:
        if self.window is not None and length >= self.window:  # nothing earlier is seen any more
            new = new.cut(keys=slice(length - self.window, None))
            self._kept.clear()
            self._matrix = self._square = 0.0
        for block in _blocks(new, KEYS_AT_ONCE):
            self._add(block, 1)
        if self.window is not None:
            self._kept.extend(_blocks(new, 1))
            while len(self._kept) > self.window:
                self._add(self._kept.popleft(), -1)

    def _add(self, keys: Mixing, sign: int) -> None:
        matrices = side_part(keys, "key")
        self._matrix = self._matrix + sign * matrices.sum(1)
        self._square = self._square + sign * matrices.square().sum((1, 2))


def _joined(layers: Sequence[Mixing]) -> tuple[Mixing, Tensor]:
    """Layers as the sequences of one batch, and their static W, [L, N, M]; on the CPU in float64."""
    first = layers[0]
    joined = {
        name: torch.cat([getattr(mixing, name).to(factor.device) for mixing in layers]).cpu().double()
        for name, factor in first.factors().items()
    }
    heads = first.n_heads
    static = torch.stack(
        [torch.zeros(heads, heads).double() if m.static is None else m.static.cpu().double() for m in layers]
    )
    return Mixing(heads, first.groups, **joined), static  # type: ignore[arg-type]


def _blocks(mixing: Mixing, size: int) -> Iterator[Mixing]:
    """The key factors, so many keys at a time."""
    keys_only = Mixing(mixing.n_heads, mixing.groups, **{name: getattr(mixing, name) for name in KEY_FACTORS})
    assert mixing.key_gate is not None
    for start in range(0, mixing.key_gate.shape[1], size):
        yield keys_only.cut(keys=slice(start, start + size))
