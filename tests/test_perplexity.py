"""Loss of texts under a sliding context."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

from model import Engine, load_model
from probes import perplexity
from probes.perplexity import windows
from workbench.cli import main

TEXT = "< Mary has an apple. John has a violin. >. Who has violin? John. " * 3


@pytest.fixture(scope="module")
def engine():
    return Engine(load_model("demo/dcformer"))


@pytest.mark.parametrize(("length", "context", "stride"), [(2, 2, 1), (17, 5, 2), (40, 8, 7), (9, 100, 50), (33, 8, 1)])
def test_every_token_but_the_first_is_scored_once_with_enough_before_it(length, context, stride):
    scored = []
    for start, first, end in windows(length, context, stride):
        assert end - start <= context
        assert first > start
        assert first - start >= min(first, context - stride)
        scored += range(first, end)
    assert scored == list(range(1, length))


def test_a_text_within_the_context_has_the_models_own_loss(engine):
    found = perplexity(engine, TEXT)
    loss = engine.model(TEXT, return_type="loss").item()
    assert found.nats_per_token == pytest.approx(loss, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / (len(TEXT) - len("<")))


def test_a_sliding_context_equals_the_same_windows_by_hand(engine):
    tokens = engine.model.to_tokens(TEXT)[0]
    nats = 0.0
    for start, first, end in windows(len(tokens), 12, 5):
        with torch.no_grad():
            losses = engine.model(tokens[start:end], return_type="loss", loss_per_token=True)[0]
        nats += float(losses[first - start - 1 :].sum())
    assert perplexity(engine, TEXT, context=12, stride=5).nats == pytest.approx(nats, rel=1e-5)


def test_texts_add_up(engine):
    one, other = perplexity(engine, TEXT), perplexity(engine, "Anna went to the market.")
    both = one + other
    assert both.tokens == one.tokens + other.tokens
    assert both.nats_per_token * both.tokens == pytest.approx(one.nats + other.nats)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (" Mary", {}, "The text has 1 token; at least 2 are needed"),
        ("", {}, "The prompt is empty"),
        (TEXT, {"context": 5000}, "context must be 2 to 1024"),
        (TEXT, {"context": 8, "stride": 8}, "stride must be 1 to 7"),
    ],
)
def test_bad_input_is_refused(engine, text, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(engine, text, **options)


def test_the_command_prints_and_writes_the_same_numbers(engine, tmp_path):
    names = [tmp_path / "one.txt", tmp_path / "two.txt"]
    names[0].write_text(TEXT)
    names[1].write_text("Anna went to the market to buy some bread.")
    out = tmp_path / "out.json"
    done = CliRunner().invoke(main, ["evaluate", *map(str, names), "--json", str(out)])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())["files"]
    truth = perplexity(engine, TEXT)
    assert told[str(names[0])]["bits_per_byte"] == pytest.approx(truth.bits_per_byte)
    assert f"{truth.nats_per_token:.4f}" in done.output
    assert told["all"]["tokens"] == sum(told[str(name)]["tokens"] for name in names)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"abc\xff\xfe")
    done = CliRunner().invoke(main, ["evaluate", str(tmp_path / "x.bin")])
    assert done.exit_code == 2
    assert "is not UTF-8 text (byte 3 cannot be read)" in done.output
