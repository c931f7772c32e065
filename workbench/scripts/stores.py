"""The page Probes: finished studies, stores, and their components."""

from __future__ import annotations

from workbench.scripts.base import script
from workbench.store_components import LISTED, WINDOW, ComponentRequest


def study_script(folder: str) -> str:
    """The tables of a finished study."""
    lines = [
        f"study, tables, config = read_results({folder!r})",
        "# tables: name -> pandas table; findings(tables['probing'], study) says in words what was found",
    ]
    return script(
        ["from probes.study import read_results"],
        lines,
        {"rows": "{name: len(table) for name, table in tables.items()}"},
    )


def store_script(folder: str, rows: int) -> str:
    """The first rows of a store's token table, and its features."""
    lines = [
        f"store = Store.open({folder!r})",
        f"table = store.table(rows=slice(0, {rows}))  # store.read(feature, rows) gives a feature as an array",
    ]
    numbers = {
        "tokens": "len(store)", "features": "[one.name for one in store.manifest.features]",
        "first": "table.astype(str).to_dict('records')",
    }  # fmt: skip
    return script(["from probes import Store"], lines, numbers)


def components_script(request: ComponentRequest) -> str:
    """What the component explorer shows: shares, and the tokens that have each component most."""
    lines = [
        f"store = Store.open({request.folder!r})",
        f"rows = slice(0, min({request.tokens}, len(store)))",
        f"values = store.read({request.feature!r}, rows).astype('float64')",
        "values = values.reshape(len(values), -1)",
        f"found = decompose(values, {request.count}, {request.method!r}, signs='split', seed={request.seed})",
        "table = store.table(['document', 'position', 'token'], rows)",
        "tokens = table.token.astype(str).tolist()",
        f"top = top_tokens(found, tokens, table.document, count={LISTED}, window={WINDOW}, positions=table.position)",
    ]
    numbers = {
        "share": "found.share.tolist()", "dimension": "participation_ratio(values)",
        "top": "top[['component', 'end', 'score', 'left', 'token', 'right']].to_dict('records')",
    }  # fmt: skip
    imports = [
        "from probes import Store", "from probes.components import decompose, participation_ratio, top_tokens"
    ]  # fmt: skip
    return script(imports, lines, numbers)
