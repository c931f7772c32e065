"""TransformerLens's own tools run on the model and give right numbers."""

import math

import pytest
import torch
from transformer_lens import ActivationCache, HookedRootModule, SVDInterpreter, head_detector, patching
from transformer_lens.config import TransformerLensConfig
from transformer_lens.model_protocol import TransformerLensModelWithWeights
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution
from transformer_lens.tools.analysis.interchange import collect_activations
from transformer_lens.tools.analysis.logit_lens import logit_lens
from transformer_lens.tools.analysis.projection_kernel import attention_head_subspace_affinity

from tests.models import SIZES, small_model, some_tokens

B, T = 2, 8
ARCHITECTURES = ["llama windows", "neox", "original", "plain"]


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return small_model(request.param)


def close(given, truth, atol=1e-10):
    torch.testing.assert_close(given, truth, rtol=0, atol=atol)


def test_it_satisfies_the_protocol(model):
    assert isinstance(model, HookedRootModule)
    assert isinstance(model, TransformerLensModelWithWeights)
    assert isinstance(model.cfg, TransformerLensConfig)
    assert "blocks" in dir(type(model))  # visible on the class, as Python 3.12 looks members up statically
    _, cache = model.run_with_cache(some_tokens(1, T))
    assert isinstance(cache, ActivationCache)


def test_head_results_sum_to_the_attention_output(model):
    _, cache = model.run_with_cache(some_tokens(B, T))
    del cache.cache_dict["blocks.1.attn.hook_result"]  # so that the stack is made from z and W_O
    for layer in range(model.cfg.n_layers):
        heads = cache.stack_head_results(layer=layer + 1, incl_remainder=False)[-model.cfg.n_heads :]
        close(heads.sum(0) + model.blocks[layer].attn.b_O, cache["attn_out", layer])


def test_residual_pieces_sum_to_the_residual_stream(model):
    _, cache = model.run_with_cache(some_tokens(B, T))
    pieces, labels = cache.decompose_resid(return_labels=True)
    assert "embed" in labels
    close(pieces.sum(0), cache["resid_post", model.cfg.n_layers - 1])
    heads = cache.stack_head_results(incl_remainder=True)
    close(heads.sum(0), cache["resid_post", model.cfg.n_layers - 1])
    full = cache.get_full_resid_decomposition(expand_neurons=True)
    close(full.sum(0), cache["resid_post", model.cfg.n_layers - 1])


def test_accumulated_resid_ends_in_the_logits(model):
    logits, cache = model.run_with_cache(some_tokens(B, T))
    stack = cache.accumulated_resid(incl_mid=True)
    close(stack[0], cache["resid_pre", 0])
    close(stack[-1], cache["resid_post", model.cfg.n_layers - 1])
    lens = cache.accumulated_resid(apply_ln=True)
    close(lens[-1] @ model.W_U + model.b_U, logits)


def test_logit_attributions_sum_to_the_logit_less_constants(model):
    tokens = some_tokens(B, T)
    logits, cache = model.run_with_cache(tokens)
    target = some_tokens(B, seed=8)
    attributions = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), tokens=target, pos_slice=-1)
    attributions = attributions.squeeze(-1)
    logit = logits[torch.arange(B), -1, target]
    constant = model.ln_final.b @ model.W_U[:, target] if model.cfg.normalization_type == "LN" else 0.0
    close(attributions.sum(0), logit - constant)


def test_the_direct_logit_attribution_tool_agrees_with_the_logits(model):
    tokens = some_tokens(1, T)
    logits, cache = model.run_with_cache(tokens)
    constant = (model.ln_final.b @ model.W_U)[5] if model.cfg.normalization_type == "LN" else 0.0
    found = direct_logit_attribution(model, cache=cache, answer_tokens=5, unit="component")
    close(found.attribution.sum(0).reshape(()), (logits[0, -1, 5] - constant).detach())


def test_patching_everything_restores_the_clean_run(model):
    clean, corrupted = some_tokens(1, T, seed=1), some_tokens(1, T, seed=2)
    clean_logits, cache = model.run_with_cache(clean)

    def metric(logits):
        return logits[0, -1, 3] - logits[0, -1, 4]

    resid = patching.get_act_patch_resid_pre(model, corrupted, cache, metric)
    assert resid.shape == (model.cfg.n_layers, T)
    for tool, shape in (
        (patching.get_act_patch_attn_head_out_by_pos, (model.cfg.n_layers, T, model.cfg.n_heads)),
        (patching.get_act_patch_attn_head_pattern_all_pos, (model.cfg.n_layers, model.cfg.n_heads)),
        (patching.get_act_patch_attn_head_q_by_pos, (model.cfg.n_layers, T, model.cfg.n_heads)),
        (patching.get_act_patch_mlp_out, (model.cfg.n_layers, T)),
    ):
        found = tool(model, corrupted, cache, metric)
        assert found.shape == shape
        assert torch.isfinite(found).all()
    # patching the last layer's last position of the residual stream restores nothing else, but all of it does
    whole = model.run_with_hooks(corrupted, fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: cache[hook.name])])
    close(metric(whole), metric(clean_logits))


def test_patching_does_not_write_into_the_clean_cache(model):
    clean, corrupted = some_tokens(1, T, seed=1), some_tokens(1, T, seed=2)
    _, cache = model.run_with_cache(clean)
    before = {name: value.clone() for name, value in cache.items()}
    patching.get_act_patch_attn_head_v_all_pos(model, corrupted, cache, lambda logits: logits.sum())
    for name, value in before.items():
        assert torch.equal(cache[name], value), name


def test_detect_head_reads_raw_patterns_and_finds_a_planted_previous_token_head():
    model = with_words(small_model("plain", n_ctx=24))
    text = "a b c d e f"
    _, cache = model.run_with_cache(text, remove_batch_dim=True)
    pattern = torch.zeros(6, 6, dtype=torch.float64)
    pattern[0, 0] = 1
    pattern[range(1, 6), range(5)] = 1
    cache.cache_dict["blocks.1.attn.hook_pattern"][2] = pattern
    found = head_detector.detect_head(model, text, "previous_token_head", cache=cache, error_measure="abs")
    assert found.shape == (SIZES["n_layers"], SIZES["n_heads"])
    assert divmod(int(found.argmax()), SIZES["n_heads"]) == (1, 2)


def test_logit_lens_ends_in_the_logits(model):
    tokens = some_tokens(1, T)
    found = logit_lens(model, tokens, return_type="logits")
    assert found.labels[-1] == "final_post"
    assert found.readout.return_type == "logits"
    close(found.values[-1], model(tokens)[:, -1])


def test_node_attribution_patching_agrees_with_the_gradient_of_the_embedding(model):
    clean, corrupted = some_tokens(1, T, seed=1), some_tokens(1, T, seed=2)
    found = attribution_patch(model, clean, corrupted, lambda logits: logits[0, -1, 3])
    assert len(found.node_scores) > model.cfg.n_layers
    assert all(map(math.isfinite, found.node_scores.values()))
    assert max(map(abs, found.node_scores.values())) > 0


@pytest.mark.parametrize("variant", ["llama windows", "neox"])
def test_unfaithful_edge_tools_refuse_with_the_reason(variant):
    model = small_model(variant)
    clean, corrupted = some_tokens(1, T, seed=1), some_tokens(1, T, seed=2)
    reason = "mixing networks are a further reader"
    edges = EdgeAttributionConfig(granularity="edge")
    with pytest.raises(ValueError, match=reason):
        attribution_patch(model, clean, corrupted, lambda logits: logits[0, -1, 3], config=edges)
    _, cache = model.run_with_cache(clean)
    with pytest.raises(ValueError, match=reason):
        patching.get_act_patch_direct_path(model, corrupted, cache, cache, lambda logits: logits[0, -1, 3], 0, 1)
    assert not model.cfg.use_attn_result  # the tools' own switch was put back


def test_collected_activations_are_the_cached_ones(model):
    tokens = some_tokens(B, T)
    _, cache = model.run_with_cache(tokens)
    found = collect_activations(model, "blocks.1.hook_resid_post", tokens, model, positions=torch.tensor([3, 6]))
    close(found, cache["resid_post", 1][torch.arange(B), [3, 6]])


def test_head_subspace_affinity_reads_every_head(model):
    found = attention_head_subspace_affinity(model, source_role="O", target_role="V")
    L, H = SIZES["n_layers"], SIZES["n_heads"]
    assert found.scores.shape == (L, H, L, H)
    assert found.normalized[found.valid_mask].max() <= 1


def test_svd_interpreter_reads_the_fused_weights(model):
    found = SVDInterpreter(model).get_singular_vectors("OV", layer_index=1, head_index=2, num_vectors=3)
    attn = model.blocks[1].attn
    _, _, right = torch.linalg.svd(attn.W_V[2] @ attn.W_O[2])
    truth = (right @ model.W_U)[:3]
    close(found[:, 0].abs(), truth.T.abs().detach(), atol=1e-8)


def test_weight_views_are_the_weights(model):
    attn, x = model.blocks[0].attn, torch.randn(1, 3, SIZES["d_model"], dtype=torch.float64)
    q, _, v = attn.wqkv(x).unflatten(-1, (3, SIZES["n_heads"], SIZES["d_head"])).unbind(2)
    close(torch.einsum("btd,ndk->btnk", x, attn.W_Q) + attn.b_Q, q)
    close(torch.einsum("btd,ndk->btnk", x, attn.W_V) + attn.b_V, v)
    assert attn.W_Q.data_ptr() == attn.wqkv.weight.data_ptr()
    assert attn.W_O.data_ptr() == attn.wo.weight.data_ptr()


def with_words(model):
    """A tokenizer of single letters, so that tools that want text run."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {chr(97 + i): i for i in range(26)}
    words = Tokenizer(models.WordLevel(letters | {"[UNK]": 26}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    return model
