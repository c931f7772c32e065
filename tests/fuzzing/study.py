"""Studies: their YAML file, and what a finished one left (config.json and tables), read and put into words."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd
import yaml
from hypothesis import strategies as st

from probes.kept import Kept
from probes.study import Study, findings, read_results, run_study
from tests.fuzzing.component import Component, files_of
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json, one_of_files
from tests.study_runs import fields, planted_corpus
from workbench.study_report import study_figures

CONFIG, FILE, TABLES = "done/config.json", "study.yaml", ("done/results.parquet", "done/dynamic_share.parquet")
FITS = "fits.jsonl"
WORDS = ("probing", "dynamic_share", "linear", "mlp", "knn", "residual", "constant", "balanced_accuracy", "r2",
         "mark", "../x",
         "demo/dcformer", "*", "parts", "yes", "file")  # fmt: skip


def component() -> Component:
    return Component("study", valid, harm, read)


def valid() -> dict[str, Files]:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        asked = fields(
            *planted_corpus(here), analyses=["probing", "dynamic_share"], references=["constant", "position"]
        )
        run_study(Study.from_dict(asked), here / "done")
        done = files_of(here / "done")
    found = {f"done/{name}": content for name, content in done.items() if name.count("/") == 0}
    found[FITS] = next(content for name, content in sorted(done.items()) if name.startswith("fits/"))
    return {"study": found | {FILE: yaml.safe_dump(asked | {"title": "t"}).encode()}}


def harm(draw: Draw, files: Files) -> str:
    kind = draw(st.sampled_from(["config", "config", "yaml", "yaml", "bytes", "table", "fits"]))
    values = VALUES | st.sampled_from(WORDS) | st.lists(st.sampled_from(WORDS), max_size=3)
    if kind == "config":
        files[CONFIG], told = harm_json(draw, json.loads(files[CONFIG]), values)
    elif kind == "yaml":
        files[FILE], told = harm_json(draw, yaml.safe_load(files[FILE]), values)
        if draw(st.integers(0, 6)) == 0:
            files[FILE], told = draw(st.sampled_from(_YAML)), "strange YAML"
    elif kind == "table":
        return _harmed_table(draw, files)
    elif kind == "fits":
        lines = files[FITS].split(b"\n")
        at = draw(st.integers(0, len(lines) - 2))
        lines[at], told = harm_json(draw, json.loads(lines[at]), values)
        files[FITS] = b"\n".join(lines)
    else:
        name = one_of_files(draw, files)
        files[name], told = harm_bytes(draw, files[name])
        return f"{name}: {told}"
    return f"{kind}: {told}"


_YAML = (
    b"!!python/object/apply:os.system ['touch PAYLOAD_RAN']", b"a: &a [x]\nb: *a\ntitle: *a", b"[" * 3000,
    b"? [a]\n: b",
    b"a: &a [l,l,l,l,l,l,l,l,l]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\ntitle: [*e,*e,*e,*e,*e,*e,*e,*e]",
    b"&a [*a]", b"title: 2026-13-45", b"\xff\xfe", b"title: !!binary x", b"- - - -", b"%YAML 9.9\n---\n{}",
)  # fmt: skip


def _harmed_table(draw: Draw, files: Files) -> str:
    name = one_of_files(draw, files, TABLES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        path.write_bytes(files[name])
        table = pd.read_parquet(path)
        column = draw(st.sampled_from(sorted(table.columns)))
        kind = draw(st.sampled_from(["drop", "text", "nan", "empty", "rename", "fewer", "duplicate"]))
        if kind == "drop":
            table = table.drop(columns=column)
        elif kind == "text":
            table[column] = draw(st.sampled_from(["x", "<b>", "", *WORDS]))
        elif kind == "nan":
            table[column] = None
        elif kind == "rename":
            table = table.rename(columns={column: draw(st.text(max_size=5))})
        elif kind == "duplicate":
            table = pd.concat([table, table])
        else:
            table = table.iloc[: 0 if kind == "empty" else draw(st.integers(0, len(table)))]
        table.to_parquet(path, index=False)
        files[name] = path.read_bytes()
    return f"{name}: {column} {kind}"


_DRAWN: set[tuple[int, ...]] = set()


def read(folder: Path) -> None:
    Study.read(folder / FILE)
    Kept(
        folder / FITS,
        "probing",
        _fingerprint(folder / FITS),
        ("source", "content", "label", "values", "probe", "target"),
        "x",
    )
    study, tables, _ = read_results(folder / "done")
    if "probing" in tables:
        findings(tables["probing"], study)
    sizes = tuple((folder / name).stat().st_size for name in TABLES)
    if sizes not in _DRAWN:  # drawing takes longer than all else together: once for each table
        list(study_figures(study, tables))
        _DRAWN.add(sizes)


def _fingerprint(path: Path) -> str:
    """As the file's own first line says, so that its other lines are read."""
    try:
        return str(json.loads(path.read_bytes().split(b"\n")[0]).get("probing"))
    except (ValueError, AttributeError, RecursionError):
        return "none"
