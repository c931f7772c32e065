"""run_study: harvest what a study asks for, probe it, and write its tables. A stopped study goes on."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from model import HookedDCFormer, load_model
from model.checkpoints.load import read_config
from model.locks import locked
from model.plain_words import one_line, parse_json
from model.whole_files import write_whole
from probes.corpora import open_corpus
from probes.estimators import PROBES
from probes.features import resolve
from probes.harvest import harvest
from probes.probing import REFERENCES, SCORES, probe_cells
from probes.probing.table import COLUMNS as PROBING_COLUMNS
from probes.store import Store
from probes.store.store import COLUMNS
from probes.study.cells import RESIDUAL, feature_cells, label_columns, place, residuals
from probes.study.dynamic_share import COLUMNS as SHARE_COLUMNS
from probes.study.dynamic_share import SIDES, dynamic_share, with_other_side
from probes.study.spec import RANDOM, Study, file_name

CONFIG, LOCK = "config.json", "study.lock"
FILES = {"probing": "results", "dynamic_share": "dynamic_share"}
"""Analysis -> its table, without the ending."""
TEXTS = ("model", "feature", "where", "label", "probe", "score", "against", "site", "side", "class")
"""Columns of texts; all others hold numbers."""
KEYS = (*TEXTS, "seed", "layer")
"""What names a row."""
MAY_BE_MISSING = ("low", "high", "difference_low", "difference_high", "p", "p_holm", "p_bh", "largest_class",
                  "smallest_class", "regularisation", "value", "reference", "difference", "share")  # fmt: skip
KNOWN: dict[str, Collection[str]] = {"score": SCORES, "against": REFERENCES, "probe": PROBES}
TABLE_COLUMNS = {
    "probing": ("model", "seed", "feature", "layer", "where", *PROBING_COLUMNS),
    "dynamic_share": ("model", *SHARE_COLUMNS),
}
RANDOM_SEED = 0
"""Of the weights of the random-init models."""
PREDICTED = ("next_token_loss", "next_token_rank")
"""Always kept: labels may follow from them."""
WORDS_ONLY = ("title", "question")
"""Fields that may be changed without making another study."""
LIBRARIES = ("torch", "numpy", "scikit-learn", "scipy", "pandas", "safetensors", "pyarrow")
Watch = Callable[[int, int], None]


def run_study(
    study: Study, out: str | Path, *, progress: bool = False, tell: Callable[[str], object] = lambda said: None,
    watch: Watch | None = None,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Harvest, probe, and write tables; the same call goes on where it stopped, and fits nothing twice.

    The folder gets stores/ (harvests), fits/ (finished fits), results.csv and .parquet (probing, one row for each
    cell, label, probe, score and reference), dynamic_share.csv and .parquet, and config.json (the study, versions and
    hashes). Probing runs through joblib: `with joblib.parallel_config(...)` around the call says where.

    Args:
        progress: show bars. tell: is given a line at each stage. watch: called with (done, all) while fitting; what
            it raises ends the study, and nothing done is lost.
    Returns:
        Table by analysis: "probing", "dynamic_share".
    Raises:
        ValueError: what the study names is not there or does not fit, or the folder holds another study.
    """
    # absolute: workers of a cluster may stand elsewhere
    folder = Path(out).expanduser().absolute()
    _check(study)
    _refuse_foreign(folder)
    with locked(folder / LOCK, f"Another process is at this study in {folder}. Wait for it, or end it first."):
        return _run(study, folder, progress, tell, watch)


def _run(
    study: Study, folder: Path, progress: bool, tell: Callable[[str], object], watch: Watch | None
) -> dict[str, pd.DataFrame]:
    _claim(study, folder)
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in study.analyses}
    stores = {}
    for name, source in study.models.items():
        model = load_model(source)
        tell(f"harvest {name}")
        names = [feature.name for feature in resolve(study.features, model.cfg)]
        stores[name] = store = _harvested(study, model, names, folder, name, progress, tell)
        labels = label_columns(store, study.labels, study.numbers, study.folds if study.drop_rare else None)
        if "probing" in study.analyses:
            untrained = _untrained(study, model, names, folder, name, progress, tell)
            for seed in study.seeds:
                tell(f"probe {name}, seed {seed}")
                fits = folder / "fits" / f"{file_name(name)}-{seed}.jsonl"
                table = _probed(study, store, untrained, names, labels, fits, seed, progress, watch)
                found["probing"].append(_labelled(table, model=name, seed=seed))
        if "dynamic_share" in study.analyses:
            classes = {label: column for label, column in labels.items() if not pd.api.types.is_float_dtype(column)}
            shares = dynamic_share(store, bases(model), classes, study.confidence)
            found["dynamic_share"].append(_labelled(shares, model=name))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    for name, table in tables.items():
        write_table(folder, FILES[name], table)
    _write_json(folder / CONFIG, {"study": study.to_dict(), "finished": True, "versions": versions()}
                | {"stores": {name: _described(store) for name, store in stores.items()}})  # fmt: skip
    return tables


def read_results(folder: str | Path) -> tuple[Study, dict[str, pd.DataFrame], dict[str, Any]]:
    """A finished study's description, tables by analysis, and config.json.

    Raises:
        ValueError: no finished study in this folder.
    """
    folder = Path(folder).expanduser()
    config = _config(folder)
    if config is None:
        raise ValueError(f"{folder} holds no study: no {CONFIG} of one is there. Give a folder that a study wrote.")
    if not config.get("finished"):
        raise ValueError(f"The study in {folder} is not finished. Run it again: it goes on from there.")
    study = Study.from_dict(config["study"], str(folder / CONFIG))
    return (
        study,
        {name: _table(folder / f"{FILES[name]}.parquet", TABLE_COLUMNS[name]) for name in study.analyses},
        config,
    )


def is_finished(folder: Path) -> bool:
    """Does a finished study lie in this folder?"""
    config = _config(folder)
    return config is not None and bool(config.get("finished"))


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table of a study, with its columns and rows of which words can be made."""
    try:
        table = pd.read_parquet(path)
        if missing := [name for name in columns if list(table.columns).count(name) != 1]:
            raise ValueError(f"no column {missing[0]}")
        for name in columns:
            known, text = KNOWN.get(name), name in TEXTS
            right = (
                all(isinstance(one, str) for one in table[name]) if text else pd.api.types.is_numeric_dtype(table[name])
            )
            if not right or (table[name].isna().any() and name not in MAY_BE_MISSING):
                raise ValueError(f"the column {name} does not hold {'texts' if text else 'numbers'} throughout")
            if known is not None and not set(table[name]) <= set(known):
                raise ValueError(
                    f"the column {name} names {(set(table[name]) - set(known)).pop()!r}, which is not known"
                )
        if table.empty or table.duplicated([name for name in columns if name in KEYS]).any():
            raise ValueError("no rows" if table.empty else "a row stands there twice")
    except (OSError, ValueError, TypeError, pa.ArrowException, MemoryError) as error:
        raise ValueError(
            f"{path} cannot be read ({one_line(error)}). Run the study again: it is written anew."
        ) from error
    return table


def write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """name.csv and name.parquet, each whole or not at all."""
    text = table.to_csv(index=False)
    write_whole(folder / f"{name}.csv", lambda file: file.write(text.encode()))
    write_whole(folder / f"{name}.parquet", lambda file: table.to_parquet(file, index=False))


def bases(model: HookedDCFormer) -> dict[tuple[int, str], NDArray]:
    """(layer, site) -> base, I or I + W, of every site that mixes."""
    found, identity = {}, np.eye(model.cfg.n_heads)
    for layer, block in enumerate(model.blocks):
        for site in model.cfg.mixed_sites:
            static = getattr(block.attn, site).static()
            found[layer, site] = identity if static is None else identity + static.detach().double().cpu().numpy()
    return found


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


# -- before anything is run ------------------------------------------------------------------------


def _check(study: Study) -> None:
    """Refuse what the configurations and the corpus refuse already: weights are not read for it.

    Raises:
        ValueError: an unknown model, feature or corpus, or shares of models without parts.
    """
    open_corpus(study.data, study.split_text)
    for name, source in study.models.items():
        try:
            features = resolve(study.features, read_config(source))
        except ValueError as error:
            raise ValueError(f"Model {name}: {error}") from error
        if "dynamic_share" in study.analyses and not any(place(one.name)["feature"] in SIDES for one in features):
            raise ValueError("dynamic_share needs query_part or key_part, and features names neither. Add parts.")


def _claim(study: Study, folder: Path) -> None:
    """Note in the folder which study it holds. Until something is harvested another may take its place."""
    told = json.loads(json.dumps(study.to_dict()))
    there = _config(folder)
    if there is not None:
        differ = [name for name in told if name not in WORDS_ONLY and there["study"].get(name) != told[name]]
        begun = there.get("finished") or any(folder.glob("stores/*/shard-*"))
        if differ and begun:
            raise ValueError(f"{folder} holds another study (other {', '.join(differ)}). Choose another folder.")
        if not differ:
            return
    _write_json(folder / CONFIG, {"study": told, "finished": False})


def _refuse_foreign(folder: Path) -> None:
    held = folder.is_dir() and any(path.name not in (f"{CONFIG}.tmp", LOCK) for path in folder.iterdir())
    if held and _config(folder) is None:
        raise ValueError(f"{folder} holds something else than a study. Choose another folder.")


def _config(folder: Path) -> dict[str, Any] | None:
    """config.json of a study, or None where there is none."""
    try:
        found = parse_json((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("study"), dict) else None


# -- stages ----------------------------------------------------------------------------------------


def _harvested(
    study: Study, model: HookedDCFormer, names: Sequence[str], folder: Path, name: str, progress: bool,
    tell: Callable[[str], object],
) -> Store:  # fmt: skip
    """The features, what they are held against or measured with, and predictions."""
    layers = sorted({int(place(feature)["layer"]) for feature in names} - {-1})
    parts = with_other_side(names, model.cfg.dynamic_sides) if "dynamic_share" in study.analyses else []
    features = list(dict.fromkeys([*names, *parts, *(f"{RESIDUAL}@{layer}" for layer in layers), *PREDICTED]))
    labels = [label for label in study.labels if label not in (*COLUMNS, *PREDICTED)]
    try:
        store = harvest(
            model, open_corpus(study.data, study.split_text), folder / "stores" / file_name(name), features, labels,
            keep=study.kept, context=study.context, progress=progress, tell=tell,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"Model {name}: {error}") from error
    if store is None:
        raise ValueError("A study is run by one process, whose probes have workers. Start it without torchrun.")
    return store


def _untrained(
    study: Study, model: HookedDCFormer, names: Sequence[str], folder: Path, name: str, progress: bool,
    tell: Callable[[str], object],
) -> Store | None:  # fmt: skip
    if not study.random_init:
        return None
    untrained = HookedDCFormer(model.cfg, tokenizer=model.tokenizer, seed=RANDOM_SEED)
    tell(f"harvest {name} with random weights")
    return _harvested(study, untrained, names, folder, f"{name}{RANDOM}", progress, tell)


def _probed(
    study: Study, store: Store, untrained: Store | None, names: Sequence[str], labels: dict[str, pd.Series],
    fits: Path, seed: int, progress: bool, watch: Watch | None,
) -> pd.DataFrame:  # fmt: skip
    table = store.table(["document", "position", "token_id"])
    fits.parent.mkdir(exist_ok=True)
    return probe_cells(
        feature_cells(store, names, untrained), labels, table.document, positions=table.position,
        token_ids=table.token_id, residuals=residuals(store, names), probes=study.probes,
        references=study.references, folds=study.folds, confidence=study.confidence, out=fits, seed=seed,
        progress=progress, watch=watch,
    )  # fmt: skip


# -- the folder ------------------------------------------------------------------------------------


def _described(store: Store) -> dict[str, Any]:
    manifest = store.manifest
    return {"model": dict(manifest.model), "corpus": dict(manifest.corpus), "tokens": manifest.rows}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    told = json.dumps(content, indent=1, default=str) + "\n"
    write_whole(path, lambda file: file.write(told.encode()))


def _labelled(table: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    for number, (name, value) in enumerate(columns.items()):
        table.insert(number, name, value)
    return table
