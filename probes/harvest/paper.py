"""What a harvest of any size costs on paper: arithmetic from a model's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from model import DCFormerConfig
from model.backends.blocks import visible_pairs
from probes.features import resolve
from probes.harvest.estimate import row_bytes
from probes.harvest.stored import predictions_of, tensors_of

TABLE_BYTES = 16
"""Of a row of the token table with the built-in labels, compressed; measured on the bundled model."""

CHOICES: dict[str, list[str]] = {
    "predictions alone": ["predictions"],
    "gates, everywhere": ["gates"],
    "parts of one layer and site": ["parts@{middle}.{site}"],
    "parts of one layer and site, and the residual stream there": ["parts@{middle}.{site}", "residual@{middle}"],
    "parts, everywhere": ["parts"],
    "residual stream, every layer": ["residual"],
    "parts, residual stream and predictions, everywhere": ["parts", "residual", "predictions"],
}
"""In words -> names of features; the middle layer and the last site stand for any one.

Head statistics are not here: their maps are rebuilt on the CPU, which no count of the forward's operations covers.
"""


@dataclass(frozen=True)
class Scale:
    """How much is harvested, and how fast. tflops: 10^12 operations a second that the engine sustains."""

    tokens: float
    tflops: float
    context: int
    dtype: str = "float16"


def paper_table(cfg: DCFormerConfig, scale: Scale) -> pd.DataFrame:
    """One row for each of CHOICES that the model has.

    Returns:
        Columns keep (in words), bytes a token (as factors where these are smaller, token table included), as products
        (the same with parts as H x H matrices), TB, layers that run, GPU-hours.
    """
    rows = []
    for words, names in CHOICES.items():
        if not cfg.dynamic_sides and any(name.startswith(("parts", "gates")) for name in names):
            continue
        site = (cfg.mixed_sites or ("post",))[-1]
        features = resolve([name.format(middle=cfg.n_layers // 2, site=site) for name in names], cfg)
        smaller, products = (row_bytes(tensors_of(features, given), scale.dtype) for given in (False, True))
        layers = max(feature.layers_needed(cfg) for feature in features)
        flops = forward_flops(cfg, scale.context, layers, bool(predictions_of(features)))
        hours = scale.tokens * flops / (scale.tflops * 1e12) / 3600
        size = smaller + TABLE_BYTES
        rows.append((words, size, products + TABLE_BYTES, size * scale.tokens / 1e12, layers, hours))
    columns = ["keep", "bytes a token", "as products", "TB", "layers that run", "GPU-hours"]
    return pd.DataFrame(rows, columns=columns)


def forward_flops(cfg: DCFormerConfig, context: int, layers: int | None = None, logits: bool = True) -> float:
    """Floating-point operations a token of a forward pass over a full context, two for each multiply-add.

    Projections, MLP, mixing networks, attention over the keys that are seen, mixing of every pair (H x H for the query
    part, R channels for the key part), and the unembedding.
    """
    layers = cfg.n_layers if layers is None else layers
    heads, width, mlp = cfg.n_heads, cfg.n_heads * cfg.d_head, int(cfg.d_mlp or 0)
    networks = len(cfg.mixed_sites) * len(cfg.dynamic_sides)
    hidden = cfg.groups * cfg.mixing_hidden
    weights = 4 * cfg.d_model * width + (3 if cfg.gated_mlp else 2) * cfg.d_model * mlp
    weights += networks * (cfg.d_model * hidden + hidden * 2 * cfg.rank * cfg.heads_per_group + cfg.d_model * heads)
    mixed = len(cfg.mixed_sites) * (heads * cfg.heads_per_group + 2 * cfg.rank * heads)
    pairs = sum(visible_pairs(context, seen, 0) for seen in cfg.keys_visible[:layers]) / context
    return 2.0 * (layers * weights + pairs * (2 * width + mixed) + (cfg.d_model * cfg.d_vocab if logits else 0))
