"""Components without labels: planted ones are found, stand in their contexts, and come back; noise does not."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score

from probes.components import METHODS, decompose, participation_ratio, stability, top_tokens, two_nn
from probes.components.stability import matched

N, D, K = 480, 11, 3
RNG = np.random.default_rng(0)
DOCUMENTS = np.repeat(np.arange(24), 20)
ORTHOGONAL = np.linalg.qr(RNG.normal(size=(D, D)))[0][:K]
PCA_LIKE = RNG.normal(size=(N, K)) * [5.0, 3.0, 2.0] @ ORTHOGONAL + 0.1 * RNG.normal(size=(N, D)) + 7.0
PARTS = RNG.gamma(0.3, size=(K, D))
NMF_LIKE = RNG.gamma(0.3, size=(N, K)) @ PARTS
CLUSTER = RNG.choice(K, N, p=[0.5, 0.3, 0.2])
CLUSTERED = (RNG.normal(size=(K, D)) * 6)[CLUSTER] + RNG.normal(size=(N, D))
DATA = {"pca": PCA_LIKE, "nmf": NMF_LIKE, "kmeans": CLUSTERED}


def test_principal_components_are_the_planted_directions_in_order():
    found = decompose(PCA_LIKE, K)
    np.testing.assert_allclose(np.abs((found.directions * ORTHOGONAL).sum(1)), 1, atol=0.02)
    assert found.share.sum() > 0.99
    assert (np.diff(found.share) < 0).all()
    centred = PCA_LIKE - PCA_LIKE.mean(0)
    np.testing.assert_allclose(found.scores, centred @ found.directions.T, atol=1e-9)


def test_non_negative_parts_are_the_planted_ones():
    found = decompose(NMF_LIKE, K, "nmf")
    assert matched(found.directions, PARTS, signed=False).min() > 0.95
    np.testing.assert_allclose(found.scores @ found.directions, NMF_LIKE, atol=0.05 * NMF_LIKE.max())
    assert found.share.sum() == pytest.approx(1, abs=0.02)


def test_nmf_refuses_signed_numbers_and_splits_them_when_told():
    with pytest.raises(ValueError, match=r"nmf takes no negative numbers, and \d+.\d% of these are. Say signs='split'"):
        decompose(CLUSTERED, K, "nmf")
    split = decompose(CLUSTERED, K, "nmf", signs="split")
    assert split.directions.shape == (K, 2 * D)
    rebuilt = split.scores @ split.directions
    error = np.linalg.norm(rebuilt[:, :D] - rebuilt[:, D:] - CLUSTERED) / np.linalg.norm(CLUSTERED)
    assert error < 0.35


def test_clusters_are_the_planted_ones_the_largest_first():
    found = decompose(CLUSTERED, K, "kmeans")
    assert adjusted_rand_score(CLUSTER, found.members) == 1
    np.testing.assert_array_equal(found.members, found.scores.argmax(1))
    np.testing.assert_allclose(found.share, np.bincount(found.members) / N)
    assert (np.diff(found.share) <= 0).all()
    centres = np.stack([CLUSTERED[found.members == k].mean(0) for k in range(K)])
    np.testing.assert_allclose(found.scores, -cdist(CLUSTERED, centres), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_top_tokens_are_the_most_extreme_ones_in_their_own_documents(method):
    found = decompose(DATA[method], K, method)
    tokens = [f" {d}.{i % 20}" for i, d in enumerate(DOCUMENTS)]
    table = top_tokens(found, tokens, DOCUMENTS, count=4, window=3, per_document=None)
    ends = ("high", "low") if method == "pca" else ("high",)
    assert len(table) == K * len(ends) * 4
    for row in table.itertuples():
        scores = found.scores[:, row.component]
        if found.members is not None:
            scores = scores[found.members == row.component]
        assert row.score == np.sort(scores if row.end == "low" else -scores)[row.rank] * (1 if row.end == "low" else -1)
        start = row.document * 20
        assert row.token == tokens[row.index]
        assert row.left == "".join(tokens[max(start, row.index - 3) : row.index])
        assert row.right == "".join(tokens[row.index + 1 : min(start + 20, row.index + 4)])


def test_one_document_does_not_fill_the_list():
    found = decompose(PCA_LIKE, K)
    table = top_tokens(found, ["x"] * N, DOCUMENTS, count=10, per_document=2)
    for _, listed in table.groupby(["component", "end"]):
        assert listed.document.value_counts().max() <= 2
        assert len(listed) == 10


@pytest.mark.parametrize("method", METHODS)
def test_planted_components_come_back_and_chance_would_not_do_as_well(method):
    table = stability(DATA[method], DOCUMENTS, K, method, runs=2)
    assert len(table) == 2 * 2 * K
    assert table.similarity.min() > 0.9
    assert (table.groupby(["across", "run"]).similarity.mean() > table.groupby(["across", "run"]).chance.mean()).all()


def test_components_of_noise_do_not_come_back_in_the_other_half():
    noise = np.random.default_rng(1).normal(size=(N, 30))
    table = stability(noise, DOCUMENTS, K, runs=3)
    halves = table[table.across == "halves"]
    assert halves.similarity.mean() < 0.6
    assert table[table.across == "seeds"].similarity.min() > 0.999  # which alone would say nothing


def test_matching_finds_a_permutation_and_flips():
    directions = np.random.default_rng(2).normal(size=(5, 8))
    shuffled = directions[[3, 0, 4, 1, 2]] * np.array([1, -2, 3, -1, 0.5])[:, None]
    np.testing.assert_allclose(matched(directions, shuffled, signed=True), 1)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_gives_the_dimension_of_a_curved_surface(dimension):
    rng = np.random.default_rng(dimension)
    flat = rng.uniform(size=(2500, dimension))
    curved = np.concatenate([np.sin(2 * flat), np.cos(3 * flat), flat @ rng.normal(size=(dimension, 4))], 1)
    found = two_nn(curved)
    assert found.value == pytest.approx(dimension, rel=0.12)
    assert found.error < 0.05 * dimension


def test_a_circle_has_one_dimension_and_takes_up_two():
    angle = np.random.default_rng(6).uniform(0, 2 * np.pi, 3000)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) @ RNG.normal(size=(2, 2 * D))
    assert two_nn(circle).value == pytest.approx(1, rel=0.1)
    assert 1.4 < participation_ratio(circle) <= 2


def test_two_nn_leaves_out_duplicates():
    """Tokens of one type have one embedding: all their distances are 0."""
    points = np.random.default_rng(3).normal(size=(400, 2))
    doubled = np.concatenate([points, points[:150]])
    found, alone = two_nn(doubled), two_nn(points)
    assert found.value == pytest.approx(alone.value)
    assert (found.points, found.duplicates) == (400, 150)


@pytest.mark.parametrize("directions", [1, 3, 6])
def test_participation_ratio_counts_directions_that_vary_alike(directions):
    scores = np.linalg.qr(np.random.default_rng(4).normal(size=(50, directions)) - 0.0)[0]
    scores = np.linalg.qr(scores - scores.mean(0))[0]  # uncorrelated, of mean 0 and equal length
    X = scores @ np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0][:directions] + 3.0
    assert participation_ratio(X) == pytest.approx(directions)
    assert participation_ratio(np.ones((5, 2))) == 0


REFUSED = {
    "an unknown method": (lambda: decompose(PCA_LIKE, 2, "ica"), "Unknown method 'ica'. Choose from pca, nmf, kmeans"),
    "too many": (lambda: decompose(PCA_LIKE, D + 1), r"12 components were asked for; pca of \[480, 11\] has 1 to 11"),
    "none": (lambda: decompose(PCA_LIKE, 0, "kmeans"), "0 components were asked for"),
    "unknown signs": (lambda: decompose(PCA_LIKE, 2, signs="drop"), "signs must be 'refuse' or 'split', got 'drop'"),
    "flat": (lambda: decompose(PCA_LIKE[0], 2), r"Features must be \[token, feature\], got shape \[11\]"),
    "NaN": (lambda: participation_ratio([[1.0, 2.0], [3.0, np.nan]]), "Feature 1 has NaN or infinite numbers. Leave"),
    "few points": (lambda: two_nn(np.ones((50, 3))), "1 of 50 points are distinct, and TwoNN needs 20"),
    "one document": (lambda: stability(PCA_LIKE, np.zeros(N), 2), "Halves of documents need at least 2 documents"),
    "other documents": (lambda: stability(PCA_LIKE, np.zeros(3), 2), r"documents has shape \[3\], features have 480"),
    "other tokens": (lambda: top_tokens(decompose(PCA_LIKE, 2), ["a"], DOCUMENTS), "1 tokens and 480 documents were"),
    "scattered documents": (
        lambda: top_tokens(decompose(PCA_LIKE, 2), ["a"] * N, np.arange(N) % 7), "tokens of some document do not stand",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_words(name):
    run, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        run()
