"""Small models for the tests: sizes that all differ, weights far from their initial near-identity mixing."""

from __future__ import annotations

from typing import Any

import torch

from model import DCFormerConfig, HookedDCFormer

SIZES = {"n_layers": 3, "d_model": 20, "n_heads": 4, "d_head": 6, "d_mlp": 28, "d_vocab": 37, "n_ctx": 24}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama windows": ("llama", {"visible_keys": (3, None, 5)}),
    "neox": ("neox", {}),
    "original": ("original", {}),
    "plain": ("llama", {"compose": False}),
    "plain neox": ("neox", {"compose": False}),
    "talking heads": ("original", {"sides": (), "static_mixing": True}),
    "static and dynamic": ("llama", {"static_mixing": True}),
    "groups": ("llama", {"groups": 2, "static_mixing": True, "visible_keys": (4, None, None)}),
    "rank 1": ("llama", {"rank": 1}),
    "rank 3": ("neox", {"rank": 3, "visible_keys": (None, 2, None)}),
    "pre only": ("llama", {"sites": ("pre",)}),
    "post only": ("llama", {"sites": ("post",), "groups": 2}),
    "query side": ("llama", {"sides": ("query",)}),
    "key side": ("neox", {"sides": ("key",)}),
    "mgate": ("llama", {"mgate_groups": 7}),
}


def small_config(variant: str = "llama windows", **changes: Any) -> DCFormerConfig:
    architecture, fields = VARIANTS[variant]
    return DCFormerConfig.from_architecture(architecture, **(SIZES | {"dtype": torch.float64} | fields | changes))


def small_model(variant: str = "llama windows", seed: int = 0, **changes: Any) -> HookedDCFormer:
    """A float64 model whose weights are all random, norms, biases and static mixing included."""
    model = HookedDCFormer(small_config(variant, **changes), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            if "mix_factors" in name or "mix_gates" in name:
                weight.copy_(0.4 * noise)
            elif weight.ndim == 1 or "static" in name:
                weight.add_(0.2 * noise)
    return model


def some_tokens(*shape: int, seed: int = 3, vocabulary: int = SIZES["d_vocab"]) -> torch.Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def relative_error(given: torch.Tensor, truth: torch.Tensor) -> float:
    """||given - truth|| / ||truth||, in float64."""
    given, truth = given.detach().double(), truth.detach().double()
    return float((given - truth).norm() / truth.norm())
