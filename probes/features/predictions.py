"""How well the model foresaw the token that came next."""

from __future__ import annotations

from model import DCFormerConfig
from probes.features.feature import FeatureKind, Place, PredictionFeature

LOSS, RANK = "next_token_loss", "next_token_rank"


def _everywhere(cfg: DCFormerConfig) -> list[Place]:
    return [Place()]


def _loss(cfg: DCFormerConfig, place: Place) -> PredictionFeature:
    return PredictionFeature(
        name=LOSS, place=place, shape=(), unit="nats", dtype="float32",
        meaning="-log p(the next token of the document); NaN at its last token",
    )  # fmt: skip


def _rank(cfg: DCFormerConfig, place: Place) -> PredictionFeature:
    return PredictionFeature(
        name=RANK, place=place, shape=(), unit="rank", dtype="int32",
        meaning="1 + how many tokens the model thought likelier than the next of the document; -1 at its last token",
    )  # fmt: skip


NEXT_TOKEN_LOSS = FeatureKind(LOSS, "loss of the next token, nats", _everywhere, _loss)
NEXT_TOKEN_RANK = FeatureKind(RANK, "rank of the next token among all predictions, 1 = first", _everywhere, _rank)
