"""A model with the device and dtype that it was asked for on, and the name that says all three."""

from __future__ import annotations

import re
from dataclasses import dataclass

AUTO = "auto"
AS_STORED = "as stored"
DTYPE_NAMES = ("float32", "bfloat16", "float16", "float64")
_NAME = re.compile(r"(?P<reference>.*) \[(?P<settings>[a-z0-9:, ]+)\]", re.DOTALL)
_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class ModelChoice:
    """What load_model is called with.

    reference: a bundled model, a model directory, or a hub id. device: "auto" or a device's name.
    dtype: by name; None = as the weights are stored.
    """

    reference: str
    device: str = AUTO
    dtype: str | None = None

    @property
    def name(self) -> str:
        """Under which every page offers it: the reference, with device and dtype where they are not the default."""
        settings = [text for text in (self.device if self.device != AUTO else None, self.dtype) if text]
        return f"{self.reference} [{', '.join(settings)}]" if settings else self.reference

    @classmethod
    def from_name(cls, name: str) -> ModelChoice:
        """The choice whose name this is."""
        found = _NAME.fullmatch(name)
        if found is None:
            return cls(name)
        device, dtype = AUTO, None
        for setting in found["settings"].split(", "):
            if _DEVICE.fullmatch(setting):
                device = setting
            else:
                dtype = setting
        return cls(found["reference"], device, dtype)

    @property
    def load_line(self) -> str:
        """The call that loads it, as Python."""
        device = f", device={self.device!r}" if self.device != AUTO else ""
        dtype = f", dtype={self.dtype!r}" if self.dtype else ""
        return f"load_model({self.reference!r}{device}{dtype})"
