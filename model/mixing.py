"""Head mixing: the mathematics, as pure functions over factors. Imports torch alone.

At each pair of a query token i and a key token j the H attention maps are multiplied by a matrix that the two
tokens make together (arXiv 2405.08553, section 2). In row-vector convention, entry [source, target]:

    composed[:, i, j] = raw[:, i, j] @ M(i, j)
    M(i, j) = base + down_q(i)^T up_q(i) + diag gate_q(i) + down_k(j)^T up_k(j) + diag gate_k(j)
            = base + Q(i) + K(j)

The T x T x H x H tensor of all matrices is never built: the factors are kept, and any matrix, row or map is
made from them. Axes at the end of names: B batch, T query, S key, N head (source), M head (target), R rank,
G group, C mixing network (a side of a site), D d_model, K hidden width of a mixing network.

With G groups M is block-diagonal, heads of group g being g*H/G ... (g+1)*H/G - 1, and the low-rank factors
carry a group axis: [B, T, G, R, H/G] instead of [B, T, R, H]. Gates are [B, T, H] either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

BRANCHES = ("base", "query_lowrank", "query_gate", "key_lowrank", "key_gate")
QUERY_FACTORS = ("query_down", "query_up", "query_gate")
KEY_FACTORS = ("key_down", "key_up", "key_gate")
FACTORS = QUERY_FACTORS + KEY_FACTORS
DOWN_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Mixing:
    """The factors of one site for a batch of sequences: all that any mixing matrix of it is made from.

    A side that the model lacks is None in all three of its factors. Down and up are [batch, pos, R, H]
    (with groups: [batch, pos, G, R, H/G]), gates [batch, pos, H], static the learned W of the base
    I + W, [H, H] and block-diagonal, or None where the base is the identity.
    """

    n_heads: int
    groups: int = 1
    query_down: Tensor | None = None
    query_up: Tensor | None = None
    query_gate: Tensor | None = None
    key_down: Tensor | None = None
    key_up: Tensor | None = None
    key_gate: Tensor | None = None
    static: Tensor | None = None

    @property
    def is_identity(self) -> bool:
        """True where nothing is mixed, whatever the tokens."""
        return self.static is None and self.query_gate is None and self.key_gate is None

    def factors(self) -> dict[str, Tensor]:
        """The token-dependent factors that are present, by name."""
        return {name: value for name in FACTORS if (value := getattr(self, name)) is not None}

    def with_factors(self, changed: Mapping[str, Tensor]) -> Mixing:
        """The same mixing with some factors replaced."""
        return replace(self, **changed)  # type: ignore[arg-type]

    def map(self, change: Callable[[Tensor], Tensor]) -> Mixing:
        """The same mixing with every tensor, static included, passed through a function (a cast, a move)."""
        static = None if self.static is None else change(self.static)
        return replace(self.with_factors({n: change(value) for n, value in self.factors().items()}), static=static)

    def cut(self, queries: slice | Tensor | None = None, keys: slice | Tensor | None = None) -> Mixing:
        """Keep some positions of the query factors and some of the key factors; None keeps all."""
        changed = {}
        for name, value in self.factors().items():
            positions = queries if name in QUERY_FACTORS else keys
            if positions is not None:
                changed[name] = value[:, positions]
        return self.with_factors(changed)

    def batch(self, index: slice | Tensor) -> Mixing:
        """Keep some sequences of the batch."""
        return self.with_factors({name: value[index] for name, value in self.factors().items()})


def mixing_factors(
    x_BTD: Tensor, hidden_weight_CGKD: Tensor, factor_weight_CGKRN: Tensor, gate_weight_CMD: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Run C mixing networks on the layer's normalised input.

    Args:
        hidden_weight_CGKD: first layer of each network; GELU (exact) follows.
        factor_weight_CGKRN: second layer; its axis of length 2R holds R rows of down, then R of up.
        gate_weight_CMD: the gates' layer; tanh follows.
    Returns:
        For each network (down, up, gate): [B, T, R, H] twice ([B, T, G, R, H/G] with groups) and
        [B, T, H]. Only down is normalised, over the heads of its group (root mean square, eps 1e-6).
    Source: arXiv 2405.08553, section 2.2.
    """
    hidden_BTP, gates_BTP = (F.linear(x_BTD, w.flatten(0, -2)) for w in (hidden_weight_CGKD, gate_weight_CMD))
    return second_layers(hidden_BTP, gates_BTP, factor_weight_CGKRN)


def second_layers(
    hidden_BTP: Tensor, gates_BTP: Tensor, factor_weight_CGKRN: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What mixing_factors returns, from its first products: of the hidden layers before GELU and of the gates."""
    C, G, K, R2, N = factor_weight_CGKRN.shape
    hidden_BTCGK = F.gelu(hidden_BTP).unflatten(-1, (C, G, K))
    factors_BTCGRN = torch.einsum("btcgk,cgkrn->btcgrn", hidden_BTCGK, factor_weight_CGKRN)
    gates_BTCM = gates_BTP.unflatten(-1, (C, G * N)).tanh()
    if G == 1:
        factors_BTCGRN = factors_BTCGRN.squeeze(3)
    down, up = rms_normalise(factors_BTCGRN[..., : R2 // 2, :]), factors_BTCGRN[..., R2 // 2 :, :]
    return [(down[:, :, c], up[:, :, c], gates_BTCM[:, :, c]) for c in range(C)]


def rms_normalise(x: Tensor, eps: float = DOWN_NORM_EPS) -> Tensor:
    """Divide by the root mean square over the last axis, computed in at least float32."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def compose(maps_BNTS: Tensor, mixing: Mixing) -> Tensor:
    """Mix attention maps across heads with the matrix that each query and key token choose together.

    Args:
        maps_BNTS: scores (before the mask) or pattern (after the softmax), [batch, head, query, key].
        mixing: the factors of one site; heads and positions must match maps_BNTS.
    Returns:
        Composed maps in the input's units. After the softmax their rows need not sum to 1 and may be
        negative: do not renormalise, do not take logs.
    Raises:
        ValueError: the factors belong to another number of heads or positions.
    Source: arXiv 2405.08553, section 2 (Compose); float64 loops in tests/test_mixing.py.
    """
    _check_maps(maps_BNTS, mixing)
    grouped = maps_BNTS.unflatten(1, (mixing.groups, -1))  # [B, G, N, T, S]
    out = grouped
    if mixing.static is not None:
        out = out + torch.einsum("bgnts,gnm->bgmts", grouped, static_blocks(mixing))
    for side, axis in (("query", "t"), ("key", "s")):
        down, up, gate = (getattr(mixing, f"{side}_{kind}") for kind in ("down", "up", "gate"))
        if gate is None:
            continue
        down, up = _with_group_axis(down, mixing.groups), _with_group_axis(up, mixing.groups)
        channels = torch.einsum(f"bgnts,b{axis}grn->bgrts", grouped, down)
        out = out + torch.einsum(f"bgrts,b{axis}grm->bgmts", channels, up)
        gate_BGMX = gate.transpose(1, 2).unflatten(1, (mixing.groups, -1))
        out = out + grouped * (gate_BGMX[..., :, None] if side == "query" else gate_BGMX[..., None, :])
    return out.flatten(1, 2)


def compose_heads(maps_BNTS: Tensor, mixing: Mixing, heads: Tensor) -> Tensor:
    """What compose gives for some target heads only, [batch, len(heads), query, key]; all source heads are read."""
    _check_maps(maps_BNTS, mixing)
    size = mixing.n_heads // mixing.groups
    out = maps_BNTS[:, heads]
    if mixing.static is not None:
        out = out + torch.einsum("bnts,nm->bmts", maps_BNTS, mixing.static[:, heads])
    grouped = maps_BNTS.unflatten(1, (mixing.groups, -1))
    for side, axis in (("query", "t"), ("key", "s")):
        down, up, gate = (getattr(mixing, f"{side}_{kind}") for kind in ("down", "up", "gate"))
        if gate is None:
            continue
        channels = torch.einsum(f"bgnts,b{axis}grn->bgrts", grouped, _with_group_axis(down, mixing.groups))
        up_of_heads = _with_group_axis(up, mixing.groups)[:, :, heads // size, :, heads % size]  # [M, B, T, R]
        out = out + torch.einsum(f"bmrts,mb{axis}r->bmts", channels[:, heads // size], up_of_heads)
        gate_BMX = gate[..., heads].transpose(1, 2)
        out = out + maps_BNTS[:, heads] * (gate_BMX[..., :, None] if side == "query" else gate_BMX[..., None, :])
    return out


def base_matrix(mixing: Mixing, like: Tensor | None = None) -> Tensor:
    """The constant part of M, [H, H]: the identity, or identity + W."""
    like = next(iter(mixing.factors().values()), mixing.static) if like is None else like
    identity = torch.eye(mixing.n_heads, dtype=None if like is None else like.dtype,
                         device=None if like is None else like.device)  # fmt: skip
    return identity if mixing.static is None else identity + mixing.static


def lowrank_matrices(mixing: Mixing, side: str) -> Tensor:
    """down^T up of every token of one side, [B, T, H, H]: H*H numbers a token, so cut long sequences first."""
    down, up = getattr(mixing, f"{side}_down"), getattr(mixing, f"{side}_up")
    if mixing.groups == 1:
        return torch.einsum("btrn,btrm->btnm", down, up)
    blocks = torch.einsum("btgrn,btgrm->btgnm", down, up)
    return _block_diagonal(blocks)


def gate_matrices(mixing: Mixing, side: str) -> Tensor:
    """diag gate of every token of one side, [B, T, H, H]."""
    return torch.diag_embed(getattr(mixing, f"{side}_gate"))


def side_part(mixing: Mixing, side: str) -> Tensor:
    """Q(i) (side "query") or K(j) (side "key") of every token, [B, T, H, H]: low-rank plus gate.

    The split of M into base, Q and K is not unique: a constant moves freely between them. For shares use
    the centred split, Q(i) minus its mean over a stated corpus.
    Raises:
        ValueError: this mixing has no such side.
    """
    if getattr(mixing, f"{side}_gate", None) is None:
        present = [s for s in ("query", "key") if getattr(mixing, f"{s}_gate") is not None]
        raise ValueError(f"This mixing has no {side!r} side. It has: {', '.join(present) or 'none (it is static)'}.")
    return lowrank_matrices(mixing, side) + gate_matrices(mixing, side)


def branches(mixing: Mixing, query: int, key: int, sequence: int = 0) -> dict[str, Tensor]:
    """The five summands of M(query, key), each [H, H], source x target; zeros where the model lacks a branch."""
    at = mixing.batch(slice(sequence, sequence + 1)).cut(slice(query, query + 1), slice(key, key + 1))
    base = base_matrix(mixing)
    parts = {"base": base}
    for side in ("query", "key"):
        present = getattr(mixing, f"{side}_gate") is not None
        parts[f"{side}_lowrank"] = lowrank_matrices(at, side)[0, 0] if present else torch.zeros_like(base)
        parts[f"{side}_gate"] = gate_matrices(at, side)[0, 0] if present else torch.zeros_like(base)
    return parts


def matrix(mixing: Mixing, query: int, key: int, sequence: int = 0) -> Tensor:
    """M(query, key), [H, H], source x target, base included."""
    return torch.stack(list(branches(mixing, query, key, sequence).values())).sum(0)


def distance_from_identity(mixing: Mixing, visible_keys: int | None = None) -> Tensor:
    """How far each target head's column of M is from the identity's, [B, H].

    sqrt of the mean over visible pairs (i, j) of the squared Euclidean length of M(i, j)[:, h] - e_h: 0 for
    a head that keeps its own map, 1 for one that drops it (or adds as much again of another). Padding is not known
    here: cut it off first.
    """
    total_BTM, keys_T1 = _squared_lengths(mixing, visible_keys)
    return (total_BTM.sum(1) / keys_T1.sum()).clamp(min=0).sqrt()


def query_distances_from_identity(mixing: Mixing, visible_keys: int | None = None) -> Tensor:
    """distance_from_identity of each query's row alone, its mean taken over the keys that it sees, [B, T, H]."""
    total_BTM, keys_T1 = _squared_lengths(mixing, visible_keys)
    return (total_BTM / keys_T1).clamp(min=0).sqrt()


def _squared_lengths(mixing: Mixing, visible_keys: int | None) -> tuple[Tensor, Tensor]:
    """Sum over visible keys of the squared length of M(i, j)[:, h] - e_h, [B, T, M], and how many they are, [T, 1].

    Exact in O(T H^2): the square splits into a query part, a key part and a product whose sum over keys is a
    difference of running sums.
    """
    batch, positions = _extent(mixing)
    static = mixing.static
    like = static if static is not None else next(iter(mixing.factors().values()))
    zeros = like.new_zeros(batch, positions, mixing.n_heads, mixing.n_heads, dtype=torch.float64)
    query = side_part(mixing, "query").double() if mixing.query_gate is not None else zeros
    key = side_part(mixing, "key").double() if mixing.key_gate is not None else zeros
    if static is not None:
        query = query + static.double()
    window = positions if visible_keys is None else min(visible_keys, positions)
    counts = torch.arange(1, positions + 1, device=like.device).clamp(max=window).double()[:, None]
    key_sum, key_square = windowed_sum(key, window), windowed_sum(key.square().sum(2), window)
    return counts * query.square().sum(2) + 2 * (query * key_sum).sum(2) + key_square, counts


def windowed_sum(x: Tensor, window: int) -> Tensor:
    """Sum over the last `window` positions up to and including each, along axis 1."""
    running = x.cumsum(1)
    if window >= x.shape[1]:
        return running
    earlier = torch.zeros_like(running)
    earlier[:, window:] = running[:, :-window]
    return running - earlier


def static_blocks(mixing: Mixing) -> Tensor:
    """The learned W as its diagonal blocks, [G, H/G, H/G]."""
    assert mixing.static is not None
    size = mixing.n_heads // mixing.groups
    return torch.stack(
        [mixing.static[g * size : (g + 1) * size, g * size : (g + 1) * size] for g in range(mixing.groups)]
    )


def _with_group_axis(factor: Tensor, groups: int) -> Tensor:
    return factor.unsqueeze(2) if groups == 1 else factor


def _block_diagonal(blocks_BTGNM: Tensor) -> Tensor:
    B, T, G, N, M = blocks_BTGNM.shape
    out = blocks_BTGNM.new_zeros(B, T, G, N, G, M)
    for g in range(G):
        out[:, :, g, :, g] = blocks_BTGNM[:, :, g]
    return out.reshape(B, T, G * N, G * M)


def _extent(mixing: Mixing) -> tuple[int, int]:
    """Batch and positions; a static mixing is the same at every position, so one stands for all."""
    factor = next(iter(mixing.factors().values()), None)
    return (1, 1) if factor is None else (factor.shape[0], factor.shape[1])


def _check_maps(maps_BNTS: Tensor, mixing: Mixing) -> None:
    if maps_BNTS.ndim != 4:
        raise ValueError(f"Maps must be [batch, head, query, key], got shape {tuple(maps_BNTS.shape)}.")
    _, heads, queries, keys = maps_BNTS.shape
    if heads != mixing.n_heads:
        raise ValueError(f"The mixing was made for {mixing.n_heads} heads, the maps have {heads}.")
    for name, length in (("query", queries), ("key", keys)):
        gate = getattr(mixing, f"{name}_gate")
        if gate is not None and gate.shape[1] != length:
            raise ValueError(
                f"The mixing was made for {gate.shape[1]} {name} positions, the maps have {length}. "
                "Slice both to the same positions."
            )
