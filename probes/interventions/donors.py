"""What the layers of another prompt attend with, for patching it into a run."""

from __future__ import annotations

from collections.abc import Sequence

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


def aligned(
    given: LayerActivations, taken: LayerActivations, rows: Sequence[Sequence[int]], from_rows: Sequence[Sequence[int]]
) -> LayerActivations:
    """The donor's activations with its positions brought to those of the run: of each prompt, from_rows to rows.

    Everywhere else stands what stands at the donor's first token, which nothing may take.

    Raises:
        ValueError: positions that the donor lacks, cached decoding, or another number of prompts.
    """
    _check_prompts(given, taken)
    batch, donors, length = given.q.shape[0], taken.q.shape[0], taken.q.shape[1]
    if max((there for row in from_rows for there in row), default=-1) >= length:
        raise ValueError(f"prompt_positions go beyond the prompt, which has {length} tokens, 0 to {length - 1}.")
    places = given.positions().expand(batch, -1)
    index = torch.zeros_like(places)
    for number, place in enumerate(places):
        for here, there in zip(rows[number % len(rows)], from_rows[number % len(from_rows)], strict=True):
            index[number, place == here] = there
    prompts = torch.arange(batch, device=index.device)[:, None] % donors

    def at(x: Tensor) -> Tensor:
        return x[prompts, index]

    mixing = {
        site: own.with_factors({name: at(factor) for name, factor in own.factors().items()})
        for site, own in taken.mixing.items()
    }
    return LayerActivations(taken.layer, at(taken.q), at(taken.k), at(taken.v), mixing)


def check_lengths(given: LayerActivations, taken: LayerActivations) -> None:
    """Refuse to patch between prompts whose positions do not match.

    Raises:
        ValueError: other lengths, a cached step, padding, or another number of prompts.
    """
    _check_prompts(given, taken)
    length, other = given.q.shape[1], taken.q.shape[1]
    if other != length or given.key_mask is not None:
        padded = " with padding" if given.key_mask is not None else ""
        raise ValueError(
            f"The prompt to take values from has {other} tokens, the run {length}{padded}. Patch between prompts of "
            "one length (probes.tasks.corrupted makes some), or say with positions and prompt_positions which tokens "
            "correspond."
        )


def _check_prompts(given: LayerActivations, taken: LayerActivations) -> None:
    batch, donors = given.q.shape[0], taken.q.shape[0]
    if not given.whole:
        raise ValueError("Patching needs the whole prompt at once, and this run is cached decoding. Call the model.")
    if donors not in (1, batch):
        raise ValueError(f"{donors} prompts to take values from were given for {batch}. Give 1, or as many.")
