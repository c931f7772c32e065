"""Composed attention as one function: queries, keys, values and the factors of both sites in, head outputs out.

Every caller that needs no whole map uses it: the hooked model where no hook stands on a map, training, the fast
engine. Where no heads are mixed it is PyTorch's fused attention (plain.py), a single query has a path of its own
(single_query.py), and the rest goes to a backend. A backend is one file here with a function of the signature of
eager_attention and one line in BACKENDS; all are held to the definition by tests/test_backends.py.
Imports torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from model.backends.blocks import key_range, visible_pairs
from model.backends.compiled import compiled_attention, compiler_found
from model.backends.eager import eager_attention
from model.backends.plain import plain_attention
from model.backends.single_query import attend_single_query
from model.backends.triton_backend import kernels_found, triton_attention, triton_single_query
from model.mixing import Mixing

BACKENDS: dict[str, Callable[..., Tensor]] = {
    "eager": eager_attention,
    "compiled": compiled_attention,
    "triton": triton_attention,
}

AUTO = "auto"

AUTO_COMPILES_FROM = 2**24
"""Cells of all heads' maps in one call from which "auto" compiles.

Compiling takes 10 to 60 s a process, architecture and dtype (seconds once PyTorch's cache on disk has the graphs);
it saves about 0.1 s a call of this size. Smaller calls, as in tests and the app, never wait for a compiler.
"""

AUTO_KERNELS_FROM = 2**20
"""Cells of all heads' maps in one call from which "auto" takes Triton's kernels on a GPU, whatever the model."""

AUTO_KERNELS_WIDTH = 1024
"""Width of all heads from which it takes them for every call: such a model generates more than it waits to compile."""

_default = AUTO


def set_default_backend(name: str) -> None:
    """Choose what composed_attention uses, in the whole process, where the call names no backend.

    Args:
        name: a name in BACKENDS, or "auto": triton for large calls or models on a GPU, else compiled for large calls
            where there is a compiler, else eager.
    """
    global _default
    _default = _known(name)


def default_backend() -> str:
    """What set_default_backend chose."""
    return _default


@contextmanager
def using_backend(name: str) -> Iterator[None]:
    """set_default_backend for the length of a with block; in the whole process, so not for threads side by side."""
    before = default_backend()
    set_default_backend(name)
    try:
        yield
    finally:
        set_default_backend(before)


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
    backend: str | None = None,
    block_queries: int | None = None,
) -> Tensor:
    """Attention whose heads are mixed before and after the softmax, in memory linear in the number of tokens.

    Scores, mixing and softmax are computed in float32, or float64 for float64 inputs. Every input that asks for a
    gradient gets one, the static W included; the gradient itself cannot be differentiated again.

    Args:
        q_BTNK, k_BSNK, v_BSNK: after query/key norm and rotary, [batch, pos, head, d_head].
        pre, post: factors of the two sites; query factors of the T queries, key factors of the S keys.
        visible_keys: how many keys a query sees, itself included; None = all earlier ones.
        query_start: the first query's position among the keys (keys cached by earlier steps come first).
        key_mask_BS: bool, False on padding; None = no padding.
        backend: a name in BACKENDS or "auto"; None = the process's default (see set_default_backend).
        block_queries: how many queries are computed together; None = as measured to be fast.
    Returns:
        z_BTNK: each head's output before W_O, in the dtype of v. Queries that see no key get zeros.
    Raises:
        ValueError: shapes that do not belong together, or an unknown backend.
    """
    T = q_BTNK.shape[1]
    _check(q_BTNK, k_BSNK, v_BSNK, pre, post, query_start, key_mask_BS)
    name = _known(_default if backend is None else backend)
    keys = key_range(query_start, query_start + T, visible_keys)
    if keys != slice(0, k_BSNK.shape[1]):
        k_BSNK, v_BSNK, pre, post = k_BSNK[:, keys], v_BSNK[:, keys], pre.cut(keys=keys), post.cut(keys=keys)
        key_mask_BS = None if key_mask_BS is None else key_mask_BS[:, keys]
        query_start -= keys.start
    if pre.is_identity and post.is_identity:
        return plain_attention(q_BTNK, k_BSNK, v_BSNK, visible_keys, query_start, key_mask_BS, block_queries)
    if name == AUTO:
        name = automatic_backend(q_BTNK.shape, q_BTNK.device.type, visible_keys, query_start)
    if T == 1:
        single = triton_single_query if name == "triton" else attend_single_query
        return single(q_BTNK, k_BSNK, v_BSNK, pre, post, key_mask_BS)
    return BACKENDS[name](q_BTNK, k_BSNK, v_BSNK, pre, post, visible_keys, query_start, key_mask_BS, block_queries)


def kernels_take_steps(backend: str | None, width: int, device_type: str) -> bool:
    """Do Triton's kernels run single queries of so wide a model, all heads together, however many keys there are?"""
    name = _known(_default if backend is None else backend)
    return name == "triton" or (name == AUTO and width >= AUTO_KERNELS_WIDTH and kernels_found(device_type))


def automatic_backend(
    query_shape: Sequence[int], device_type: str, visible_keys: int | None = None, query_start: int = 0
) -> str:
    """What "auto" means for queries [batch, pos, head, d_head] on a kind of device."""
    B, T, N, K = query_shape
    cells = B * N * visible_pairs(T, visible_keys, query_start)
    if (cells >= AUTO_KERNELS_FROM or N * K >= AUTO_KERNELS_WIDTH) and kernels_found(device_type):
        return "triton"
    return "compiled" if cells >= AUTO_COMPILES_FROM and compiler_found(device_type) else "eager"


def _known(name: str) -> str:
    if name != AUTO and name not in BACKENDS:
        raise ValueError(f"Unknown attention backend {name!r}. Choose one of {', '.join((AUTO, *BACKENDS))}.")
    return name


def _check(
    q: Tensor, k: Tensor, v: Tensor, pre: Mixing, post: Mixing, query_start: int, key_mask: Tensor | None
) -> None:
    B, T, N, K = q.shape
    S = k.shape[1]
    if (k.shape[0], *k.shape[2:]) != (B, N, K) or v.shape != k.shape:
        raise ValueError(
            f"Queries, keys and values must be [batch, pos, head, d_head] and differ in length only; got "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}."
        )
    if query_start + T > S:
        raise ValueError(f"{T} queries from position {query_start} need {query_start + T} keys, got {S}.")
    if key_mask is not None and key_mask.shape != (B, S):
        raise ValueError(f"key_mask_BS must be [batch, keys] = [{B}, {S}], got {list(key_mask.shape)}.")
    for site, mixing in (("pre", pre), ("post", post)):
        if mixing.n_heads != N:
            raise ValueError(f"The {site} mixing was made for {mixing.n_heads} heads, the queries have {N}.")
        for gate, length, side in ((mixing.query_gate, T, "query"), (mixing.key_gate, S, "key")):
            if gate is not None and gate.shape[:2] != (B, length):
                raise ValueError(
                    f"The {side} factors of the {site} mixing must be made for [batch, pos] = [{B}, {length}], "
                    f"got {list(gate.shape[:2])}. Slice them to the same positions."
                )
