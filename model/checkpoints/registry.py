"""The layouts that can be read and written, one line each."""

from __future__ import annotations

from model.checkpoints import neox, own, published
from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import ConfigFile
from model.checkpoints.layout import Layout

LAYOUTS: tuple[Layout, ...] = (
    own.LAYOUT,
    published.LAYOUT,
    neox.LAYOUT,
)


def layout_of(config: ConfigFile) -> Layout:
    """The layout that a config.json is in.

    Raises:
        ModelLoadError: no layout has its model_type.
    """
    for layout in LAYOUTS:
        if config.model_type in layout.model_types:
            return layout
    known = ", ".join(model_type for layout in LAYOUTS for model_type in layout.model_types)
    raise ModelLoadError(f"{config.path} has model_type {config.model_type!r}, which is not supported. Known: {known}.")


def writable_layout(name: str) -> Layout:
    """The layout of this name, for writing."""
    writable = {layout.name: layout for layout in LAYOUTS if layout.write is not None}
    if name not in writable:
        raise ModelLoadError(f"Models cannot be saved in the layout {name!r}. Choose one of {', '.join(writable)}.")
    return writable[name]
