"""What a run takes is said before it is tried."""

import json

import pytest
import torch
from click.testing import CliRunner

from model import DCFormerConfig, HookedDCFormer, load_model
from model.checkpoints.load import read_config
from model.memory import parameter_count, plan
from tests.models import VARIANTS, small_config
from workbench.cli import main

CASE = ["plan", "--model", "dcformer-2.8b", "--tokens", "2048", "--dtype", "bf16", "--device", "cuda"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_counted_as_the_model_has_them(variant):
    cfg = small_config(variant)
    assert parameter_count(cfg) == sum(p.numel() for p in HookedDCFormer(cfg).parameters())


def test_parts_sum_to_the_total_and_grow_as_they_should():
    cfg = DCFormerConfig.preset("dcformer-405m", n_layers=2)
    short, long = (plan(cfg, tokens=tokens, mode="generate") for tokens in (512, 2048))
    assert short.total == sum(short.parts.values())
    # layer 0 keeps 256 keys at most, layer 1 all of them
    assert long.parts["key cache"] * (512 + 256) == short.parts["key cache"] * (2048 + 256)
    assert long.if_asked["maps of one layer"] == 16 * short.if_asked["maps of one layer"]
    assert long.if_asked["maps of one layer"] == 4 * 16 * 2048 * 2048 * 4


def test_the_command_says_what_a_big_model_takes_without_loading_it():
    done = CliRunner().invoke(main, [*CASE, "--json", "-", "--memory", "24GiB"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["parts"]["weights"] == 2 * parameter_count(DCFormerConfig.preset("dcformer-2.8b"))
    assert told["total"] == sum(told["parts"].values())
    assert told["fits"] is True


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--memory", "1GiB"], "GiB"),
        (["--memory", "lots"], "is not a size"),
        (["--tokens", "9000"], "context of this model is 2048"),
    ],
)
def test_what_will_not_fit_or_makes_no_sense_is_refused(extra, message):
    done = CliRunner().invoke(main, [*CASE, *extra])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_configuration_is_read_without_the_weights():
    cfg, model = read_config("demo/dcformer"), load_model("demo/dcformer")
    assert (cfg.d_model, cfg.n_layers, cfg.visible_keys) == (model.cfg.d_model, 4, model.cfg.visible_keys)
    assert cfg.dtype == torch.float32
