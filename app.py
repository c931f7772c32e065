"""The workbench in the browser: a list of pages and nothing else. Start it with `make app`."""

import streamlit as st

from workbench.pages.guard import behind_gate

# an image of our own: the icons Streamlit offers here are fetched from the internet
st.set_page_config(page_title="DCFormer workbench", page_icon="workbench/pages/icon.png", layout="wide")
behind_gate()
st.navigation(
    [
        st.Page("workbench/pages/explore.py", title="Explore", default=True),
        st.Page("workbench/pages/compare.py", title="Compare"),
        st.Page("workbench/pages/intervene.py", title="Intervene"),
        st.Page("workbench/pages/virtual_heads.py", title="Virtual heads"),
        st.Page("workbench/pages/heads.py", title="Heads"),
        st.Page("workbench/pages/probing.py", title="Probes", url_path="probes"),
        st.Page("workbench/pages/full_model.py", title="Full model", url_path="full-model"),
        st.Page("workbench/pages/tasks_page.py", title="Tasks", url_path="tasks"),
    ]
).run()
