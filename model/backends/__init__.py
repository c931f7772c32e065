"""Composed attention as one function: queries, keys, values and the factors of both sites in, head outputs out.

Every caller that needs no whole map uses it: the hooked model where no hook stands on a map, capture, training.
A backend is one file here with a function of the same signature and one line in BACKENDS; each is held to
the plain einsums by tests/test_backends.py. Imports torch alone.
"""

from __future__ import annotations

from torch import Tensor

from model.backends.eager import eager_attention
from model.mixing import Mixing

BACKENDS = {"eager": eager_attention}


def composed_attention(
    q_BTNK: Tensor,
    k_BSNK: Tensor,
    v_BSNK: Tensor,
    pre: Mixing,
    post: Mixing,
    *,
    visible_keys: int | None = None,
    query_start: int = 0,
    key_mask_BS: Tensor | None = None,
    backend: str = "eager",
) -> Tensor:
    """Attention whose heads are mixed before and after the softmax, in memory linear in the number of keys.

    Args:
        q_BTNK, k_BSNK, v_BSNK: after query/key norm and rotary, [batch, pos, head, d_head].
        pre, post: factors of the two sites; query factors of the T queries, key factors of the S keys.
        visible_keys: how many keys a query sees, itself included; None = all earlier ones.
        query_start: the first query's position among the keys (keys cached by earlier steps come first).
        key_mask_BS: bool, False on padding; None = no padding.
        backend: a name in BACKENDS.
    Returns:
        z_BTNK: each head's output before W_O, in the dtype of v. Queries that see no key get zeros.
    """
    if backend not in BACKENDS:
        raise ValueError(f"Unknown attention backend {backend!r}. Choose one of {', '.join(BACKENDS)}.")
    return BACKENDS[backend](q_BTNK, k_BSNK, v_BSNK, pre, post, visible_keys, query_start, key_mask_BS)
