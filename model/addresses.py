"""Where a model's weights stand: asked before every step, so not by Module.parameters(), which takes milliseconds."""

from __future__ import annotations

from torch import nn


def weight_addresses(module: nn.Module) -> tuple[int, ...]:
    """The address of every weight in order. It changes when a weight is replaced or moves to another device."""
    found: list[int] = []
    _collect(module, found)
    return tuple(found)


def _collect(module: nn.Module, found: list[int]) -> None:
    for weight in module._parameters.values():
        if weight is not None:
            found.append(weight.data_ptr())
    for child in module._modules.values():
        # hook points, most of all modules, have neither
        if child is not None and (child._parameters or child._modules):
            _collect(child, found)
