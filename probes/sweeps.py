"""Sweeps: the same measures under many changes, one cell each, as a tidy table.

What no change touches is computed once: the layers below a cell's first changed layer run once for all cells that start
there, and several cells share one forward pass, side by side in the batch (see Stacked). A file given as `out` keeps
every finished piece, and the same sweep goes on from it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from model import Engine, HookedDCFormer
from model.config import DCFormerConfig
from model.site_mixing import one_index
from probes.examples import Example, ExampleBatch, batches
from probes.interventions import Change, Intervention, Stacked, to_json
from probes.interventions.intervention import branches_of
from probes.kept import Kept
from probes.measures import Measure, Predictions, known_measures, predictions, put, row_sums
from probes.per_sequence import PerSequence
from probes.weights import feed_weights

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768}
"""Tokens of all cells that share a forward pass; beyond this a CPU gains nothing."""
COLUMNS = ("measure", "value", "intact", "change", "low", "high", "sequences")
"""Of the result, beside the labels."""
EACH_BATCH = Callable[[tuple[int, ...]], Change]
"""A change that depends on the examples, given by their numbers: a patch from another prompt for each."""


@dataclass(frozen=True)
class Cell:
    """One change of a sweep. labels: its place in the table, such as {"layer": 2, "site": "post"}; no two alike."""

    labels: Mapping[str, Any]
    change: Change | EACH_BATCH = field(compare=False)

    @property
    def key(self) -> str:
        return json.dumps(dict(self.labels), sort_keys=True)


# -- grids -----------------------------------------------------------------------------------------


def branch_cells(
    cfg: DCFormerConfig, *, layers: Sequence[int] | None = None, sites: Sequence[str] | None = None,
    branches: Sequence[str] | None = None, **change: Any,
) -> list[Cell]:  # fmt: skip
    """Layer x site x branch; columns layer, site, branch.

    Args:
        branches: None = those that depend on tokens, and "all" of these together.
        change: further fields of each Intervention, mode="zero" unless given.
    """
    dynamic = [branch for branch in branches_of(cfg) if branch != "base"]
    chosen = [*dynamic, "all"] if branches is None else branches
    cells = []
    for layer, site, branch in itertools.product(_layers(cfg, layers), _sites(cfg, sites), chosen):
        named = dynamic if branch == "all" else [branch]
        cells.append(
            Cell(
                {"layer": layer, "site": site, "branch": branch},
                Intervention(layers=[layer], sites=[site], branches=named, **change),
            )
        )
    return cells


def edge_cells(
    cfg: DCFormerConfig, *, layers: Sequence[int] | None = None, sites: Sequence[str] | None = None,
    sources: Sequence[int] | None = None, targets: Sequence[int] | None = None, own: bool = False, **change: Any,
) -> list[Cell]:  # fmt: skip
    """Layer x site x source x target; columns layer, site, source, target.

    Args:
        own: edges h->h too. change: as for branch_cells, but mode="identity" unless given: between two heads this
            cuts the edge, and h->h becomes 1.
    """
    heads = range(cfg.n_heads)
    change = {"mode": "identity"} | change
    return [
        Cell(
            {"layer": layer, "site": site, "source": source, "target": target},
            Intervention(layers=[layer], sites=[site], sources=[source], targets=[target], **change),
        )
        for layer, site in itertools.product(_layers(cfg, layers), _sites(cfg, sites))
        for source, target in itertools.product(_or(sources, heads), _or(targets, heads))
        if (own or source != target) and _same_group(cfg, source, target)
    ]


def head_cells(
    cfg: DCFormerConfig, *, layers: Sequence[int] | None = None, sites: Sequence[str] | None = None, **change: Any
) -> list[Cell]:
    """Layer x site x head, once as a source (nothing goes out to others) and once as a target (nothing comes in).

    Columns layer, site, head, role. change: as for edge_cells.
    """
    change = {"mode": "identity"} | change
    return [
        Cell(
            {"layer": layer, "site": site, "head": head, "role": role},
            Intervention(layers=[layer], sites=[site], **(change | {f"{role}s": [head]})),
        )
        for layer, site in itertools.product(_layers(cfg, layers), _sites(cfg, sites))
        for head, role in itertools.product(range(cfg.n_heads), ("source", "target"))
    ]


def position_cells(
    cfg: DCFormerConfig, positions: Iterable[int], *, layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None, **change: Any,
) -> list[Cell]:  # fmt: skip
    """Layer x site x position: what the token there contributes to M; columns layer, site, position.

    Every example must have these positions. change: as for branch_cells.
    """
    listed = list(positions)
    return [
        Cell(
            {"layer": layer, "site": site, "position": position},
            Intervention(layers=[layer], sites=[site], positions=[position], **change),
        )
        for layer, site in itertools.product(_layers(cfg, layers), _sites(cfg, sites))
        for position in listed
    ]


def patch_cells(
    cfg: DCFormerConfig, donors: Sequence[Example], *, layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None, **change: Any,
) -> list[Cell]:  # fmt: skip
    """Layer x site, mixing taken from another prompt for each example; columns layer, site.

    Args:
        donors: for each example of the sweep one of the same length.
        change: further fields of each Intervention, such as targets or positions.
    """

    def patch(layer: int, site: str) -> EACH_BATCH:
        def of(numbers: tuple[int, ...]) -> Change:
            prompt = torch.tensor([donors[number].ids for number in numbers])
            return Intervention(layers=[layer], sites=[site], mode="patch", prompt=prompt, **change)

        return of

    return [
        Cell({"layer": layer, "site": site}, patch(layer, site))
        for layer, site in itertools.product(_layers(cfg, layers), _sites(cfg, sites))
    ]


def _layers(cfg: DCFormerConfig, layers: Sequence[int] | None) -> list[int]:
    return [one_index(layer, cfg.n_layers, "layer") for layer in (range(cfg.n_layers) if layers is None else layers)]


def _or(given: Sequence[int] | None, every: Sequence[int]) -> Sequence[int]:
    return every if given is None else given


def _sites(cfg: DCFormerConfig, sites: Sequence[str] | None) -> Sequence[str]:
    return cfg.mixed_sites if sites is None else sites


def _same_group(cfg: DCFormerConfig, source: int, target: int) -> bool:
    return source // cfg.heads_per_group == target // cfg.heads_per_group


# -- running ---------------------------------------------------------------------------------------


def sweep(
    source: HookedDCFormer | Engine,
    examples: Sequence[Example],
    cells: Sequence[Cell],
    measures: Sequence[str] = ("loss", "kl"),
    *,
    out: Path | str | None = None,
    batch_size: int = 8,
    tokens_at_once: int | None = None,
    confidence: float | None = 0.95,
    progress: bool = False,
    watch: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure a model under every change.

    Args:
        out: a file (JSON lines) that keeps what is done; the same sweep goes on from there.
        batch_size: examples that run together. tokens_at_once: tokens of all cells that share a forward pass; None =
            as measured to be fast.
        confidence: of the intervals; None = none are computed, which is quicker.
        progress: show a bar. watch: called with (done, all) pieces; what it raises ends the sweep, and with `out`
            nothing done is lost.
    Returns:
        One row for each cell and measure: the labels, measure, value, intact (the same measure without the change),
        change (value - intact), low and high (bootstrap interval of the change over sequences, see PerSequence), and
        sequences (how many counted).
    Raises:
        ValueError: no examples or cells, labels that are not distinct, what the model or the examples lack, or a file
            of another sweep.
    """
    engine = source if isinstance(source, Engine) else Engine(source)
    chosen = known_measures(measures)
    _check(engine.cfg, examples, cells)
    patched = any(not isinstance(cell.change, Change) for cell in cells)
    groups = list(batches(examples, batch_size, str(engine.cfg.device), equal_length=patched))
    # all weights are hashed, which a sweep without a file need not wait for
    name = "" if out is None else _fingerprint(engine, examples, cells, measures, batch_size)
    of = "weights, examples, cells or measures"
    kept = Kept(None if out is None else Path(out), "sweep", name, ("batch", "cell"), of)
    room = TOKENS_AT_ONCE.get(str(engine.cfg.device).split(":")[0], 2048) if tokens_at_once is None else tokens_at_once
    missing = [[cell for cell in cells if not kept.has(number, cell.key)] for number in range(len(groups))]
    total = len(groups) * len(cells)
    done = total - sum(map(len, missing))
    with kept, tqdm(total=total, initial=done, desc="sweep", unit="run", disable=not progress) as bar:
        for number, (batch, cells_here) in enumerate(zip(groups, missing, strict=True)):
            for key, found in _runs(engine, batch, cells_here, chosen, room):
                kept.add(number, key, found=found)
                if key == INTACT:
                    continue
                done += 1
                bar.update()
                if watch is not None:
                    watch(done, total)
    return _table(cells, groups, kept, chosen, len(examples), confidence)


INTACT = "intact"
Found = dict[str, tuple[list[float], list[float]]]
"""Measure -> sums and counts for each row of a batch."""


@torch.no_grad()
def _runs(
    engine: Engine, batch: ExampleBatch, cells: Sequence[Cell], measures: Sequence[Measure], room: int
) -> Iterator[tuple[str, Found]]:
    """The intact model, and then each cell, over one batch: (key, what was found)."""
    if not cells:
        return
    changes = {cell.key: _change(cell, batch) for cell in cells}
    first = {key: change.first_layer(engine.cfg) for key, change in changes.items()}
    intact = predictions(engine, engine.residual(batch.tokens, batch.mask), batch)
    yield INTACT, {measure.name: row_sums(measure, intact, intact) for measure in measures}
    copies = max(1, room // batch.tokens.numel())
    entering: Tensor | None = None
    for layer in range(engine.cfg.n_layers):
        below = None if entering is None else (layer - 1, entering)
        entering = engine.residual(batch.tokens, batch.mask, start_at=below, stop_at_layer=layer)
        here = [key for key in changes if first[key] == layer]
        for keys in (here[i : i + copies] for i in range(0, len(here), copies)):
            found = _changed(engine, batch, [changes[key] for key in keys], (layer, entering))
            for key, changed in zip(keys, found, strict=True):
                yield key, {measure.name: row_sums(measure, changed, intact) for measure in measures}


def _changed(
    engine: Engine, batch: ExampleBatch, changes: Sequence[Change], start_at: tuple[int, Tensor]
) -> Iterator[Predictions]:
    """Predictions under each change, all run in one pass from the layer where they begin."""
    (layer, entering), copies = start_at, len(changes)
    change = changes[0] if copies == 1 else Stacked(tuple(changes))
    tokens, mask = batch.repeated(copies)
    with change.applied(engine):
        resid = engine.residual(tokens, mask, start_at=(layer, entering.repeat(copies, 1, 1)))
    for piece in resid.chunk(copies):
        yield predictions(engine, piece, batch)


def _change(cell: Cell, batch: ExampleBatch) -> Change:
    return cell.change if isinstance(cell.change, Change) else cell.change(batch.numbers)


def _check(cfg: DCFormerConfig, examples: Sequence[Example], cells: Sequence[Cell]) -> None:
    if not examples or not cells:
        raise ValueError(f"{len(examples)} examples and {len(cells)} cells were given. Give at least one of each.")
    if taken := {name for cell in cells for name in cell.labels} & set(COLUMNS):
        raise ValueError(
            f"Labels named {', '.join(sorted(taken))} are columns of the result already. Name them otherwise."
        )
    keys = [cell.key for cell in cells]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"Two cells have the labels {twice}. Give each its own.")
    for cell in cells:
        if isinstance(cell.change, Change):
            cell.change.check(cfg)


# -- what is kept ----------------------------------------------------------------------------------


def _fingerprint(
    engine: Engine, examples: Sequence[Example], cells: Sequence[Cell], measures: Sequence[str], batch_size: int
) -> str:
    """One line for all that decides the numbers: weights, examples, changes, measures, batches."""
    digest = hashlib.sha256()
    feed_weights(digest, engine.model)
    for cell in cells:
        digest.update(cell.key.encode())
        digest.update(to_json(cell.change).encode() if isinstance(cell.change, Change) else b"for each batch")
    digest.update(repr((list(examples), list(measures), batch_size)).encode())
    return digest.hexdigest()


def _table(
    cells: Sequence[Cell], groups: Sequence[ExampleBatch], kept: Kept, measures: Sequence[Measure], count: int,
    confidence: float | None,
) -> pd.DataFrame:  # fmt: skip
    def gathered(key: str, measure: str) -> PerSequence:
        found = PerSequence(np.zeros(count), np.zeros(count))
        for number, batch in enumerate(groups):
            put(found, batch, *kept.found[number, key][measure])
        return found

    rows = []
    intact = {measure.name: gathered(INTACT, measure.name) for measure in measures}
    for cell, measure in itertools.product(cells, measures):
        found = gathered(cell.key, measure.name)
        change = found.minus(intact[measure.name])
        low, high = (float("nan"),) * 2 if confidence is None else change.interval(confidence)
        rows.append(
            {
                **cell.labels, "measure": measure.name, "value": found.mean, "intact": intact[measure.name].mean,
                "change": change.mean, "low": low, "high": high, "sequences": int((found.counts > 0).sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)
