"""The Full model page as a script, with good and bad input; tests/test_full_model_browser.py drives it in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from model import Engine, capture, load_model, save_model
from model.backends import fallbacks
from model.config import SITES
from model.memory import in_words, plan
from tests.browser_tools import ROOT
from tests.checkpoint_dirs import random_model, word_tokenizer, write_neox, write_published
from workbench import loading
from workbench.access import ALLOW_HUB, MODELS
from workbench.generating import GenerationRequest
from workbench.pages import generate_section
from workbench.scripts import generation_script

PROMPT = "< Mary has an apple. John has a violin. >. Who has"
PATIENCE = 180_000  # ms; a busy machine is slow, and no test here measures speed


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of models that the page may open, with a copy of the bundled one in it."""
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    monkeypatch.setenv(MODELS, str(tmp_path))
    monkeypatch.delenv(ALLOW_HUB, raising=False)
    st.cache_resource.clear()
    yield tmp_path
    st.cache_resource.clear()


def opened(**query: str) -> AppTest:
    # the page imports the whole model stack, so the first run is slow
    page = AppTest.from_file(str(ROOT / "workbench/pages/full_model.py"), default_timeout=120)
    for name, value in query.items():
        page.query_params[name] = value
    return page.run()


def until(page: AppTest, ready) -> AppTest:
    for _ in range(200):
        if ready(page):
            return page
        time.sleep(0.1)
        page.run()
    raise AssertionError("the page did not come to it in time")


def loaded(page: AppTest) -> AppTest:
    page.button(key="load model").click().run()
    return until(page, lambda page: any(button.key == "generate" for button in page.button))


def generated(page: AppTest) -> AppTest:
    page.button(key="generate").click().run()
    return until(page, lambda page: not page.button(key="generate").disabled and page.metric)


def numbers(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def said(page: AppTest) -> str:
    return "\n".join(
        element.value.replace("\\", "") for element in (*page.caption, *page.text, *page.info, *page.error)
    )


# -- the plan, before anything is loaded -------------------------------------------------------------


def test_the_plan_is_there_before_the_model_is(folder):
    page = opened(model="mine")
    assert not page.exception
    planned = plan(load_model("demo/dcformer").cfg, tokens=1024, mode="generate")
    table = page.dataframe[0].value.set_index("part")
    assert float(table.loc["total", "MiB"]) == pytest.approx(planned.total / 2**20)
    for name, size in planned.parts.items():
        assert float(table.loc[name, "MiB"]) == pytest.approx(size / 2**20)
    assert f"It fits: {in_words(planned.total)} at the peak" in said(page)
    assert "Load the model first" in said(page)
    assert not page.button(key="load model").disabled


def test_the_plan_is_of_the_length_mode_and_dtype_asked_for(folder):
    page = opened(model="mine", plan="capture", length="100", dtype="bfloat16")
    cfg = load_model("demo/dcformer").cfg
    planned = plan(cfg, tokens=100, mode="capture", dtype="bfloat16")
    assert float(page.dataframe[0].value.set_index("part").loc["total", "MiB"]) == pytest.approx(planned.total / 2**20)
    assert "A capture of 1 x 100 tokens in bfloat16 on cpu" in said(page)


def write(kind: str, directory: Path) -> None:
    if kind == "GPT-NeoX":
        write_neox(directory)
    elif kind == "ours":
        save_model(random_model(), directory)
    else:
        write_published(random_model("neox" if kind == "dcpythia" else "llama"), directory, shards=2)
    if kind != "GPT-NeoX":
        word_tokenizer().save_pretrained(directory)


@pytest.mark.parametrize("kind", ["dcformer", "dcpythia", "ours", "GPT-NeoX"])
def test_every_published_layout_is_loaded(folder, kind):
    write(kind, folder / "small")
    page = loaded(opened(model="small", prompt="w3 w4 w5", tokens="7"))
    assert not page.exception
    model = load_model(folder / "small")
    assert f"of weights in float32 on {model.cfg.device}" in said(page)
    page.button(key="generate").click().run()
    if kind == "GPT-NeoX":  # written without a tokenizer
        until(page, lambda page: page.error)
        assert "tokenizer" in page.error[0].value
        return
    until(page, lambda page: not page.button(key="generate").disabled and page.metric)
    assert page.code[0].value == Engine(model).generate("w3 w4 w5", 7)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "No model was named"),
        ("/etc", "may not be opened"),
        ("../mine", "may not be opened"),
        ("nothing", "may not be opened"),
        ("some-org/some-model", "the Hugging Face hub may not be asked"),
        ("empty", "config.json"),
        ("no weights", "holds no weights"),
        ("<script>alert(1)</script>", "may not be opened"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(folder, reference, message):
    (folder / "empty").mkdir()
    write_published(random_model(), folder / "no weights")
    (folder / "no weights" / "model.safetensors").unlink()
    page = opened()
    page.text_input(key="full reference").set_value(reference).run()
    assert not page.exception
    assert len(page.error) == 1
    assert message in page.error[0].value.replace("\\", "")
    assert not any(button.key == "load model" for button in page.button)
    page.text_input(key="full reference").set_value("mine").run()  # and the next one works
    assert not page.error
    assert page.button(key="load model")


def test_what_does_not_fit_cannot_be_loaded(folder, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: 2**20)
    page = opened(model="mine")
    assert "Its weights need 5 MiB in float32, but 1 MiB are free on cpu" in page.error[0].value.replace("\\", "")
    assert page.button(key="load model").disabled


def test_a_run_that_does_not_fit_is_warned_of(folder, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: 9 * 2**20)
    page = opened(model="mine")
    assert "The model fits, this run will not" in page.warning[0].value
    assert not page.button(key="load model").disabled


def test_a_model_that_is_loaded_is_not_said_to_be_too_large(folder, monkeypatch):
    page = loaded(opened(model="mine"))
    monkeypatch.setattr(loading, "free_memory", lambda device: 2**20)
    page.run()
    assert not page.error
    assert page.button(key="generate")


def test_loading_shows_its_progress_and_can_be_given_up(folder, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()

    def slow(reference, device, dtype, watch):
        def held(done, total):
            watch(done, total)
            if done > total / 2:
                entered.set()
                go_on.wait(60)

        return load_model(reference, device, dtype, watch=held)

    monkeypatch.setattr("workbench.running_models.load_model", slow)
    page = opened(model="mine")
    page.button(key="load model").click().run()
    entered.wait(60)
    page.run()
    assert not page.exception
    progress = page.get("progress")[0].proto
    assert 50 <= progress.value < 100
    assert re.match(r"Loading: \d MiB of 5 MiB \.\.\. \d+ s", progress.text)
    page.button(key="cancel load").click().run()
    go_on.set()
    until(page, lambda page: page.warning)
    assert "Loading was given up" in page.warning[0].value
    assert page.button(key="load model")  # and it can be tried again


def test_the_hub_is_asked_only_when_a_person_asks(folder, monkeypatch):
    asked = []

    def fetched(reference, config_only=False):
        asked.append((reference, config_only))
        return folder / "mine"

    monkeypatch.setenv(ALLOW_HUB, "1")
    monkeypatch.setattr("model.checkpoints.hub.fetch", fetched)
    page = opened(model="some-org/some-model")
    assert asked == []
    assert "The plan needs the model's config.json" in said(page)
    assert not any(button.key == "load model" for button in page.button)
    page.button(key="ask hub").click().run()
    assert asked == [("some-org/some-model", True)]
    assert "It fits" in said(page)
    loaded(page)
    assert asked[1:] == [("some-org/some-model", False)]


# -- loading and unloading ---------------------------------------------------------------------------


def test_a_loaded_model_is_on_every_page_until_it_is_unloaded(folder):
    page = loaded(opened(model="mine", dtype="bfloat16"))
    name = f"{folder}/mine [bfloat16]"
    assert f"{name}: 3 MiB of weights in bfloat16 on cpu" in said(page)
    explore = AppTest.from_file(str(ROOT / "workbench/pages/explore.py"), default_timeout=120).run()
    assert name in explore.selectbox(key="model").options
    explore.selectbox(key="model").select(name).run()
    assert not explore.exception
    next(button for button in page.button if button.label == "Unload").click().run()
    assert "Load the model first" in said(page)
    explore = AppTest.from_file(str(ROOT / "workbench/pages/explore.py"), default_timeout=120).run()
    assert name not in explore.selectbox(key="model").options


# -- generation --------------------------------------------------------------------------------------


def test_the_text_and_its_numbers_are_the_librarys(folder):
    page = generated(loaded(opened(model="mine", prompt=PROMPT, tokens="9")))
    assert not page.exception
    model = load_model(folder / "mine")
    assert page.code[0].value == Engine(model).generate(PROMPT, 9)
    assert numbers(page)["new tokens"] == "9 of 9"
    assert float(numbers(page)["prompt, tokens/s"]) > 0
    assert float(numbers(page)["new, tokens/s"]) > 0
    assert "ended · float32 on cpu · attention: eager for the prompt, eager, single query for each token" in said(page)
    assert re.search(r"memory: process (\d+ MiB|\d+\.\d GiB)", said(page))  # after many tests it is more than a GiB
    position = model.to_tokens(PROMPT).shape[1] + 8
    assert page.code[1].value.startswith(f"new token 8, position {position}:")


@pytest.mark.parametrize(("size", "words"), [(700 * 2**20, "700 MiB"), (3 * 2**29, "1.5 GiB")])
def test_the_memory_of_the_process_is_said(folder, monkeypatch, size, words):
    monkeypatch.setattr(generate_section, "memory_in_use", lambda device: {"process": size})
    page = generated(loaded(opened(model="mine", prompt=PROMPT, tokens="2")))
    assert f"memory: process {words}" in said(page)


def test_sampling_follows_its_settings(folder):
    page = loaded(opened(model="mine", prompt=PROMPT, tokens="12", temperature="0.9", seed="4"))
    page = generated(page)
    model = load_model(folder / "mine")
    assert page.code[0].value == Engine(model).generate(PROMPT, 12, temperature=0.9, seed=4)
    page.number_input(key="full top k").set_value(3).run()
    assert "with other settings than those above" in said(page)
    assert generated(page).code[0].value == Engine(model).generate(PROMPT, 12, temperature=0.9, top_k=3, seed=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, None),
        ({"tokens": "5000"}, "leaves no room for 5000 more in a context of 1024"),
        ({"prompt": "word " * 3000}, "context of this model is 1024"),
        ({"prompt": "🙂 שלום \u202e \x07 <b>x</b>"}, None),
    ],
)
def test_strange_prompts_are_continued_or_refused_in_a_sentence(folder, changes, message):
    page = loaded(opened(model="mine", **({"tokens": "4"} | changes)))
    page.button(key="generate").click().run()
    until(page, lambda page: not page.button(key="generate").disabled and (page.metric or page.error))
    assert not page.exception
    assert [message in error.value.replace("\\", "") for error in page.error] == ([] if message is None else [True])


def test_no_prompt_is_said_to_be_none(folder):
    page = loaded(opened(model="mine"))
    page.text_area(key="full prompt").set_value("").run()
    page.button(key="generate").click().run()
    until(page, lambda page: page.error)
    assert "The prompt is empty" in page.error[0].value


def test_a_fallback_is_shown(folder, monkeypatch):
    monkeypatch.setattr(fallbacks, "_messages", {"x": "The kernels cannot run here: slower."})
    page = generated(loaded(opened(model="mine", tokens="3")))
    assert page.warning[0].value.replace("\\", "") == "The kernels cannot run here: slower."


def test_a_plain_model_generates_too(folder):
    page = generated(loaded(opened(model="demo/transformer", tokens="3")))
    assert not page.exception
    assert "no heads are mixed" in said(page)


def test_the_url_restores_every_setting(folder):
    given = {"model": "mine", "device": "cpu", "dtype": "float64", "plan": "last", "length": "77", "prompt": PROMPT,
             "tokens": "5", "temperature": "0.5", "top-k": "6", "seed": "7"}  # fmt: skip
    page = loaded(opened(**given))
    assert page.text_input(key="full reference").value == "mine"
    shown = [
        page.number_input(key=f"full {name}").value for name in ("length", "tokens", "temperature", "top k", "seed")
    ]
    assert shown == [77, 5, 0.5, 6, 7]
    assert {name: page.query_params[name] for name in given} == given
    again = opened(**given)  # another browser, the same process: the model is there
    assert again.text_area(key="full prompt").value == PROMPT
    assert again.button(key="generate")


def test_bad_values_of_a_url_are_named(folder):
    page = opened(model="mine", device="tpu", tokens="many")
    assert not page.exception
    assert [re.findall(r"(device|tokens)=", warning.value.replace("\\", ""))[0] for warning in page.warning] == [
        "device", "tokens",
    ]  # fmt: skip


def test_the_copied_script_gives_the_pages_numbers():
    request = GenerationRequest("demo/dcformer", PROMPT, 20, temperature=0.8, top_k=7, seed=11)
    done = subprocess.run(
        [sys.executable, "-c", generation_script(request, 6, 4)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    model = load_model("demo/dcformer")
    assert told["text"] == Engine(model).generate(PROMPT, 6, **request.sampling())
    before = model.to_tokens(PROMPT)
    ids = Engine(model).generate(before, 6, **request.sampling())
    assert told["ids"] == ids[0, before.shape[1] :].tolist()
    run = capture(model, ids)
    for site in SITES:
        truth = [run.mixing(layer, site).query_distances_from_identity()[before.shape[1] + 4] for layer in range(4)]
        np.testing.assert_allclose(np.array(told["rows"][site]), torch.stack(truth).numpy(), rtol=1e-4, atol=1e-5)
