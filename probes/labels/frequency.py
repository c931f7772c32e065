"""How common a token is in the corpus, and whether the model has read it before."""

from __future__ import annotations

from probes.labels.label import Label
from probes.labels.sample import BANDS, Sample


def _band(sample: Sample) -> list[str]:
    assert sample.counts is not None
    return [BANDS[band] for band in sample.counts.band[sample.ids]]


def _repeated(sample: Sample) -> list[str]:
    seen: set[tuple[int, int]] = set()
    found = []
    for stands in zip(sample.pieces.tolist(), sample.ids.tolist(), strict=True):
        found.append("repeated" if stands in seen else "new")
        seen.add(stands)
    return found


FREQUENCY_BAND = Label(
    name="frequency_band",
    definition=f"{', '.join(BANDS)}: token ids by how often the corpus has them, each band a fifth of its tokens",
    values=_band,
    needs_counts=True,
)
REPEATED_BEFORE = Label(
    name="repeated_before",
    definition="repeated if the same token stands earlier in what the model reads at once, else new",
    values=_repeated,
)
