"""Every feature that a harvest stores is what a capture of the same tokens shows, in float64."""

import numpy as np
import pytest
import torch

from model import Engine, capture
from model.mixing import side_part
from probes.features import KINDS, HeadFeature, PredictionFeature, default_features, resolve
from probes.harvest import harvest
from probes.metrics import DISTANCE_METRICS, HEAD_METRICS
from tests.harvest_runs import id_documents
from tests.models import VARIANTS, small_config, small_model

DYNAMIC = ["llama windows", "groups", "rank 3", "query side", "key side", "post only", "static and dynamic"]
CONTEXT = 24


def stored(tmp_path, variant, features, **settings):
    model, documents = small_model(variant), id_documents()
    store = harvest(model, documents, tmp_path / "store", features, dtype="float64", **settings)
    assert store is not None
    runs = [
        (document, capture(model, torch.tensor(document.ids[start : start + CONTEXT])))
        for document in documents
        for start in range(0, len(document.ids), CONTEXT)
    ]
    return model, store, runs


def of_all(runs, read):
    """What read gives for every run, joined: rows in the order of a store."""
    return np.concatenate([np.asarray(read(run)) for _, run in runs])


@pytest.mark.parametrize("products", [False, True], ids=["smaller", "products"])
@pytest.mark.parametrize("variant", DYNAMIC)
def test_parts_are_low_rank_plus_gate_of_the_capture(tmp_path, variant, products):
    model, store, runs = stored(tmp_path, variant, ["parts"], products=products)
    cfg = model.cfg
    checked = 0
    for layer in range(cfg.n_layers):
        for site in cfg.mixed_sites:
            for side in cfg.dynamic_sides:
                truth = of_all(runs, lambda run: side_part(getattr(run.layers[layer], site), side)[0])  # noqa: B023
                found = store.read(f"{side}_part@{layer}.{site}")
                if cfg.groups > 1:
                    size = cfg.heads_per_group
                    blocks = [slice(g * size, (g + 1) * size) for g in range(cfg.groups)]
                    assert np.count_nonzero(truth) == sum(np.count_nonzero(truth[:, b, b]) for b in blocks)
                    truth = np.stack([truth[:, b, b] for b in blocks], axis=1)
                np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-6)
                checked += 1
    assert checked == len([name for name in store.features if "part@" in name]) > 0


@pytest.mark.parametrize("variant", ["llama windows", "groups", "key side", "mgate"])
def test_factors_and_gates_are_those_of_the_capture(tmp_path, variant):
    _, store, runs = stored(tmp_path, variant, ["factors"])
    for name in store.features:
        kind, place = name.split("@")
        layer, site = place.split(".")
        truth = of_all(runs, lambda run: getattr(getattr(run.layers[int(layer)], site), kind)[0])  # noqa: B023
        np.testing.assert_allclose(store.read(name), truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", ["llama windows", "neox", "original", "plain"])
def test_residual_streams_are_those_of_the_hooked_model(tmp_path, variant):
    model, store, runs = stored(tmp_path, variant, ["residual"])
    hooks = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)] + ["blocks.2.hook_resid_post"]
    caches = [model.run_with_cache(run.tokens[None], names_filter=hooks)[1] for _, run in runs]
    for layer, hook in enumerate(hooks):
        truth = np.concatenate([cache[hook][0].detach() for cache in caches])
        np.testing.assert_allclose(store.read(f"residual@{layer}"), truth, rtol=1e-9, atol=1e-11)


def test_head_statistics_at_each_query_are_those_of_its_row(tmp_path):
    _, store, runs = stored(tmp_path, "llama windows", ["row_sum", "entropy", "previous_token", "negative_mass"])
    for layer in range(3):
        raw = [run.pattern(layer, "raw").double() for _, run in runs]
        composed = [run.pattern(layer).double() for _, run in runs]
        for name, maps, read in (
            ("row_sum@{}.composed", composed, lambda a: a.sum(-1)),
            ("row_sum@{}.raw", raw, lambda a: a.sum(-1)),
            ("negative_mass@{}.composed", composed, lambda a: a.clamp(max=0).abs().sum(-1)),
            ("entropy@{}.raw", raw, lambda a: torch.special.entr(a).sum(-1)),
            ("previous_token@{}.composed", composed, lambda a: torch.diagonal(a, -1, 1, 2)),
        ):
            rows = [read(a).T for a in maps]
            if "previous" in name:  # the first token has none before it
                rows = [torch.cat([torch.zeros(1, 4).double(), row]) for row in rows]
            np.testing.assert_allclose(store.read(name.format(layer)), np.concatenate(rows), rtol=1e-5, atol=1e-6)


def test_the_mean_of_every_head_statistic_over_the_queries_that_count_is_the_metric(tmp_path):
    names = [metric.name for metric in (*HEAD_METRICS, *DISTANCE_METRICS)]
    _, store, runs = stored(tmp_path, "static and dynamic", names)
    captures = [run for _, run in runs]
    for metric in HEAD_METRICS:
        counted = np.concatenate([metric.counted(run.tokens) for run in captures])
        assert counted.any()
        for stage in metric.ranges:
            mean = store.read(f"{metric.name}@1.{stage}")[counted].mean(0)
            np.testing.assert_allclose(mean, metric(captures, 1, stage), rtol=1e-6, atol=1e-9)
    for distance in DISTANCE_METRICS:
        counted = np.concatenate([distance.counted(run.tokens) for run in captures])
        mean = store.read(f"{distance.name}@1.{distance.site}")[counted].mean(0)
        np.testing.assert_allclose(mean, distance(captures, 1), rtol=1e-6, atol=1e-9)


def test_losses_and_ranks_are_those_of_the_logits_over_pieces_too(tmp_path):
    model, store, _ = stored(tmp_path, "llama windows", ["predictions"])
    losses, ranks = [], []
    for document in id_documents():
        ids = torch.tensor(document.ids)
        logits = torch.cat(
            [Engine(model)(ids[None, start : start + CONTEXT])[0] for start in range(0, len(ids), CONTEXT)]
        )
        for place, target in enumerate(ids[1:].tolist()):
            losses.append(float(-logits[place].log_softmax(0)[target]))
            ranks.append(1 + int((logits[place] > logits[place, target]).sum()))
        losses.append(float("nan"))
        ranks.append(-1)
    np.testing.assert_allclose(store.read("next_token_loss"), losses, rtol=1e-6)
    assert store.read("next_token_rank").tolist() == ranks
    assert store.read("next_token_loss").dtype == np.float32


def test_layers_that_no_feature_needs_are_not_run(tmp_path):
    model = small_model()
    ran = []
    real = type(model.blocks[0].attn).tapped

    def watched(attn, *args):
        ran.append(attn.layer)
        return real(attn, *args)

    for features, layers in ((["residual@1"], {0}), (["query_gate@1.pre"], {0, 1}), (["residual@0"], set())):
        ran.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model.blocks[0].attn), "tapped", watched)
            harvest(model, id_documents(), tmp_path / features[0], features)
        assert set(ran) == layers


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_has_places_shapes_and_words(variant):
    cfg = small_config(variant)
    for kind in KINDS.values():
        for place in kind.places(cfg):
            feature = kind.at(cfg, place)
            assert feature.name == f"{kind.name}@{place}".rstrip("@")
            assert feature.meaning
            assert feature.unit
            assert all(size > 0 for size in feature.shape)
            if isinstance(feature, HeadFeature):
                assert feature.shape == (cfg.n_heads,)
            assert 0 <= feature.layers_needed(cfg) <= cfg.n_layers
    assert resolve(default_features(cfg), cfg)


def test_names_mean_one_place_a_layer_all_places_or_several_kinds():
    cfg = small_config("query side")

    def names(*given):
        return [feature.name for feature in resolve(given, cfg)]

    assert names("residual@2") == ["residual@2"]
    assert names("residual") == names("residual@*") == [f"residual@{layer}" for layer in range(4)]
    assert names("query_part@1") == ["query_part@1.pre", "query_part@1.post"]
    assert names("query_part@*.post") == [f"query_part@{layer}.post" for layer in range(3)]
    assert names("gates@2.pre") == ["query_gate@2.pre"]  # this model has no key side
    assert names("row_sum@0.raw", "row_sum@0") == ["row_sum@0.raw", "row_sum@0.composed"]
    assert all(isinstance(one, PredictionFeature) for one in resolve(["predictions"], cfg))


@pytest.mark.parametrize(
    ("variant", "name", "says"),
    [
        ("llama", "querypart@1.pre", r"Unknown feature 'querypart@1.pre'.*query_part, key_part"),
        ("llama", "query_part@3.pre", r"no 'query_part@3.pre'.*layers 0 to 2, then .pre or .post"),
        ("llama", "residual@4", r"no 'residual@4'.*layers 0 to 3: residual@0"),
        ("llama", "residual@1.pre", r"no 'residual@1.pre'"),
        ("llama", "entropy@1.composed", r"then .raw"),
        ("llama", "next_token_loss@1", r"stands alone"),
        ("plain", "parts", r"mixes no heads \(composition is off\). Leave 'parts' out"),
        ("key side", "query_part@1.pre", r"these sides: key"),
        ("talking heads", "gates", r"its mixing is static"),
    ],
)
def test_a_name_that_means_nothing_says_what_there_is(variant, name, says):
    with pytest.raises(ValueError, match=says):
        resolve([name], small_config(variant))
