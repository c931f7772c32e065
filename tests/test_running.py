"""Batches, padding, cached decoding and what bad input gets."""

import pytest
import torch

from model import HookedDCFormer
from model.key_cache import caches_for, standing_positions
from tests.models import VARIANTS, small_config, small_model, some_tokens

LENGTHS = (4, 9, 7)


def padded(rows):
    longest = max(map(len, rows))
    tokens, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, longest - len(row) :], mask[i, longest - len(row) :] = row, True
    return tokens, mask


@pytest.mark.parametrize("watch_maps", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batches_agree_with_single_runs(variant, watch_maps):
    model, rows = small_model(variant), [some_tokens(n, seed=n) for n in LENGTHS]
    tokens, mask = padded(rows)
    hooks = [("blocks.0.attn.hook_pattern", lambda x, hook: x)] if watch_maps else []
    batch = model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=hooks)
    assert torch.isfinite(batch).all()
    for i, row in enumerate(rows):
        torch.testing.assert_close(batch[i, -len(row) :], model(row)[0], rtol=0, atol=1e-10)


def test_padding_reaches_neither_loss_nor_gradients():
    model, rows = small_model("groups"), [some_tokens(n, seed=n) for n in LENGTHS]
    tokens, mask = padded(rows)
    loss = model(tokens, attention_mask=mask, return_type="loss")
    singles = [model(row, return_type="loss", loss_per_token=True).sum() for row in rows]
    torch.testing.assert_close(loss, sum(singles) / (sum(LENGTHS) - 3), rtol=0, atol=1e-12)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("steps", [(3, 1, 1, 1, 1, 1, 1, 1, 1, 1), (1,) * 12, (5, 4, 3), (2, 1, 6, 1, 1, 1)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_steps_agree_with_one_forward_beyond_the_window_too(variant, steps):
    model, tokens = small_model(variant), some_tokens(2, 12)
    with torch.no_grad():
        whole, caches = model(tokens), caches_for(model.cfg.keys_visible, 12)
        pieces = [model(piece, caches=caches) for piece in tokens.split(steps, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("watch_maps", [False, True])
def test_cached_steps_of_padded_batches_agree_too(watch_maps):
    model, rows = small_model("llama windows"), [some_tokens(n, seed=n) for n in (7, 9, 8)]
    tokens, mask = padded(rows)
    hooks = [("blocks.0.attn.hook_pattern", lambda x, hook: x)] if watch_maps else []
    done, pieces = 0, []
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        whole, caches = model(tokens, attention_mask=mask), caches_for(model.cfg.keys_visible, 9)
        for piece in tokens.split((4, 1, 1, 2, 1), dim=1):
            done += piece.shape[1]
            pieces.append(model(piece, attention_mask=mask[:, :done], caches=caches))
    real = mask[..., None]
    torch.testing.assert_close(torch.cat(pieces, dim=1) * real, whole * real, rtol=0, atol=1e-10)


def test_a_local_layers_cache_keeps_only_what_it_may_see():
    model = small_model("llama windows")
    with torch.no_grad():
        caches = caches_for(model.cfg.keys_visible, 20)
        model(some_tokens(1, 9), caches=caches)
    assert [cache.slots for cache in caches] == [3, 20, 5]
    assert caches[0].nbytes * 20 == caches[1].nbytes * 3


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_the_position_in_each_slot_of_a_ring_is_the_last_that_was_written_there(slots):
    ring = [-1] * slots
    for position in range(16):
        ring[position % slots] = position
        for latest in (position, torch.tensor([position])):
            standing = standing_positions(slots, latest, torch.device("cpu")).tolist()
            assert [at if at >= 0 else -1 for at in standing] == ring


def test_greedy_generation_is_the_argmax_of_full_forwards():
    model, tokens = small_model("llama windows"), some_tokens(2, 5)
    out, grown = model.generate(tokens, 10), tokens
    for _ in range(10):
        grown = torch.cat([grown, model(grown)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(out, grown)


def test_generation_of_unequal_prompts_agrees_with_each_alone():
    model, rows = small_model("neox"), [some_tokens(n, seed=n) for n in LENGTHS]
    tokens, mask = padded(rows)
    out = model.generate(tokens, 6, attention_mask=mask)
    for i, row in enumerate(rows):
        assert torch.equal(out[i, -6 - len(row) :], model.generate(row, 6))


def test_sampling_follows_its_seed_and_limits():
    model, tokens = small_model(), some_tokens(1, 5)
    one, again, other = (model.generate(tokens, 12, temperature=2.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    greedy = model.generate(tokens, 12)
    assert torch.equal(model.generate(tokens, 12, temperature=1.0, top_k=1, seed=3), greedy)
    assert torch.equal(model.generate(tokens, 12, temperature=1.0, top_p=1e-6, seed=4), greedy)
    with torch.no_grad():
        top3 = set(model(tokens)[0, -1].topk(3).indices.tolist())
    drawn = {int(model.generate(tokens, 1, temperature=3.0, top_k=3, seed=s)[0, -1]) for s in range(40)}
    assert drawn == top3


def test_generation_stops_at_the_end_token_only_if_the_config_names_one():
    model, tokens = small_model(), some_tokens(2, 5)
    out = model.generate(tokens, 8)
    end = int(out[0, 7])
    model.cfg.eos_token_id = end
    stopped = model.generate(tokens[:1], 8)
    first = out[0, 5:].tolist().index(end)
    assert stopped[0].tolist() == out[0, : 5 + first + 1].tolist()
    assert torch.equal(model.generate(tokens, 8, stop_at_eos=False), out)


def test_hooks_act_on_every_generated_token():
    model, tokens = small_model(), some_tokens(1, 5)
    with model.hooks(fwd_hooks=[("ln_final.hook_normalized", lambda x, hook: x * 0)]):
        out = model.generate(tokens, 4)
    assert out[0, 5:].tolist() == [0, 0, 0, 0]  # equal logits: the first id wins


def test_return_types_agree():
    model, tokens = small_model(), some_tokens(2, 6)
    logits, loss = model(tokens, return_type="both")
    truth = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, truth)
    assert torch.equal(loss, model(tokens, return_type="loss"))
    assert model(tokens, return_type=None) is None
    per_token = model(tokens, return_type="loss", loss_per_token=True)
    assert per_token.shape == (2, 5)
    torch.testing.assert_close(per_token.mean(), loss)


def test_stopping_at_a_layer_gives_its_input():
    model, tokens = small_model(), some_tokens(2, 6)
    _, cache = model.run_with_cache(tokens)
    for stop, name in ((1, ("resid_pre", 1)), (-1, ("resid_pre", 2)), (3, ("resid_post", 2))):
        torch.testing.assert_close(model(tokens, stop_at_layer=stop), cache[name], rtol=0, atol=1e-11)


def test_low_precision_stays_near_float32():
    model = HookedDCFormer(small_config("llama windows", dtype=torch.float32), seed=0)
    tokens = some_tokens(2, 9)
    exact = model(tokens)
    low = model.to(torch.bfloat16)(tokens)
    assert low.dtype == torch.bfloat16
    assert model.cfg.dtype == torch.bfloat16
    assert ((low - exact).norm() / exact.norm()).item() < 3e-2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m("text"), "no tokenizer, so it takes token ids only"),
        (lambda m: m([]), "empty list of prompts"),
        (lambda m: m(torch.zeros(1, 0, dtype=torch.long)), "prompt is empty"),
        (lambda m: m(torch.tensor([[3, 37]])), "Token id 37 is outside the vocabulary: ids run from 0 to 36"),
        (lambda m: m(torch.tensor([-1, 2])), "Token id -1 is outside the vocabulary"),
        (lambda m: m(some_tokens(1, 25)), "25 tokens but the context of this model is 24"),
        (lambda m: m(some_tokens(1, 2, 3)), r"must be \[pos\] or \[batch, pos\], got shape \(1, 2, 3\)"),
        (lambda m: m(some_tokens(1, 3), return_type="probs"), "return_type must be 'logits'"),
        (lambda m: m(some_tokens(1, 1), return_type="loss"), "needs at least 2 tokens"),
        (lambda m: m(some_tokens(1, 3), stop_at_layer=4), "stop_at_layer=4 does not exist in a model of 3 layers"),
        (lambda m: m(some_tokens(1, 3), attention_mask=torch.tensor([[1, 1, 0]])), "Pad on the left"),
        (lambda m: m(some_tokens(1, 3), attention_mask=torch.tensor([[1, 1]])), r"has shape \(1, 2\)"),
        (lambda m: m(some_tokens(1, 3), attention_mask=torch.tensor([[0, 0, 0]])), "without any token"),
        (lambda m: m.generate(some_tokens(1, 20), 5), "20 tokens leaves no room for 5 more in a context of 24"),
        (lambda m: m.generate(some_tokens(1, 3), 0), "max_new_tokens must be at least 1"),
        (lambda m: m.generate(some_tokens(1, 3), 2, temperature=-1.0), "temperature must be 0"),
        (lambda m: m.generate(some_tokens(1, 3), 2, top_k=4), "temperature=0 is greedy and contradicts top_k"),
        (lambda m: m.generate(some_tokens(1, 3), 2, temperature=1.0, top_p=1.5), "top_p must be above 0"),
        (lambda m: m.generate(some_tokens(1, 3), 2, temperature=1.0, top_k=0), "top_k must be at least 1"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_model())


def test_wrong_kinds_of_input_are_refused():
    with pytest.raises(TypeError, match="got a list of int"):
        small_model()([1, 2, 3])
    with pytest.raises(TypeError, match="whole numbers"):
        small_model()(torch.zeros(1, 3))


def test_a_cache_needs_no_grad_and_has_a_capacity():
    model = small_model()
    with pytest.raises(RuntimeError, match=r"under torch\.no_grad"):
        caches_for([None] * 3, 10)
    with torch.no_grad():
        caches = caches_for(model.cfg.keys_visible, 4)
        model(some_tokens(1, 3), caches=caches)
        with pytest.raises(ValueError, match="room for 4 tokens, 6 were given"):
            model(some_tokens(1, 3), caches=caches)
