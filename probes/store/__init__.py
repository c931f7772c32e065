"""Features of every token of a corpus, on disk in an open format: see docs/store.md."""

from probes.store.manifest import DerivedLabel, Manifest, StoredFeature, StoredLabel, StoredShard
from probes.store.store import Store, StoreError

__all__ = ["DerivedLabel", "Manifest", "Store", "StoreError", "StoredFeature", "StoredLabel", "StoredShard"]
