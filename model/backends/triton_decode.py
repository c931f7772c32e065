"""Composed attention of one query a sequence, as in cached decoding, by three Triton kernels.

The key factors are read where they stand, factored; nothing but one float32 number a key and head, the score and then
the composed pattern, is written and read again. Nothing here waits for the GPU, so a CUDA graph can hold a step.
Imports torch and triton alone. Axes: B batch, S key, H all heads, G group, N heads of a group, R rank, K d_head.
"""

from __future__ import annotations

import functools

import torch
import triton
from torch import Tensor

from model.backends.triton_decode_kernels import decode_pattern_kernel, decode_score_kernel, decode_value_kernel
from model.backends.triton_factor_kernels import INTERPRETED
from model.mixing import Mixing

MOST_SPLITS = 256
"""Programs that share the keys of a sequence: about two for each multiprocessor of a large GPU."""

STEP = 8
"""Keys that a program of the score kernel reads at a time: 8 x 32 heads x 128 are 64 KiB in two bytes a number."""

PATTERN_KEYS = 16
"""Keys of a program of the pattern kernel."""

VALUE_KEYS, DIMENSIONS = 1024, 16
"""Keys that a program of the value kernel reads at a time, at the most, and dimensions of its head."""

LOG2_E = 1.4426950408889634


def decode(
    q_B1HK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing, key_mask_BS: Tensor | None
) -> Tensor:
    """See attend_single_query: one query that sees every key except where the mask is False. No gradients.

    Scores, mixing and softmax are float32, z comes back in the dtype of v. Hidden keys are not read.
    """
    if INTERPRETED.value and k_BSHK.dtype == torch.bfloat16:  # the interpreter computes with NumPy, which has none
        z = decode(q_B1HK.float(), k_BSHK.float(), v_BSHK.float(), _float(pre), _float(post), key_mask_BS)
        return z.to(v_BSHK.dtype)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_B1HK, k_BSHK, v_BSHK))
    batch, keys, heads, d_head = k.shape
    steps = max(1, triton.next_power_of_2(-(-keys // (STEP * MOST_SPLITS))))
    splits = -(-keys // (STEP * steps))
    scores = q.new_empty(batch, keys, heads, dtype=torch.float32)
    peaks = q.new_empty(batch, splits, heads, dtype=torch.float32)
    sums = peaks.new_empty(peaks.shape)
    z = q.new_empty(batch, 1, heads, d_head, dtype=v.dtype)
    mask = None if key_mask_BS is None else key_mask_BS.contiguous().view(torch.uint8)
    masked = scores if mask is None else mask

    groups = pre.groups
    of_groups = {"GROUPS": groups, "N": heads // groups, "NP": triton.next_power_of_2(heads // groups)}
    early = early_start(q.device)
    before, after = _Factors(pre, scores), _Factors(post, scores)
    decode_score_kernel[(splits, batch * groups)](
        q, k, *before.tensors, masked, scores, peaks, sums,
        keys, d_head**-0.5 * LOG2_E, q.stride(0), q.stride(2), *k.stride()[:3], *before.strides,
        **of_groups, **before.has, D=d_head, DP=triton.next_power_of_2(d_head), STEP=STEP, STEPS=steps,
        HAS_MASK=mask is not None, num_warps=8, **early,
    )  # fmt: skip
    decode_pattern_kernel[(-(-keys // PATTERN_KEYS), batch * groups)](
        *after.tensors, scores, peaks, sums, keys, splits, *after.strides,
        **of_groups, **after.has, BLOCK=PATTERN_KEYS, SPLITS=triton.next_power_of_2(splits), num_warps=4, **early,
    )  # fmt: skip
    block = min(VALUE_KEYS, triton.next_power_of_2(keys))
    decode_value_kernel[(heads, -(-d_head // DIMENSIONS), batch)](
        scores, v, masked, z, keys, *v.stride()[:3],
        HEADS=heads, D=d_head, DIMENSIONS=DIMENSIONS, BLOCK=block, STAGES=2, HAS_MASK=mask is not None,
        num_warps=8 if block > 256 else 4, **early,
    )  # fmt: skip
    return z


@functools.cache
def early_start(device: torch.device) -> dict[str, bool]:
    """Launch options of a step's kernels: on a Hopper GPU one starts while the one before it ends.

    Measured on an H200: 5% of a decoding step of the 2.8B shape, which is 289 launches.
    """
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device)[0] != 9:
        return {"PDL": False}
    return {"PDL": True, "launch_pdl": True}


class _Factors:
    """One site's factors as the kernels take them: tensors, strides and which of them there are."""

    def __init__(self, mixing: Mixing, unused: Tensor):
        query = _heads_contiguous(mixing.query_down, mixing.query_up, mixing.query_gate, mixing.groups)
        key = _heads_contiguous(mixing.key_down, mixing.key_up, mixing.key_gate, mixing.groups)
        static = None if mixing.static is None else mixing.static.float().contiguous()
        nothing = unused, unused, unused
        self.tensors = (*(query or nothing), *(key or nothing), unused if static is None else static)
        of_query = (0, 0, 0, 0) if query is None else (*_strides(query[0], 0, 2, 3), query[2].stride(0))
        of_key = (0, 0, 0, 0, 0, 0) if key is None else (*_strides(key[0], 0, 1, 2, 3), *_strides(key[2], 0, 1))
        self.strides = of_query + of_key
        present = query or key
        rank = 1 if present is None else present[0].shape[3]
        self.has = {
            "RANK": rank, "HAS_QUERY": query is not None, "HAS_KEY": key is not None, "HAS_STATIC": static is not None
        }  # fmt: skip


def _heads_contiguous(
    down: Tensor | None, up: Tensor | None, gate: Tensor | None, groups: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """down, up [B, S, G, R, N] of the same strides and gate [B, S, H], heads next to each other."""
    if down is None or up is None or gate is None:
        return None
    down, up = (f.unsqueeze(2) if groups == 1 else f for f in (down, up))
    if down.stride() != up.stride() or down.stride(-1) != 1:
        down, up = down.contiguous(), up.contiguous()
    return down, up, gate if gate.stride(-1) == 1 else gate.contiguous()


def _strides(x: Tensor, *axes: int) -> tuple[int, ...]:
    return tuple(x.stride(axis) for axis in axes)


def _float(mixing: Mixing) -> Mixing:
    return mixing.map(lambda factor: factor.float())
