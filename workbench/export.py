"""A capture as a file: everything that maps and mixing matrices are made of, and what it was made from."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from model import Capture
from workbench.report import version_here

FORMAT = 1


def capture_npz(run: Capture, model_name: str, prompt: str | None = None) -> bytes:
    """A compressed NPZ file; np.load reads it without pickle.

    Arrays: tokens [pos]; logits [pos, d_vocab] where they were captured; for each layer l `blocks.l.q`, `.k`, `.v`
    [pos, head, d_head] (q and k as they are multiplied, after norm and rotation), and for each site and side that mixes
    `blocks.l.{pre,post}.{query,key}_{down,up,gate}` with the axes of model.mixing.Mixing without the batch, and
    `blocks.l.{pre,post}.static` where a model has one. `metadata` is JSON text: format, version, model, configuration,
    prompt, token texts. What is bfloat16 in memory is float32 in the file.
    """
    arrays: dict[str, np.ndarray] = {"tokens": run.tokens.numpy()}
    if run.logits is not None:
        arrays["logits"] = run.logits.float().numpy()
    for layer, at in sorted(run.layers.items()):
        for name in ("q", "k", "v"):
            arrays[f"blocks.{layer}.{name}"] = _array(getattr(at, name))
        for site in ("pre", "post"):
            for name, factor in getattr(at, site).factors().items():
                arrays[f"blocks.{layer}.{site}.{name}"] = _array(factor[0])
            static = getattr(at, site).static
            if static is not None:
                arrays[f"blocks.{layer}.{site}.static"] = _array(static)
    arrays["metadata"] = np.array(json.dumps(_metadata(run, model_name, prompt)))
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _metadata(run: Capture, model_name: str, prompt: str | None) -> dict[str, Any]:
    return {
        "format": FORMAT, "workbench": version_here(), "model": model_name, "config": run.cfg.to_json_dict(),
        "prompt": prompt, "str_tokens": run.str_tokens, "layers": sorted(run.layers),
    }  # fmt: skip


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype.itemsize < 4 else tensor).numpy()
