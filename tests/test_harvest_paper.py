"""What a harvest costs on paper: held to the tensors of real stores and to a count of real multiplications."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from model import DCFormerConfig
from probes.features import resolve
from probes.harvest import harvest
from probes.harvest.paper import CHOICES, TABLE_BYTES, Scale, forward_flops, paper_table
from tests.harvest_runs import id_documents
from tests.models import small_model
from workbench.cli import main


def test_bytes_a_token_are_those_of_the_written_tensors(tmp_path):
    model = small_model()
    table = paper_table(model.cfg, Scale(1e6, 1.0, 24)).set_index("keep")
    for number, (words, names) in enumerate(CHOICES.items()):
        chosen = [name.format(middle=1, site="post") for name in names]
        store = harvest(model, id_documents(), tmp_path / str(number), chosen, [])
        assert store is not None
        written = sum(store.read(one).nbytes for one, f in store.features.items() if f.stored_as == "tensor") / len(
            store
        )
        assert table["bytes a token"][words] == written + TABLE_BYTES, words
    assert (table["bytes a token"] <= table["as products"]).all()
    assert table["TB"].iloc[0] == TABLE_BYTES * 1e6 / 1e12


@pytest.mark.parametrize("variant", ["plain", "plain neox"])
def test_operations_of_a_plain_model_are_those_that_are_counted(variant):
    """FlopCounterMode counts matrix products, of whole maps: so every key is seen here, and counted for every query."""
    model, length = small_model(variant), 12
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.run_with_cache(torch.zeros(1, length, dtype=torch.long), names_filter=lambda name: "hook_pattern" in name)
    width = model.cfg.n_heads * model.cfg.d_head
    unseen = 2 * 2 * width * model.cfg.n_layers * (length * length - length * (length + 1) // 2)
    told = forward_flops(model.cfg, length) * length
    assert told <= counter.get_total_flops() <= told + unseen


def test_fewer_layers_and_local_layers_cost_less():
    cfg = DCFormerConfig.preset("dcformer-2.8b")
    whole = forward_flops(cfg, 2048)
    assert 2 * 2.7e9 < whole < 2 * 3.3e9
    assert forward_flops(cfg, 2048, 16, logits=False) < whole / 2
    assert forward_flops(cfg.replace(visible_keys=None), 2048) > whole
    plain = forward_flops(cfg.replace(compose=False), 2048)
    assert 1.0 < whole / plain < 1.1


def test_every_choice_names_features_that_there_are():
    cfg = DCFormerConfig.preset("dcformer-405m")
    for names in CHOICES.values():
        assert resolve([name.format(middle=3, site="post") for name in names], cfg)
    plain = paper_table(cfg.replace(compose=False), Scale(1e9, 100.0, 2048))
    assert not plain["keep"].str.contains("parts|gates").any()


def test_the_command_prints_the_table():
    done = CliRunner().invoke(main, ["harvest", "--model", "dcformer-2.8b", "--paper", "1e9", "--tflops", "100"])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if line.startswith("parts, everywhere"))
    assert row.split()[-5:-2] == [f"{32 * 4 * 5 * 32 * 2 + 16:,}", f"{32 * 4 * 32 * 32 * 2 + 16:,}", "41"]
