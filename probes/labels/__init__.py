"""What is said of every token beside its features. Every built-in label is listed in registry.py."""

from probes.labels.columns import column_label
from probes.labels.label import Label
from probes.labels.registry import DERIVED, LABELS, default_labels, resolve_labels
from probes.labels.sample import CorpusCounts, Sample

__all__ = [
    "DERIVED",
    "LABELS",
    "CorpusCounts",
    "Label",
    "Sample",
    "column_label",
    "default_labels",
    "resolve_labels",
]
