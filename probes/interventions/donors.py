"""What the layers of another prompt attend with, for patching it into a run."""

from __future__ import annotations

import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from model.taps import LayerActivations

Donor = dict[int, LayerActivations]
"""The activations of a prompt, by layer."""


@torch.no_grad()
def donor(source: HookedDCFormer | Engine, prompt: str | Tensor) -> Donor:
    """Run a prompt through the model as it stands, and keep what each layer attends with."""
    found: Donor = {}

    def keep(at: LayerActivations) -> None:
        # a new object: later taps replace what stands in this one
        found[at.layer] = LayerActivations(at.layer, at.q, at.k, at.v, dict(at.mixing))

    with source.tapped(keep):
        source(prompt)
    return found


def check_lengths(given: LayerActivations, taken: LayerActivations) -> None:
    """Refuse to patch between prompts whose positions do not match.

    Raises:
        ValueError: other lengths, a cached step, padding, or another number of prompts.
    """
    (batch, length), (donors, other) = given.q.shape[:2], taken.q.shape[:2]
    if not given.whole:
        raise ValueError("Patching needs the whole prompt at once, and this run is cached decoding. Call the model.")
    if other != length or given.key_mask is not None:
        padded = " with padding" if given.key_mask is not None else ""
        raise ValueError(
            f"The prompt to take values from has {other} tokens, the run {length}{padded}. Patch between prompts of "
            "one length (probes.tasks.corrupted makes some), several of them only if they are equally long."
        )
    if donors not in (1, batch):
        raise ValueError(f"{donors} prompts to take values from were given for {batch}. Give 1, or as many.")
