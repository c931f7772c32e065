"""Virtual heads: which pairs of a source and a target head add to a prediction, and through which tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from model import Capture, HookedDCFormer
from probes.pre_and_post import pre_and_post_of_layer
from probes.virtual_heads import score_contrast
from workbench.attributions import Attributions, HeadKeys, head_keys, likely_tokens
from workbench.figures import head_matrices_figure, virtual_head_flow_figure, virtual_head_keys_figure
from workbench.figures.virtual_head_flow import largest_edges
from workbench.links import integer_field, text_field
from workbench.pages.address import address, end, restored
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure
from workbench.pages.explore_link import explore_button
from workbench.pages.shared import attempt, choose_run, run_fields, told, workbench
from workbench.pages.tables import plain, table
from workbench.scripts import virtual_heads_script
from workbench.session import Workbench
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token

EXACT = "exact with the final norm's scale frozen at its actual value"
# comments, not strings below the values: Streamlit would write those on the page
ROWS_SHOWN = 1000  # of the ranked table; the download holds all
EDGES = 16  # bands of the flow diagram
NONE = -1  # stands for no contrast in a list of token ids
Head = tuple[int, int, int]  # (layer, source, target)
Tokens = tuple[int, int | None]  # ids of the token and of its contrast


def page() -> None:
    bench = workbench()
    fields = [
        *run_fields(bench), integer_field("vh_query", "query", low=0), integer_field("vh_key", "key", low=0),
        integer_field("vh token", "token", low=0), text_field("vh token text", "token-text"),
        integer_field("vh contrast", "contrast", low=NONE), text_field("vh contrast text", "contrast-text"),
        *(integer_field(f"vh {part}", part.replace(" ", "-"), low=0) for part in PARTS),
    ]  # fmt: skip
    with address("virtual_heads", fields):
        virtual_heads(bench)


def virtual_heads(bench: Workbench) -> None:
    name, prompt, run = choose_run(bench)
    st.subheader("Virtual heads: which pairs of heads make a prediction?", anchor=False)
    st.caption(
        "Virtual head g → h: the pattern of source head g, weighted by M_post[g, h], carried by the values and the "
        "output of target head h. Together they are the attention output of their layer."
    )
    if not run.cfg.mixed_sites:
        st.info("This model mixes no heads: M is the identity, so that only virtual heads g → g carry anything.")
    query = current_query((name, prompt), run)
    tools, strip = st.container(), st.container()
    model = attempt(lambda: bench.model(name))
    tokens = choose_tokens(model, run, query)
    if tokens is None:
        with strip:
            show_tokens(run, query, query, np.full(len(run), np.nan), "Tokens: click chooses the query.")
        end()
    found = attempt(lambda: bench.attributions(name, prompt, query, *tokens))
    head = current_head(found, (name, prompt, query, *tokens), run)
    with tools:
        copy_as_python(virtual_heads_script(*bench.parts(name), prompt, query, tokens, head))
    row = head_keys(run, head[0], query, head[1], head[2], found.direction)
    key = row.strongest if st.session_state.vh_key is None else st.session_state.vh_key
    with strip:
        show_tokens(run, query, key, row.over(len(run)), _strip_caption(head))
    show_attributions(found, head, logit_name(model, tokens))
    show_ranked(found)
    show_head((name, prompt), run, found, row, query)
    show_flow(found, head[0])
    show_scores(run, head[0], query, key)
    show_orders(run, found, head[0], query)


# -- what is looked at -------------------------------------------------------------------------------


def current_query(question: tuple[str, str], run: Capture) -> int:
    """The query position: the last token of a new prompt, until another is clicked or a link says one."""
    state = st.session_state
    if restored() and state.vh_query is not None and state.vh_query < len(run):
        state.vh_question = question
        if state.vh_key is not None and state.vh_key >= len(run):
            state.vh_key = None
    elif state.get("vh_question") != question:
        state.vh_question = question
        state.vh_query, state.vh_key = len(run) - 1, None
    return state.vh_query


def go_to(query: int) -> None:
    st.session_state.vh_query, st.session_state.vh_key = query, None


def look_at(key: int) -> None:
    st.session_state.vh_key = key


def current_head(found: Attributions, asked: tuple, run: Capture) -> Head:
    """The virtual head whose details are shown: the largest one, until another is chosen or a link says one."""
    if st.session_state.get("vh_asked") != asked:
        st.session_state.vh_asked = asked
        st.session_state.vh_round = st.session_state.get("vh_round", 0) + 1
        if not (restored() and _there(run)):
            choose_head(found.largest)
    layer, source, target = (st.session_state[f"vh {part}"] for part in PARTS)
    return layer, source, target


def _there(run: Capture) -> bool:
    """Is what the link says a virtual head of this model?"""
    layer, source, target = (st.session_state[f"vh {part}"] for part in PARTS)
    heads = range(run.cfg.n_heads)
    return layer in run.layers and source in heads and target in heads


PARTS = ("layer", "source head", "target head")


def choose_head(head: Head) -> None:
    for part, value in zip(PARTS, head, strict=True):
        st.session_state[f"vh {part}"] = int(value)
    st.session_state.vh_key = None


# -- the parts of the page, top to bottom ------------------------------------------------------------


def _strip_caption(head: Head) -> str:
    layer, source, target = head
    return (
        f"Tokens: click chooses the query, shift-click a key. Shade: raw pattern × M_post of virtual head {source} → "
        f"{target} of layer {layer} from the query (red positive, blue negative)."
    )


def show_tokens(run: Capture, query: int, key: int, weights: np.ndarray, caption: str) -> None:
    st.caption(caption)
    token_strip(run.str_tokens, weights, query, key, widget_key="vh tokens", on_query=go_to, on_key=look_at)


def choose_tokens(model: HookedDCFormer, run: Capture, query: int) -> Tokens | None:
    """Ids of the token whose logit is asked for and of its contrast; None, and a message, where a text is no token."""
    likely = likely_tokens(run, query)
    if st.session_state.get("vh_likely") != (st.session_state.vh_question, query):
        st.session_state.vh_likely = (st.session_state.vh_question, query)
        if not (restored() and st.session_state["vh token"] in likely):
            st.session_state["vh token"] = next(iter(likely))
        if not (restored() and st.session_state["vh contrast"] in likely):
            st.session_state["vh contrast"] = NONE

    def named(token: int) -> str:
        return "none" if token == NONE else f"{visible_token(str(model.to_string([token])))}  ({likely[token]:.3f})"

    places = st.columns(4, vertical_alignment="bottom")
    token = places[0].selectbox(
        "Token", list(likely), format_func=named, key="vh token", persist_state="session",
        help="What its logit is made of. The 20 most likely tokens after the query, with their probabilities.",
    )  # fmt: skip
    other = _text(places[1], "or another token", "vh token text")
    contrast = places[2].selectbox(
        "Minus the logit of", [NONE, *likely], format_func=named, key="vh contrast", persist_state="session",
        help="A contrast takes out what all tokens gain alike.",
    )  # fmt: skip
    other_contrast = _text(places[3], "or of another token", "vh contrast text")
    try:
        token = model.to_single_token(other) if other else token
        if other_contrast:
            return token, model.to_single_token(other_contrast)
    except ValueError as error:
        st.error(told(error), icon=":material/error:")
        return None
    return token, None if contrast == NONE else contrast


def logit_name(model: HookedDCFormer, tokens: Tokens) -> str:
    """What is attributed, in Markdown."""
    token, contrast = (None if at is None else plain(visible_token(str(model.to_string([at])))) for at in tokens)
    return f"the logit of “{token}”" + ("" if contrast is None else f" minus that of “{contrast}”")


def _text(place: Any, label: str, key: str) -> str:
    return place.text_input(
        label, key=key, persist_state="session", placeholder="its text",
        help="Exactly one token; spaces count. Empty: the choice on its left.",
    )  # fmt: skip


def show_attributions(found: Attributions, head: Head, logit: str) -> None:
    layers = list(found.matrices)
    st.markdown(f"##### What each virtual head adds to {logit}")
    st.caption(
        f"Source × target heads of each layer, in logits, on one scale; {EXACT}. Green frame: the virtual head below."
    )
    panels = {f"layer {layer}: sum {found.sum_of_pieces(layer):+.3f}": found.matrices[layer] for layer in layers}
    figure = head_matrices_figure(panels, "logits", (layers.index(head[0]), head[1], head[2]))
    show_figure(figure, key="vh attributions", name="attributions")
    layer = head[0]
    numbers = st.columns(4)
    numbers[0].metric(f"sum of pieces, layer {layer}", f"{found.sum_of_pieces(layer):.4f}")
    numbers[1].metric(
        f"attention output, layer {layer}", f"{found.direct[layer]:.4f}",
        help="Direct attribution of the layer's attention output without its bias, from the whole composed pattern.",
    )  # fmt: skip
    numbers[2].metric("difference, largest of all layers", f"{found.largest_error:.1e}")
    numbers[3].metric(
        "sum over all layers", f"{sum(found.direct.values()):.4f}",
        help="What attention adds to the logit at this query; the rest comes from the embedding, MLPs and biases.",
    )  # fmt: skip


def show_ranked(found: Attributions) -> None:
    ranked = found.table.drop(columns="query")
    st.markdown("##### The largest first")
    more = f" The first {ROWS_SHOWN} are shown." if len(ranked) > ROWS_SHOWN else ""
    st.caption(
        "Share: of the absolute attributions of all layers. Weight: sum over keys of raw pattern × M_post, signed. "
        f"Norm: length of what the virtual head writes. Select a row for its details.{more}"
    )

    def take(row: int) -> None:
        choose_head(tuple(int(ranked[name].iloc[row]) for name in ("layer", "source", "target")))  # type: ignore[arg-type]

    number = st.column_config.NumberColumn
    columns = {
        "attribution": number("attribution (logits)", format="%+.4f"), "share": number("share", format="percent"),
        "weight": number("weight", format="%+.3f"), "norm": number("norm", format="%.3f"),
    }  # fmt: skip
    # another question is another table: a row that was selected in the last one means nothing here
    key = f"vh ranked {st.session_state.vh_round}"
    table(ranked, "virtual_heads", key=key, columns=columns, height=300, on_row=take, rows_shown=ROWS_SHOWN)


def show_head(question: tuple[str, str], run: Capture, found: Attributions, row: HeadKeys, query: int) -> None:
    st.markdown("##### One virtual head, token by token")
    options = (list(found.matrices), range(run.cfg.n_heads), range(run.cfg.n_heads))
    for place, part, offered in zip(st.columns(3), PARTS, options, strict=True):
        place.selectbox(part.capitalize(), offered, key=f"vh {part}", persist_state="session")
    layer, source, target = (st.session_state[f"vh {part}"] for part in PARTS)
    at = found.table.query("layer == @layer and source == @source and target == @target").iloc[0]
    numbers = st.columns(4)
    numbers[0].metric("attribution", f"{at.attribution:+.4f}", help=f"Logits; {EXACT}.")
    numbers[1].metric(
        "share", f"{at.share:.1%}", help="Of the absolute attributions of all virtual heads of all layers."
    )
    numbers[2].metric("weight", f"{at.weight:+.3f}", help="Sum over keys of raw pattern × M_post; keys may cancel.")
    numbers[3].metric("norm", f"{at.norm:.3f}", help="Length of what it writes to the residual stream.")
    st.caption(
        f"From query {query}, over the keys that it sees: raw pattern of source {source}; M_post[{source}, {target}]; "
        f"and their product times what the value of target {target} adds to the logit, summing to the attribution."
    )
    names = [visible_token(token) for token in run.str_tokens[row.keys]]
    figure = virtual_head_keys_figure(row.pattern, row.mixing, row.attribution, names, row.keys.start)
    show_figure(figure, key="vh keys", name="virtual_head_keys")
    with st.container(horizontal=True):
        explore_button(question, run, layer, target, query, row.strongest, f"Explore target head {target}")
        explore_button(question, run, layer, source, query, row.strongest, f"Explore source head {source}")


def show_flow(found: Attributions, layer: int) -> None:
    matrix = found.matrices[layer]
    edges = largest_edges(matrix, EDGES)
    st.markdown(f"##### Layer {layer}: from source patterns to target values")
    if not edges:
        st.info("No virtual head of this layer adds anything at this query.")
        return
    size = sum(abs(matrix[edge]) for edge in edges) / np.abs(matrix).sum()
    st.caption(
        f"The {len(edges)} largest of {matrix.size} virtual heads, {size:.0%} of the layer's absolute attribution. "
        "Width: size in logits; red adds to the logit, blue takes away."
    )
    figure = virtual_head_flow_figure(matrix, EDGES, st.context.theme.type == "dark")
    show_figure(figure, key="vh flow", name="virtual_head_flow")


def show_scores(run: Capture, layer: int, query: int, key: int) -> None:
    seen = run.keys_seen(layer, query)
    st.markdown(f"##### Before the softmax: which source heads send layer {layer} to key {key}")
    token = visible_token(run.str_tokens[key])
    st.code(f"query {query}: {visible_token(run.str_tokens[query])}    key {key}: {token}", language=None)
    if not seen.start <= key < seen.stop:
        st.info(
            f"Query {query} sees keys {seen.start} to {seen.stop - 1} in this layer. Shift-click one of them above."
        )
        return
    st.caption(
        "Raw score of the source × M_pre[source, target] at this key, minus its mean over all keys that the query "
        "sees: a softmax knows no constant. Each column sums to the target's composed score of the key minus its mean. "
        "Shift-click a token above to choose another key."
    )
    contrast = score_contrast(run, layer, query, key).numpy()
    figure = head_matrices_figure({f"layer {layer}, key {key}": contrast}, "score", sums=True)
    show_figure(figure, key="vh scores", name="score_attributions")


def show_orders(run: Capture, found: Attributions, layer: int, query: int) -> None:
    st.markdown(f"##### Layer {layer}: what mixing brings through scores and through the pattern")
    try:
        parts = pre_and_post_of_layer(run, layer, query, found.direction)
    except ValueError as error:  # a model that does not mix at both sites
        st.info(told(error))
        return
    st.caption(
        "The softmax lies between the two, so they do not commute: what one brings depends on whether the other is "
        f"there already. Logits that this layer's attention adds, with its other inputs as they are; {EXACT}."
    )
    for place, what in zip(st.columns(4), ("neither", "pre", "post", "both"), strict=True):
        label = {"pre": "mixing scores only", "post": "mixing the pattern only"}.get(what, f"mixing {what}")
        place.metric(label, f"{getattr(parts, what):+.4f}")
    rows = parts.table().rename_axis("order").reset_index()
    number = st.column_config.NumberColumn
    columns = {
        "pre": number("through pre-mixing", format="%+.4f"), "post": number("through post-mixing", format="%+.4f"),
        "sum": number("both − neither", format="%+.4f"),
    }  # fmt: skip
    table(rows, "pre_and_post", key="vh orders", columns=columns)


page()
