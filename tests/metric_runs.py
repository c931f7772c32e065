"""Captures that metrics are tried on."""

import torch

from model import Capture, DCFormerConfig, capture
from model.capture import LayerCapture
from model.mixing import Mixing
from tests.models import small_model

T, H = 13, 4
VARIANTS = ["llama windows", "groups", "static and dynamic", "key side", "pre only", "talking heads"]
WORDS = [5, 9, 5, 5, 7, 9, 2, 5, 9, 1, 7, 3, 3]
"""13 tokens, some of which repeat, also right after each other."""


def run_of(variant="llama windows", words=WORDS):
    return capture(small_model(variant), torch.tensor(words))


def visible_pairs(run, layer):
    window = run.cfg.keys_visible_in(layer) or len(run)
    return [(i, j) for i in range(len(run)) for j in range(max(0, i - window + 1), i + 1)]


def hand_made(scores_NTS, words=None, mixing=None, like=None, layer=0):
    """A capture whose raw scores are given (-inf becomes -1000), and whose values are random."""
    heads, length = scores_NTS.shape[:2]
    # one key dimension for each key, so that any scores are a product of queries and keys
    q = scores_NTS.clamp(min=-1000.0).transpose(0, 1).double() * length**0.5
    k = torch.eye(length, dtype=torch.float64)[:, None].expand(length, heads, length)
    at = None if like is None else like.layers[layer]
    v = torch.randn(length, heads, 5, generator=torch.Generator().manual_seed(2)).double() if at is None else at.v
    W_O = torch.randn(heads, 5, 8, generator=torch.Generator().manual_seed(3)).double() if at is None else at.W_O
    none = Mixing(n_heads=heads)
    cfg = like.cfg if like else DCFormerConfig.from_architecture(
        "llama", n_layers=1, d_model=8, n_heads=heads, d_head=6, d_mlp=7, d_vocab=40, n_ctx=length
    )  # fmt: skip
    tokens = like.tokens if like else torch.tensor(words or list(range(length)))
    kept = LayerCapture(q=q, k=k, v=v, pre=none, post=mixing or none, W_O=W_O)
    return Capture(cfg, tokens, [str(t) for t in tokens.tolist()], None, torch.ones(length, 1), {layer: kept})
