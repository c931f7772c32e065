"""Random weights as the paper initialises them: at the start every mixing matrix is nearly the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn as nn

if TYPE_CHECKING:
    from model.transformer import HookedDCFormer


@torch.no_grad()
def initialise(model: HookedDCFormer, seed: int) -> None:
    """Fill all weights from one seed; the same seed gives the same weights on the same kind of device.

    Linear layers are Xavier uniform (queries, keys and values each as a layer of their own), embedding and
    unembedding have standard deviation 1/sqrt(d_model), norms are 1, biases and static W are 0.
    Mixing networks: first layer sqrt(2/(D+K)), second 0.02/(sqrt(2HR)(H+R)), gates 0.05 sqrt(2/(D+H)),
    as in the published PyTorch code.
    """
    cfg = model.cfg
    generator = torch.Generator(device=model.embed.W_E.device).manual_seed(seed)
    D, H, R, K = cfg.d_model, cfg.n_heads, cfg.rank, cfg.mixing_hidden
    deviations = {
        "W_E": D**-0.5, "W_pos": D**-0.5, "unembed.weight": D**-0.5,
        "mix_hidden": (2 / (D + K)) ** 0.5,
        "mix_factors": 0.02 / ((2 * H * R) ** 0.5 * (H + R)),
        "mix_gates": 0.05 * (2 / (D + H)) ** 0.5,
    }  # fmt: skip
    for name, weight in model.named_parameters():
        deviation = next((value for ending, value in deviations.items() if name.endswith(ending)), None)
        if deviation is not None:
            weight.normal_(0.0, deviation, generator=generator)
        elif name.endswith(("bias", ".b", "static_blocks")):
            weight.zero_()
        elif weight.ndim == 1:
            weight.fill_(1.0)
        else:
            for part in weight.chunk(3) if name.endswith("wqkv.weight") else [weight]:
                nn.init.xavier_uniform_(part, generator=generator)
