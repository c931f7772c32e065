"""The sweep of the Intervene page: what to change, over what, a run that can be cancelled, and its result."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from model import Capture
from model.config import SITES
from probes.attribution import SMOOTH
from probes.measures import MEASURES
from workbench.figures import sweep_cells_figure
from workbench.jobs import Cancelled, Job
from workbench.links import Field, choice_field, flag_field, integer_field, list_field
from workbench.pages.change_form import mode_fields, mode_inputs, position_choice
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure
from workbench.pages.job_progress import show_job
from workbench.pages.shared import attempt
from workbench.pages.sweep_pair import ChosenPair, chosen_pair, of_pair
from workbench.pages.tables import table
from workbench.scripts import sweep_script
from workbench.session import Workbench
from workbench.sweeping import GRIDS, SweepRequest, SweepResult, sweep_panels
from workbench.viewer.view import visible_token

MODES = {
    "branch": ["zero", "scale", "mean", "set", "shuffle", "random"],
    "edge": ["identity", "zero", "scale", "mean", "set", "random"],
    "head": ["identity", "zero", "scale", "mean", "random"],
    "position": ["zero", "scale", "mean", "shuffle", "random"],
}
"""What each grid offers; the first is where it starts."""
OFFERED = (["this prompt"], ["this prompt", "held-out task rows"])
OF_TEXT = ("loss", "kl")
OF_PAIR = ["logit_difference", "loss", "kl", "accuracy"]


def sweep_fields() -> list[Field]:
    """What the URL holds of a sweep's settings."""
    return [
        choice_field("sweep grid", list(GRIDS), "grid"),
        list_field("sweep layers", int), list_field("sweep sites", options=SITES), list_field("sweep positions", int),
        *(choice_field(f"sweep over {len(offered)}", offered, f"over-{len(offered)}") for offered in OFFERED),
        integer_field("sweep rows", default=8, low=1, high=1000), integer_field("sweep seed", None, 0, 0, 2**31 - 1),
        choice_field("sweep measure", list(MEASURES)), choice_field("sweep measure of pair", OF_PAIR),
        flag_field("sweep estimate"), *(field for key, modes in _mode_keys() for field in mode_fields(key, modes)),
    ]  # fmt: skip


def _mode_keys() -> list[tuple[str, list[str]]]:
    """Start of the keys of every grid's mode, and the modes that it offers, without a pair and with one."""
    alone = [(f"sweep {grid}", modes) for grid, modes in MODES.items()]
    return alone + [(f"sweep {grid} of pair", ["patch", *modes]) for grid, modes in MODES.items()]


@dataclass
class Asked:
    """A sweep of this session, and what was asked for.

    tokens: of the prompt, as text: when the result is there, the model may have been unloaded.
    """

    request: SweepRequest
    job: Job[SweepResult]
    tokens: list[str]


def sweep_section(bench: Workbench, name: str, prompt: str, run: Capture) -> None:
    pair = chosen_pair(attempt(lambda: bench.model(name)))
    if pair is not None and pair.rows.clean.plain_text != prompt:
        prompt = pair.rows.clean.plain_text
        run = attempt(lambda: bench.capture(name, prompt))
    request = _request(name, prompt, run, pair)
    asked: Asked | None = st.session_state.get("sweep")
    busy = asked is not None and asked.job.running
    if st.button("Run", icon=":material/play_arrow:", type="primary", disabled=busy, key="run sweep"):
        st.session_state.sweep = _start(bench, request, run)
        st.rerun()  # so that the button is drawn as one that cannot be pressed twice
    if asked is None:
        st.info("A sweep makes the change at every place of the grid in turn, and measures each.")
        return
    if busy:
        show_job(
            asked.job, "cancel sweep", lambda done, total: f"{done} of {total} runs" if total else "Preparing ...",
            cancelling="Cancelling after the runs in hand ...", waiting="Waiting for another job to end ...",
        )  # fmt: skip
    else:
        _show(asked, request)


def _request(name: str, prompt: str, run: Capture, pair: ChosenPair | None) -> SweepRequest:
    """What the controls say."""
    with st.container(border=True):
        top = st.columns(3)
        grid = top[0].selectbox(
            "Grid", list(GRIDS), format_func=lambda g: GRIDS[g], key="sweep grid", persist_state="session"
        )
        modes = MODES[grid] if pair is None else ["patch", *MODES[grid]]
        fields = mode_inputs(f"sweep {grid}{of_pair(pair)}", prompt, top[1:], modes)
        if pair is not None and fields["mode"] == "patch":
            fields["prompt"] = pair.rows.corrupted.plain_text
        where = st.columns(3)
        layers = _some(where[0], "Layers", range(run.cfg.n_layers), "sweep layers")
        sites = _some(where[1], "Sites", run.cfg.mixed_sites, "sweep sites")
        positions = position_choice(where[2], run, "sweep positions") if grid == "position" else []
        over = st.columns(3, vertical_alignment="bottom")
        rows, seed = _examples(over[0], over[2], grid) if pair is None else (0, 0)
        if pair is not None:
            over[0].caption("Measured over the answer of the pair's clean row.")
        measures = list(MEASURES) if rows else OF_PAIR if pair is not None else list(OF_TEXT)
        key = f"sweep measure{of_pair(pair)}"
        if st.session_state.get(key) not in measures:  # other sequences allow other measures
            st.session_state[key] = measures[0]
        measure = over[1].selectbox(
            "Measure", measures, format_func=lambda m: MEASURES[m].title, key=key, persist_state="session"
        )
        estimate = st.checkbox(
            "Estimate by gradient (one backward pass) beside it, and say how well the two agree", key="sweep estimate",
            persist_state="session", disabled=measure not in SMOOTH,
            help="First order, see probes.attribution. Only loss and logit difference have a gradient to go by.",
        )  # fmt: skip
    corpus = fields.pop("corpus", ())
    return SweepRequest(
        name, prompt, grid, measure, tuple(fields.items()), corpus, tuple(layers), tuple(sites), tuple(positions), rows,
        seed, estimate and measure in SMOOTH, "" if pair is None else str(pair.name),
    )  # fmt: skip


def _examples(place: Any, beside: Any, grid: str) -> tuple[int, int]:
    """How many task rows (0 = the prompt), and their seed."""
    offered = OFFERED[0] if grid == "position" else OFFERED[1]
    over = place.selectbox(
        "Measured over", offered, key=f"sweep over {len(offered)}", persist_state="session",
        help="Task rows are generated: in-context rules, with word pairs that no training row uses. "
        "Several sequences give intervals.",
    )  # fmt: skip
    if over == "this prompt":
        return 0, 0
    rows, seed = beside.columns(2)
    count = rows.number_input("Rows", 1, 1000, step=1, key="sweep rows", persist_state="session")
    return int(count), int(seed.number_input("Seed", 0, 2**31 - 1, step=1, key="sweep seed", persist_state="session"))


def _some(place: Any, label: str, options: Any, key: str) -> list[Any]:
    return place.multiselect(label, options, key=key, placeholder="all", persist_state="session")


# -- running -----------------------------------------------------------------------------------------


def _start(bench: Workbench, request: SweepRequest, run: Capture) -> Asked:
    """Refuse what cannot run while the person still looks at it; then begin."""

    def checked() -> None:
        mean = bench.mean_mixing(request.model, request.corpus) if request.corpus else None
        request.examples(bench.model(request.model))
        for cell in request.cells(run.cfg, len(run), mean):
            cell.change.check(run.cfg)  # type: ignore[union-attr]

    attempt(checked)
    # the folder goes when the session does; a request has one file in it, from which it goes on
    if "sweep_folder" not in st.session_state:
        st.session_state.sweep_folder = tempfile.TemporaryDirectory()
    digest = hashlib.sha256(repr(sorted(asdict(request).items())).encode()).hexdigest()
    out = Path(st.session_state.sweep_folder.name) / f"{digest}.jsonl"
    return Asked(request, bench.start_sweep(request, out), list(run.str_tokens))


# -- the result --------------------------------------------------------------------------------------


def _show(asked: Asked, now: SweepRequest) -> None:
    try:
        result = attempt(asked.job.value)
    except Cancelled:
        done, total = asked.job.progress
        st.warning(f"Cancelled after {done} of {total} runs. They are kept: the same sweep goes on from there.")
        return
    if asked.request != now:
        st.caption("The settings above have changed since this sweep ran.")
    st.markdown(f"##### {_described(asked.request)}")
    copy_as_python(sweep_script(asked.request))
    _heatmap(result, asked.request, "change", asked.tokens)
    if "estimate" in result.table:
        st.caption("Estimated by gradient, from one backward pass, on a scale of its own:")
        _heatmap(result, asked.request, "estimate", asked.tokens)
        _agreement(result)
    _table(result, asked.request)


def _described(request: SweepRequest) -> str:
    over = f"{request.rows} held-out task rows (seed {request.seed})" if request.rows else "this prompt"
    over = f"the answer of task row {request.pair}" if request.pair else over
    change = dict(request.change)
    numbers = "".join(f" {name} {value:g}" for name, value in change.items() if name not in ("mode", "prompt"))
    return f"{MEASURES[request.measure].title} over {over}: {change['mode']}{numbers} at each {GRIDS[request.grid]}"


def _heatmap(result: SweepResult, request: SweepRequest, column: str, tokens: Sequence[str]) -> None:
    shown = sweep_panels(result.table, request.grid, column)
    by_token = request.grid == "position"
    cols = [f"{at}: {visible_token(tokens[int(at)])}" for at in shown.cols] if by_token else shown.cols
    titles, unit = (shown.row_title, shown.col_title), MEASURES[request.measure].unit
    figure = sweep_cells_figure(shown.panels, shown.rows, cols, titles, unit)
    show_figure(figure, key=f"sweep map of {column}", name=f"sweep_{column}")


def _agreement(result: SweepResult) -> None:
    if result.agreement is None:
        return
    titles = {
        "pearson": ("correlation", "Pearson, of estimate and change over the cells."),
        "spearman": ("rank correlation", "Spearman."),
        "sign": ("same sign", "Share of cells."),
        "ratio": ("change / estimate", "Least-squares slope through 0; 1 = neither too large nor too small."),
        "top": ("largest in common", "Share of the 10 largest changes that are among the 10 largest estimates."),
    }
    for place, (name, (title, meaning)) in zip(st.columns(len(titles)), titles.items(), strict=True):
        place.metric(title, f"{result.agreement[name]:.3f}", help=meaning)


def _table(result: SweepResult, request: SweepRequest) -> None:
    ordered = result.table.sort_values("change", key=abs, ascending=False)
    st.caption(
        f"{MEASURES[request.measure].definition} Largest changes first; low and high: 95% bootstrap interval of the "
        "change over sequences" + (" (one prompt has none: measure over task rows)." if not request.rows else ".")
    )
    table(ordered, "sweep", key="sweep table", columns={}, height=320)
