"""The command line: what it writes, and exit code 2 with one sentence for bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from model import DCFormerConfig, HookedDCFormer, capture, load_model
from model.checkpoints import save_model
from workbench.cli import COMMANDS, main

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
ROOT = Path(__file__).parent.parent


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_every_command_has_help():
    listed = run("--help")
    assert listed.exit_code == 0
    for name, summary in COMMANDS.items():
        assert name in listed.output
        assert summary in listed.output
        own = run(name, "--help")
        assert own.exit_code == 0
        assert "Usage:" in own.output


def test_inspect_writes_one_file_that_needs_nothing_else(tmp_path):
    out = tmp_path / "report.html"
    done = run("inspect", "--prompt", PROMPT, "--out", str(out))
    assert done.exit_code == 0, done.output
    page = out.read_text()
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=", page)
    assert len(re.findall(r'<div data-map-viewer="[\w+/=]{200}', page)) == 3
    assert "M_pre at query" in page
    assert "·violin" in page


def test_inspect_writes_the_librarys_numbers(tmp_path):
    out = tmp_path / "numbers.json"
    done = run(
        "inspect", "--prompt", PROMPT, "--json", str(out), "--layer", "1", "--head", "3", "--query", "9", "--key", "4"
    )
    assert done.exit_code == 0, done.output
    told, truth = json.loads(out.read_text()), capture(load_model("demo/dcformer"), PROMPT)
    assert told["selection"] == {"layer": 1, "head": 3, "query": 9, "key": 4}
    assert told["str_tokens"] == truth.str_tokens
    for kind, site in (("scores", "pre"), ("pattern", "post")):
        matrix = truth.mixing(1, site).matrix(9, 4)
        torch.testing.assert_close(torch.tensor(told["cell"][kind]["matrix"]), matrix)
        branches = told["cell"][kind]["branches"]
        torch.testing.assert_close(sum(map(torch.tensor, branches.values())), matrix)
    row = truth.pattern(1, heads=3, queries=9)[0, 0]
    torch.testing.assert_close(torch.tensor(told["row"]["pattern_composed"]), row)
    assert told["row"]["scores_composed"][-1] is None  # a later key
    distance = truth.mixing(1, "post").distance_from_identity()
    torch.testing.assert_close(torch.tensor(told["distance_from_identity"]["post"][1]), distance)


def test_markup_in_a_prompt_is_shown_as_text(tmp_path):
    out = tmp_path / "report.html"
    done = run("inspect", "--prompt", 'x <script>alert("hi")</script> <img src=x onerror=alert(1)>', "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "<script>alert" not in out.read_text()
    assert "<img src=x" not in out.read_text()


def test_generate_prints_the_models_continuation():
    done = run("generate", "--prompt", PROMPT, "--max-new-tokens", "5")
    assert done.exit_code == 0
    assert done.stdout == load_model("demo/dcformer").generate(PROMPT, 5) + "\n"
    assert "tokens/s" in done.stderr


def test_convert_there_and_back_keeps_every_bit(tmp_path):
    mine, there, back = tmp_path / "mine", tmp_path / "published", tmp_path / "own"
    tokenizer = load_model("demo/dcformer").tokenizer
    # the published layout knows heads of d_model / n_heads alone, which the bundled pair has not
    cfg = DCFormerConfig.from_architecture(
        "llama", n_layers=2, d_model=16, n_heads=4, d_head=4, d_mlp=24, n_ctx=32, d_vocab=len(tokenizer)
    )
    save_model(HookedDCFormer(cfg, tokenizer=tokenizer, seed=0), mine)
    assert run("convert", str(mine), str(there), "--layout", "published").exit_code == 0
    assert run("convert", str(there), str(back)).exit_code == 0
    first, last = load_model(mine), load_model(back)
    assert json.loads((there / "config.json").read_text())["model_type"] == "dcformer"
    for name, value in first.state_dict().items():
        assert torch.equal(value, last.state_dict()[name]), name
    assert last.to_tokens(PROMPT).tolist() == first.to_tokens(PROMPT).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--model", "no/such", "--prompt", "a"], "no/such"),
        (["generate", "--model", "nowhere", "--prompt", "a"], "Unknown model 'nowhere'. Bundled: demo/dcformer"),
        (["generate", "--prompt", ""], "The prompt is empty"),
        (["generate", "--prompt", "word " * 2000], "the context of this model is"),
        (["generate", "--prompt", "a", "--max-new-tokens", "5000"], "leaves no room for 5000 more"),
        (["generate", "--prompt", "a", "--dtype", "int4"], "Unknown dtype 'int4'"),
        (["generate", "--prompt", "a", "--device", "tpu"], "device='tpu' is not known"),
        (["generate", "--prompt", "a", "--top-k", "3"], "temperature=0 is greedy"),
        (["generate"], "Missing option '--prompt'"),
        (["inspect", "--prompt", "a"], "Nothing to write"),
        (["inspect", "--prompt", "a", "--out", "no/such/folder/r.html"], "The folder no/such/folder does not exist"),
        (["inspect", "--prompt", "a", "--json", "-", "--layer", "9"], "Layer 9 does not exist"),
        (["convert", "demo/dcformer", "setup.cfg/x", "--layout", "neox"], "'neox' is not one of"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_help_does_not_wait_for_torch():
    code = "import sys; from workbench.cli import main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
