"""The fused decoding step of benchmarks/gpu_decode.py, in Triton's interpreter, equals the functions of prefill."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is made for Linux only")

from benchmarks import gpu_layers
from benchmarks.gpu_decode import Decoder
from benchmarks.gpu_layers import SHAPES, Stack
from tests.models import relative_error

TINY = {"d_model": 96, "d_mlp": 144, "heads": 4, "layers": 2, "window": 5}


@pytest.mark.parametrize("composed", [True, False], ids=["composed", "plain"])
@pytest.mark.parametrize(("name", "rotary"), [("dcformer-2.8b", 24), ("dcpythia-6.9b", 6)])
def test_the_fused_step_gives_the_logits_of_the_functions(monkeypatch, name, rotary, composed):
    monkeypatch.setattr(gpu_layers, "VOCABULARY", 37)
    shape = replace(SHAPES[name], rotary_width=rotary, **TINY)
    stack = Stack(shape, torch.device("cpu"), compiled=False, dtype=torch.float32)
    for norm in (w[key] for w in stack.layers for key in ("q_norm", "k_norm", "norm_1", "norm_2")):
        norm.uniform_(0.5, 1.5)
    slow, fused = (Decoder(stack, composed, 9, 4, fused=way) for way in (False, True))
    for mine, theirs in zip(fused.caches, slow.caches, strict=True):
        for kept, value in zip(mine, theirs, strict=True):
            kept.copy_(value)
    for token in (3, 31):
        for decoder in (slow, fused):
            decoder.token.fill_(token)
        assert relative_error(fused.logits(), slow.logits()) < 1e-5
        for decoder in (slow, fused):
            decoder.position.add_(1)
