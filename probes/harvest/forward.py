"""One batch through the engine, keeping the features of some of its tokens.

Axes: B batch, T position, n kept token, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model import Capture, Engine
from model.capture import LayerCapture
from model.mixing import Mixing
from model.taps import LayerActivations
from probes.features import ActivationFeature, Feature, HeadFeature, ResidualFeature
from probes.harvest.encoding import Piece
from probes.metrics.blocks import LayerOfRun
from probes.metrics.kinds import maps_of

UNEMBEDDED = {"cpu": 2**22, "cuda": 2**28}
"""Logits that are held at a time."""

Keep = Callable[[str, Tensor], None]
"""Takes the values of a feature for the kept tokens of a batch, [n, *shape]."""


@dataclass(frozen=True)
class Batch:
    """Pieces padded on the left to one length.

    tokens: [B, T]. mask: bool [B, T], None = no padding. rows, places: [n], where the kept tokens stand. targets: [n],
    the tokens that came next, -1 = none. stored: [n], their rows in the shard. pieces: what it is made of.
    """

    pieces: Sequence[Piece]
    tokens: Tensor
    mask: Tensor | None
    rows: Tensor
    places: Tensor
    targets: Tensor
    stored: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Values of the kept tokens, [n, ...], from those of all, [B, T, ...]."""
        return x[self.rows.to(x.device), self.places.to(x.device)]


def batches(pieces: Sequence[Piece], tokens: int, device: torch.device) -> Iterator[Batch]:
    """The pieces, longest first, in batches of at most so many tokens, padding included (at least one piece)."""
    order = sorted(range(len(pieces)), key=lambda index: -len(pieces[index].ids))
    start = 0
    while start < len(order):
        count = max(1, tokens // len(pieces[order[start]].ids))
        yield _batch([pieces[index] for index in order[start : start + count]], device)
        start += count


def _batch(pieces: list[Piece], device: torch.device) -> Batch:
    longest = max(len(piece.ids) for piece in pieces)
    pads = [longest - len(piece.ids) for piece in pieces]
    tokens = torch.zeros(len(pieces), longest, dtype=torch.long)
    for row, (pad, piece) in enumerate(zip(pads, pieces, strict=True)):
        tokens[row, pad:] = torch.from_numpy(piece.ids)
    mask = torch.arange(longest)[None] >= torch.tensor(pads)[:, None]
    rows = torch.cat([torch.full((len(piece.places),), row) for row, piece in enumerate(pieces)])
    places = torch.cat([torch.from_numpy(piece.places) + pad for pad, piece in zip(pads, pieces, strict=True)])
    targets, stored = (torch.cat([torch.from_numpy(getattr(p, name)) for p in pieces]) for name in ("targets", "rows"))
    return Batch(
        pieces, tokens.to(device), None if bool(mask.all()) else mask.to(device), rows.to(device), places.to(device),
        targets.to(device), stored,
    )  # fmt: skip


class FeatureReader:
    """Reads features from an engine, running no layer that none of them needs.

    Args:
        features: what becomes a tensor. predictions: also the loss and rank of the next tokens.
    """

    def __init__(self, engine: Engine, features: Sequence[Feature], predictions: bool):
        self.engine, self.cfg, self.predictions = engine, engine.cfg, predictions
        self.factors: dict[tuple[int, str], list[ActivationFeature]] = defaultdict(list)
        self.heads: dict[int, list[HeadFeature]] = defaultdict(list)
        self.residuals: dict[int, ResidualFeature] = {}
        for feature in features:
            layer = feature.place.layer
            assert layer is not None
            if isinstance(feature, ActivationFeature):
                self.factors[layer, str(feature.place.where)].append(feature)
            elif isinstance(feature, HeadFeature):
                self.heads[layer].append(feature)
            elif isinstance(feature, ResidualFeature):
                self.residuals[layer] = feature
        needed = [feature.layers_needed(self.cfg) for feature in features]
        self.layers = self.cfg.n_layers if predictions else max(needed)

    @torch.no_grad()
    def read(self, batch: Batch, keep: Keep) -> tuple[Tensor, Tensor] | None:
        """Run a batch and hand over every feature of its kept tokens.

        Returns:
            With predictions: (loss [n] in nats, NaN where no token came next; rank [n], 1 = first, -1 there).
        """
        resid: Tensor | None = None
        done = 0
        with self.engine.tapped(lambda at: self._tap(at, batch, keep)):
            for layer in sorted({*self.residuals, self.layers}):
                before = None if resid is None else (done, resid)
                resid = self.engine.residual(batch.tokens, batch.mask, start_at=before, stop_at_layer=layer)
                done = layer
                if layer in self.residuals:
                    keep(self.residuals[layer].name, batch.at(resid))
        assert resid is not None
        return next_tokens(self.engine, batch.at(resid), batch.targets) if self.predictions else None

    def _tap(self, at: LayerActivations, batch: Batch, keep: Keep) -> None:
        for site, mixing in at.mixing.items():
            features = self.factors.get((at.layer, site))
            if features:
                kept = _of_kept(mixing, {name for feature in features for name in feature.reads}, batch)
                for feature in features:
                    keep(feature.name, feature.values(kept)[0])
        if at.layer in self.heads:
            for head_feature, values in zip(self.heads[at.layer], self._head_rows(at, batch), strict=True):
                keep(head_feature.name, values)

    def _head_rows(self, at: LayerActivations, batch: Batch) -> list[Tensor]:
        """Each head feature of the layer, [n, N], rebuilt from a capture of one piece after the other."""
        features = self.heads[at.layer]
        found: list[list[Tensor]] = [[] for _ in features]
        for row, piece in enumerate(batch.pieces):
            run = self._capture(at, batch, row, len(piece.ids))
            parts = LayerOfRun(run, at.layer).each(
                lambda block: [feature.reader.rows(block) for feature in features],
                maps_of(feature.reader for feature in features),
            )
            for values, columns in zip(found, zip(*parts, strict=True), strict=True):
                values.append(torch.cat(columns, dim=1).T[torch.from_numpy(piece.places)])
        return [torch.cat(values) for values in found]

    def _capture(self, at: LayerActivations, batch: Batch, row: int, length: int) -> Capture:
        """The layer of one piece as a Capture of its own, without padding."""
        real = slice(batch.tokens.shape[1] - length, None)
        q, k, v = (x[row, real].cpu() for x in (at.q, at.k, at.v))
        cut = {
            site: mixing.batch(slice(row, row + 1)).cut(real, real).map(Tensor.cpu)
            for site, mixing in at.mixing.items()
        }
        layer = LayerCapture(q, k, v, cut["pre"], cut["post"], self.engine.model.blocks[at.layer].attn.W_O.detach())
        tokens = batch.tokens[row, real].cpu()
        return Capture(self.cfg, tokens, [], None, torch.ones(length, 1), {at.layer: layer})


def _of_kept(mixing: Mixing, names: set[str], batch: Batch) -> Mixing:
    """Some factors of the kept tokens, as one sequence of n; the others are None."""
    factors = {name: batch.at(value)[None] if name in names else None for name, value in mixing.factors().items()}
    return replace(mixing, **factors)  # type: ignore[arg-type]


def next_tokens(engine: Engine, resid_nD: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss in nats and rank of each target, a bounded number of logits at a time; NaN and -1 where the target is -1."""
    kind = torch.float64 if resid_nD.dtype == torch.float64 else torch.float32
    loss = torch.full(targets.shape, float("nan"), dtype=kind)
    rank = torch.full(targets.shape, -1, dtype=torch.int32)
    known = (targets >= 0).nonzero()[:, 0]
    at_once = max(1, UNEMBEDDED.get(resid_nD.device.type, 2**22) // engine.cfg.d_vocab)
    for part in known.split(at_once):
        logits_nV = engine.unembed(resid_nD[part.to(resid_nD.device)]).to(kind)
        wanted = logits_nV.gather(1, targets[part].to(logits_nV.device)[:, None])
        loss[part.cpu()] = (logits_nV.logsumexp(1) - wanted[:, 0]).cpu()
        rank[part.cpu()] = (1 + (logits_nV > wanted).sum(1)).int().cpu()
    return loss, rank
