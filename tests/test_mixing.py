"""The mixing mathematics against its definition, in loops and float64."""

import dataclasses

import pytest
import torch

from model.mixing import (
    BRANCHES,
    Mixing,
    base_matrix,
    branches,
    compose,
    compose_heads,
    distance_from_identity,
    matrix,
    side_part,
)

B, T, S = 2, 5, 7  # all axes differ, so a swapped axis cannot pass
CASES = [
    pytest.param({"R": 1}, id="rank 1"),
    pytest.param({"R": 2}, id="rank 2"),
    pytest.param({"R": 3}, id="rank 3"),
    pytest.param({"R": 3, "groups": 2}, id="groups"),
    pytest.param({"static": True}, id="static"),
    pytest.param({"R": 2, "groups": 3, "static": True}, id="static groups"),
    pytest.param({"sides": ("query",)}, id="query side"),
    pytest.param({"sides": ("key",), "static": True}, id="key side, static"),
    pytest.param({"sides": (), "static": True}, id="talking heads"),
]


def random_mixing(R=2, groups=1, static=False, sides=("query", "key"), heads=6, seed=0) -> Mixing:
    generator = torch.Generator().manual_seed(seed)
    size = heads // groups
    fields: dict = {}
    for side, length in (("query", T), ("key", S)):
        if side in sides:
            shape = (B, length, R, heads) if groups == 1 else (B, length, groups, R, size)
            for kind in ("down", "up"):
                fields[f"{side}_{kind}"] = torch.randn(shape, generator=generator, dtype=torch.float64)
            fields[f"{side}_gate"] = torch.randn(B, length, heads, generator=generator, dtype=torch.float64)
    if static:
        blocks = torch.randn(groups, size, size, generator=generator, dtype=torch.float64)
        fields["static"] = torch.block_diag(*blocks)
    return Mixing(n_heads=heads, groups=groups, **fields)


def slow_matrix(mixing: Mixing, b: int, i: int, j: int) -> torch.Tensor:
    out = torch.eye(mixing.n_heads, dtype=torch.float64)
    if mixing.static is not None:
        out += mixing.static
    size = mixing.n_heads // mixing.groups
    for side, at in (("query", i), ("key", j)):
        down, up, gate = (getattr(mixing, f"{side}_{kind}") for kind in ("down", "up", "gate"))
        if gate is None:
            continue
        for head in range(mixing.n_heads):
            out[head, head] += gate[b, at, head]
        for g in range(mixing.groups):
            d, u = (f[b, at] if mixing.groups == 1 else f[b, at, g] for f in (down, up))
            for source in range(size):
                for target in range(size):
                    out[g * size + source, g * size + target] += (d[:, source] * u[:, target]).sum()
    return out


@pytest.mark.parametrize("case", CASES)
def test_compose_equals_its_definition(case):
    mixing = random_mixing(**case)
    maps = torch.randn(B, mixing.n_heads, T, S, dtype=torch.float64)
    composed = compose(maps, mixing)
    for b in range(B):
        for i in range(T):
            for j in range(S):
                truth = maps[b, :, i, j] @ slow_matrix(mixing, b, i, j)
                torch.testing.assert_close(composed[b, :, i, j], truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_composing_some_heads_equals_cutting_them_from_all(case):
    mixing = random_mixing(**case)
    maps = torch.randn(B, mixing.n_heads, T, S, dtype=torch.float64)
    heads = torch.tensor([4, 0, 3])
    torch.testing.assert_close(compose_heads(maps, mixing, heads), compose(maps, mixing)[:, heads], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_five_branches_sum_to_the_matrix(case):
    mixing = random_mixing(**case)
    for b, i, j in ((0, 0, 0), (1, 4, 6), (0, 3, 5)):
        parts = branches(mixing, i, j, sequence=b)
        assert tuple(parts) == BRANCHES
        truth = slow_matrix(mixing, b, i, j)
        torch.testing.assert_close(sum(parts.values()), truth, rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix(mixing, i, j, sequence=b), truth, rtol=0, atol=1e-12)


def test_matrix_is_base_plus_query_part_plus_key_part():
    mixing = random_mixing(R=2, groups=2, static=True)
    query, key = side_part(mixing, "query"), side_part(mixing, "key")
    torch.testing.assert_close(
        base_matrix(mixing) + query[1, 2] + key[1, 6], matrix(mixing, 2, 6, sequence=1), rtol=0, atol=1e-12
    )


def test_the_static_branch_alone_is_talking_heads():
    mixing = random_mixing(sides=(), static=True)
    maps = torch.randn(B, mixing.n_heads, T, S, dtype=torch.float64)
    expected = torch.einsum("bnts,nm->bmts", maps, torch.eye(mixing.n_heads, dtype=torch.float64) + mixing.static)
    torch.testing.assert_close(compose(maps, mixing), expected, rtol=0, atol=1e-12)


def test_zero_factors_leave_maps_unchanged():
    mixing = random_mixing().map(torch.zeros_like)
    maps = torch.randn(B, mixing.n_heads, T, S, dtype=torch.float64)
    assert torch.equal(compose(maps, mixing), maps)
    assert Mixing(n_heads=6).is_identity
    assert torch.equal(compose(maps, Mixing(n_heads=6)), maps)


def test_relabelling_heads_relabels_the_output():
    mixing = random_mixing(R=3, static=True)
    maps = torch.randn(B, mixing.n_heads, T, S, dtype=torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = mixing.map(lambda factor: factor[..., order])
    moved = dataclasses.replace(moved, static=mixing.static[order][:, order])
    torch.testing.assert_close(compose(maps[:, order], moved), compose(maps, mixing)[:, order], rtol=0, atol=1e-12)


def test_a_change_of_basis_of_the_rank_axis_changes_no_matrix():
    mixing = random_mixing(R=2)
    basis = torch.tensor([[2.0, 1.0], [0.5, -3.0]], dtype=torch.float64)
    moved = mixing.with_factors({
        "query_down": torch.einsum("rs,btsn->btrn", basis, mixing.query_down),
        "query_up": torch.einsum("sr,btsn->btrn", torch.linalg.inv(basis), mixing.query_up),
    })  # fmt: skip
    torch.testing.assert_close(matrix(moved, 3, 4), matrix(mixing, 3, 4), rtol=0, atol=1e-12)


def test_cutting_positions_cuts_the_maps():
    mixing = random_mixing(R=2, groups=2)
    maps = torch.randn(B, mixing.n_heads, T, S, dtype=torch.float64)
    cut = compose(maps[:, :, 1:4, [6, 0]], mixing.cut(slice(1, 4), torch.tensor([6, 0])))
    torch.testing.assert_close(cut, compose(maps, mixing)[:, :, 1:4, [6, 0]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize("case", CASES)
def test_distance_from_identity_equals_the_mean_over_visible_pairs(case, window):
    mixing = random_mixing(**case).cut(slice(0, T), slice(0, T))
    identity, squares = torch.eye(mixing.n_heads, dtype=torch.float64), []
    for i in range(T):
        for j in range(i + 1):
            if window is None or i - j < window:
                squares.append((slow_matrix(mixing, 0, i, j) - identity).square().sum(0))
    truth = torch.stack(squares).mean(0).sqrt()
    torch.testing.assert_close(distance_from_identity(mixing, window)[0], truth, rtol=0, atol=1e-10)


def test_factors_of_another_size_are_refused():
    mixing = random_mixing()
    with pytest.raises(ValueError, match="made for 6 heads, the maps have 5"):
        compose(torch.zeros(B, 5, T, S, dtype=torch.float64), mixing)
    with pytest.raises(ValueError, match=r"made for 7 key positions, the maps have 9\. Slice both"):
        compose(torch.zeros(B, 6, T, 9, dtype=torch.float64), mixing)
    with pytest.raises(ValueError, match=r"no 'key' side\. It has: query"):
        side_part(random_mixing(sides=("query",)), "key")
