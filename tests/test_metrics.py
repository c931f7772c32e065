"""One contract for every metric; tables of many, and the sequences that some need."""

import pytest
import torch

from model import Capture, capture
from model.capture import LayerCapture
from probes.metrics import (
    DISTANCE_METRICS,
    DIVERSITY_METRICS,
    HEAD_METRICS,
    MIXING_METRICS,
    diversity,
    head_metrics,
    mixing_metrics,
    raw_to_composed,
    repeated_random_tokens,
    value_norms,
)
from probes.metrics.effective_rank import effective_rank
from tests.metric_runs import H, T, hand_made, run_of
from tests.models import small_model

HEAD = {metric.name: metric for metric in HEAD_METRICS}
DIVERSITY = {metric.name: metric for metric in DIVERSITY_METRICS}
MIXING = {metric.name: metric for metric in MIXING_METRICS}
ALL = [*HEAD_METRICS, *DISTANCE_METRICS, *DIVERSITY_METRICS, *MIXING_METRICS]


# -- one contract for every metric -----------------------------------------------------------------------


def relabelled(run, order):
    """The same run with its heads numbered anew: head n is the old head order[n]."""
    layers = {}
    for layer, at in run.layers.items():
        q, k, v = (x[:, order] for x in (at.q, at.k, at.v))
        sites = [
            m.with_factors(
                {name: f[..., order] for name, f in m.factors().items()} | {"static": m.static[order][:, order]}
            )
            for m in (at.pre, at.post)
        ]
        layers[layer] = LayerCapture(q=q, k=k, v=v, pre=sites[0], post=sites[1], W_O=at.W_O[order])
    return Capture(run.cfg, run.tokens, run.str_tokens, run.logits, run.final_scale, layers)


def values_of(metric, run, layer):
    """Everything a metric has to say about a layer, by stage or site."""
    if metric in DISTANCE_METRICS:
        return {metric.site: metric(run, layer)}
    return {where: torch.as_tensor(metric(run, layer, where)) for where in metric.ranges}


def test_names_are_unique():
    assert len({metric.name for metric in ALL}) == len(ALL)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_says_what_it_is(metric):
    assert metric.title
    assert metric.unit
    assert metric.definition.endswith(".")
    assert set(metric.ranges) | set(metric.refusals) in ({"raw", "composed"}, {"pre", "post"})
    assert all(low <= high for low, high in metric.ranges.values())


@pytest.mark.parametrize("variant", ["llama windows", "static and dynamic", "groups"])
@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_values_lie_in_the_stated_range(metric, variant):
    run = run_of(variant)
    for layer in range(3):
        for where, value in values_of(metric, run, layer).items():
            low, high = metric.ranges[where]
            assert torch.isfinite(value).all()
            assert value.dtype == torch.float64 or value.ndim == 0
            assert low - 1e-6 <= float(value.min()) <= float(value.max()) <= high + 1e-6


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_relabelling_heads_relabels_the_metric(metric):
    run, order = run_of("static and dynamic"), [2, 0, 3, 1]
    new = values_of(metric, relabelled(run, order), 1)
    for where, value in values_of(metric, run, 1).items():
        expected = value[order] if value.ndim else value
        torch.testing.assert_close(new[where], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", [*HEAD_METRICS, *DIVERSITY_METRICS], ids=lambda metric: metric.name)
def test_raw_is_composed_in_a_plain_model(metric):
    values = values_of(metric, run_of("plain"), 1)
    if len(values) == 2 and metric.name != "score_rank":
        assert torch.equal(values["raw"], values["composed"])
    elif len(values) == 2:
        torch.testing.assert_close(values["raw"], values["composed"])


@pytest.mark.parametrize("metric", DISTANCE_METRICS, ids=lambda metric: metric.name)
def test_a_plain_models_maps_are_at_no_distance(metric):
    assert metric(run_of("plain"), 1).tolist() == [metric.baseline] * H


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_refusal_says_what_to_use(metric):
    known = {other.name for other in ALL}
    for where, reason in metric.refusals.items():
        assert any(name in reason for name in known)
        with pytest.raises(ValueError, match=f"{metric.name} does not take '{where}': .* Take "):
            metric.check(where)
    with pytest.raises(ValueError, match=r"was asked for 'mixed'\. Choose from"):
        metric.check("mixed")


@pytest.mark.parametrize("name", ["entropy", "mean_distance"])
def test_probability_metrics_refuse_composed_patterns(name):
    with pytest.raises(ValueError, match="signed and its rows do not sum to 1"):
        HEAD[name](run_of(), 0, "composed")


# -- tables ----------------------------------------------------------------------------------------------


def test_tables_hold_every_metric_once():
    run = run_of()
    table = head_metrics(run)
    assert list(table.columns) == ["layer", "head", "stage", "metric", "value"]
    assert len(table) == 3 * H * sum(len(metric.ranges) for metric in HEAD_METRICS)
    assert not table.duplicated(["layer", "head", "stage", "metric"]).any()
    row = table.query("layer == 2 and head == 3 and stage == 'composed' and metric == 'induction'")
    assert row.value.item() == pytest.approx(float(HEAD["induction"](run, 2, "composed")[3]))
    assert len(raw_to_composed(run)) == 3 * H * 2
    assert len(diversity(run)) == 3 * sum(len(metric.ranges) for metric in DIVERSITY_METRICS)
    assert len(mixing_metrics(run)) == 3 * 2 * len(MIXING_METRICS)
    row = mixing_metrics(run, ["key_share"], [-1], ["pre"]).iloc[0]
    assert (row.layer, row.site, row.metric) == (2, "pre", "key_share")
    assert row.value == MIXING["key_share"](run, 2, "pre")


def test_a_table_leaves_out_what_a_prompt_cannot_answer_unless_it_is_asked_for():
    run = run_of(words=list(range(T)))
    assert set(HEAD) - set(head_metrics(run).metric) == {"induction", "duplicate_token"}
    with pytest.raises(ValueError, match="duplicate_token needs a token that stands earlier too, and no given prompt"):
        head_metrics(run, ["duplicate_token"])
    assert set(head_metrics([run, run_of()], layers=[1]).metric) == set(HEAD)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: HEAD["induction"](run_of(words=[4, 4, 2]), 0, "raw"), "at least 2 places earlier too"),
        (lambda run: HEAD["previous_token"](run_of(words=[4]), 0, "raw"), "needs a second token"),
        (lambda run: DIVERSITY["pattern_divergence"](run_of(words=[4]), 0, "raw"), "needs a second token"),
        (lambda run: DIVERSITY["output_similarity"](run_of(words=[4, 1, 2]), 0, "raw"), "at least 4 tokens"),
        (lambda run: head_metrics(run, ["attention"]), "Unknown metric 'attention'. Choose from previous_token"),
        (lambda run: head_metrics([]), "No captures were given"),
        (lambda run: head_metrics([run, run_of("plain")]), "models of different configurations"),
        (lambda run: mixing_metrics(run_of("plain")), "mixes no heads"),
        (lambda run: MIXING["off_diagonal"](run_of("pre only"), 0, "post"), "does not mix at site 'post'"),
        (lambda run: head_metrics(run, layers=[7]), "Layer 7 is not in this capture"),
        (lambda run: diversity(hand_made(torch.zeros(1, 5, 5))), "this model has one"),
    ],
)
def test_bad_questions_are_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call(run_of())


def test_value_norms_are_those_of_what_is_written():
    run = run_of()
    at = run.layers[2]
    truth = torch.einsum("snk,nkd->snd", at.v, at.W_O).norm(dim=-1)
    torch.testing.assert_close(value_norms(run, -1), truth)


# -- sequences -------------------------------------------------------------------------------------------


def test_repeated_tokens_repeat_and_differ_within_a_block():
    model = small_model()
    tokens = repeated_random_tokens(model, 7, repeats=3, batch=2)
    assert tokens.shape == (2, 21)
    assert torch.equal(tokens[:, :7], tokens[:, 7:14])
    assert torch.equal(tokens[:, :7], tokens[:, 14:])
    assert all(len(set(row[:7].tolist())) == 7 for row in tokens)
    assert not torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens, repeated_random_tokens(model, 7, 3, batch=2))
    assert not torch.equal(tokens, repeated_random_tokens(model, 7, 3, seed=1, batch=2))
    runs = capture(model, tokens)
    assert HEAD["induction"](runs, 1, "raw").shape == (H,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 0}, "block=0, repeats=2"),
        ({"block": 4, "repeats": 1}, "repeats=1"),
        ({"block": 13}, "26 tokens, the model's context has 24"),
    ],
)
def test_repeats_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        repeated_random_tokens(small_model(), **arguments)
    with pytest.raises(ValueError, match="A block of 40 different tokens was asked for, the vocabulary has 37"):
        repeated_random_tokens(small_model(n_ctx=100), 40)


def test_special_tokens_are_not_drawn():
    class Tokenizer:
        bos_token_id, all_special_ids = 3, [0, 3, 4]

        def __len__(self):
            return 9

    model = small_model(default_prepend_bos=True)
    model.tokenizer = Tokenizer()
    tokens = repeated_random_tokens(model, 6)[0].tolist()
    assert tokens[0] == 3
    assert sorted(tokens[1:7]) == [1, 2, 5, 6, 7, 8]


def test_effective_rank_of_known_singular_values():
    assert effective_rank(torch.diag(torch.tensor([4.0, 4.0, 4.0, 0.0]).double())) == pytest.approx(3)
    assert effective_rank(torch.diag(torch.tensor([9.0, 0.0]).double())) == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 3, dtype=torch.float64)) == 0
