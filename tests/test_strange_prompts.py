"""Strange prompts are shown as text or refused in a sentence: on every page, in reports, files and links."""

from __future__ import annotations

import ast
import json
import re
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, expect
from streamlit.testing.v1 import AppTest

from model import capture, load_model
from tests.browser_tools import ROOT
from tests.served import serve_workbench
from tests.strange import ELSEWHERE, MARK, MARKUP, REFUSED, SIGNS
from workbench import scripts, views
from workbench.cli import main
from workbench.figures import source_heads_figure
from workbench.inline_plotly import figure_html
from workbench.links import pack_text, read_state, text_field, unpack_text, write_state
from workbench.viewer import standalone_html
from workbench.viewer.files import csv_refusal, view_csv

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
STRANGE = MARKUP | SIGNS
PAGES = [
    path.as_posix()
    for path in (ROOT / "workbench/pages").glob("*.py")
    if path.read_text("utf-8").rstrip().endswith("\npage()") and "choose_run(" in path.read_text("utf-8")
]
"""Pages that ask for a prompt: whatever will be added is among them."""


def test_the_pages_with_a_prompt_are_found():
    assert len(PAGES) >= 4


# -- every page as a script --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.rsplit("/", 1)[1])
def test_no_page_raises_on_a_strange_prompt_and_the_next_prompt_works(page):
    test = AppTest.from_file(page, default_timeout=240).run()
    for name, prompt in (STRANGE | REFUSED).items():
        test.text_area(key="prompt").set_value(prompt).run()
        assert not test.exception, (page, name)
        shown = [message.value for message in (*test.error, *test.info)]
        if name in REFUSED:
            assert any("Type a prompt" in text or "Shorten the prompt" in text for text in shown), (page, name)
        assert all(len(text) < 2500 for text in shown), (page, name)
        for element in test.markdown:
            # pages draw their own markup; a prompt's is never among it
            assert not element.allow_html or MARK not in element.value, (page, name)
    test.text_area(key="prompt").set_value("Mary has an apple.").run()
    assert not test.exception
    assert not test.error


# -- links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRANGE | REFUSED)
def test_a_prompt_comes_back_from_a_link_as_it_was(name):
    prompt = (STRANGE | REFUSED)[name]
    assert unpack_text(pack_text(prompt)) == prompt
    fields = [text_field("prompt", default="something else")]
    said = write_state(fields, {"prompt": prompt})
    assert read_state(fields, said) == ({"prompt": prompt}, [])
    assert not re.search(r"[\x00-\x20<>\"'\\]", urlencode(said))


# -- reports, files and scripts ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


@pytest.mark.parametrize("name", STRANGE)
def test_files_of_a_strange_prompt_hold_it_as_text(model, name):
    prompt = STRANGE[name]
    run = capture(model, prompt)
    at = views.first_selection(run, views.distances(run))
    maps = {kind: values[0] for kind, values in run.maps(at.layer, heads=at.head).items()}
    view = views.head_maps(maps, run, at, "pattern")
    cell = views.read_cell(run, at, "pattern")
    figure = source_heads_figure(cell.parts, at.head, prompt)
    for written in (standalone_html(view, title=prompt), figure_html(figure, prompt)):
        assert_no_markup(written)
    if csv_refusal(view) is None:
        assert len(view_csv(view).splitlines()) > len(run) ** 2
    code = scripts.explore_script("demo/dcformer", "", prompt, at, "pattern")
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert prompt in texts  # and it is no code there


def assert_no_markup(written: str) -> None:
    # the prompt's own script has no src and is no module: its text would stand behind a bare tag
    assert f"<script>window.{MARK}" not in written
    outside = re.sub(r"<script[^>]*>.*?</script>|<style[^>]*>.*?</style>", "", written, flags=re.DOTALL)
    for piece in (f'id="{MARK}"', "<img", "<svg id=", "<b>x</b>", 'javascript:alert(1)">'):
        assert piece not in outside, piece


@pytest.mark.parametrize("name", STRANGE)
def test_the_report_and_the_numbers_of_a_strange_prompt(tmp_path, name):
    out, numbers = tmp_path / "report.html", tmp_path / "numbers.json"
    # with =, since a prompt may begin like an option
    done = CliRunner().invoke(main, ["inspect", f"--prompt={STRANGE[name]}", "--out", str(out), "--json", str(numbers)])
    assert done.exit_code == 0, done.output
    assert_no_markup(out.read_text("utf-8"))
    told = json.loads(numbers.read_text("utf-8"))
    assert told["str_tokens"] == capture(load_model("demo/dcformer"), STRANGE[name]).str_tokens


@pytest.mark.parametrize("name", REFUSED)
def test_the_command_refuses_in_one_sentence(tmp_path, name):
    done = CliRunner().invoke(main, ["inspect", f"--prompt={REFUSED[name]}", "--out", str(tmp_path / "report.html")])
    assert done.exit_code == 2
    assert len(done.output) < 500
    assert not (tmp_path / "report.html").exists()


# -- a real browser ----------------------------------------------------------------------------------


class Watch:
    """What a tab did that no page should make it do."""

    def __init__(self, browser: Browser):
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.page.on("dialog", lambda dialog: (self.asked.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda one: self.asked.append(one.url) if ELSEWHERE in one.url else None)

    def nothing_happened(self, where: str) -> None:
        assert self.asked == [], where
        assert self.page.evaluate(f"typeof window.{MARK}") == "undefined", where
        assert self.page.locator(f"#{MARK}").count() == 0, where
        wrong = f'a[href^="javascript:"], a[href^="{ELSEWHERE}"], img[src^="{ELSEWHERE}"]'
        assert self.page.locator(wrong).count() == 0, where
        assert self.page.get_by_test_id("stException").count() == 0, where


@pytest.mark.browser
def test_markup_in_a_prompt_does_nothing_on_any_page(browser, tmp_path):
    with serve_workbench(tmp_path / "log") as served:
        watch = Watch(browser)
        page = watch.page
        for name, prompt in MARKUP.items():
            page.goto(f"{served.address}/?{urlencode({'prompt': prompt})}")  # as a stranger's link brings it
            page.get_by_test_id("token-strip").first.wait_for()
            expect(page.get_by_label("Prompt", exact=True)).to_have_value(prompt.replace("\r\n", "\n"))
            links = page.get_by_test_id("stSidebarNavLink")
            for title in links.all_inner_texts():
                links.filter(has_text=re.compile(f"^{re.escape(title)}$")).click()
                settled(page)
                watch.nothing_happened(f"{name} on {title}")
        assert "Traceback" not in served.output()
        page.close()


@pytest.mark.browser
def test_pictures_and_files_of_a_strange_prompt_are_saved_and_do_nothing_when_opened(browser, tmp_path):
    prompt = MARKUP["picture"]
    with serve_workbench(tmp_path / "log") as served:
        watch = Watch(browser)
        page = watch.page
        page.goto(f"{served.address}/?{urlencode({'prompt': prompt})}")
        page.get_by_test_id("token-strip").first.wait_for()
        settled(page)
        maps = page.get_by_test_id("map-viewer").nth(1)
        for kind in ("png", "svg"):
            with page.expect_download() as download:
                maps.get_by_test_id(f"map-save-{kind}").click()
            download.value.save_as(tmp_path / f"figure.{kind}")
        page.locator('[class*="st-key-maps-below-maps-menu"] button').first.click()
        with page.expect_download() as download:
            page.get_by_role("button", name="HTML", exact=True).last.click()
        download.value.save_as(tmp_path / "figure.html")
        watch.nothing_happened("saving")
        assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
        for kind in ("svg", "html"):
            page.goto((tmp_path / f"figure.{kind}").as_uri())
            page.wait_for_timeout(1500)
            watch.nothing_happened(kind)
        page.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", ["script", "picture", "end of script", "svg", "style", "right to left"])
def test_a_report_of_a_strange_prompt_does_nothing_when_opened(browser, tmp_path, name):
    out = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["inspect", f"--prompt={STRANGE[name]}", "--out", str(out)])
    assert done.exit_code == 0, done.output
    watch = Watch(browser)
    watch.page.goto(out.as_uri())
    expect(watch.page.locator('[data-testid="map-viewer"][data-state="ready"]')).to_have_count(3, timeout=PATIENCE)
    watch.nothing_happened(name)
    watch.page.close()


def settled(page: Page) -> None:
    page.wait_for_timeout(500)
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=PATIENCE)
