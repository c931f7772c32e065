"""Composition while decoding: the tap's rows are those of a capture, and of the matrices written out."""

import pytest
import torch

from model import Capture, Engine, HookedDCFormer, capture, load_model
from model.config import SITES
from model.generation import stream_tokens
from model.key_cache import caches_for
from model.mixing import Mixing
from model.site_mixing import SiteMixing
from probes.decoding import DecodingDistances
from tests.models import VARIANTS, small_config, small_model, some_tokens

LENGTH = 17


def rows_by_step(model: HookedDCFormer, tokens: torch.Tensor, steps: tuple[int, ...]) -> dict[int, dict]:
    """What the tap says after each step, by the position of the step's last token."""
    engine, distances, found, end = Engine(model), DecodingDistances(model.cfg), {}, 0
    with torch.no_grad():
        caches = caches_for(model.cfg.keys_visible, tokens.shape[1])
    with engine.tapped(distances):
        for piece in tokens.split(steps, dim=1):
            engine(piece, caches=caches, last=True)
            end += piece.shape[1]
            found[end - 1] = distances.last_row()
    return found


def captured_row(run: Capture, site: str, position: int) -> torch.Tensor:
    return torch.stack([run.mixing(layer, site).query_distances_from_identity()[position] for layer in range(3)])


@pytest.mark.parametrize("steps", [(LENGTH,), (9, *[1] * 8), (2, 7, 1, 1, 5, 1), (1,) * LENGTH])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tap_says_what_a_capture_says(variant, steps):
    model, tokens = small_model(variant), some_tokens(1, LENGTH)
    run = capture(model, tokens)
    for position, rows in rows_by_step(model, tokens, steps).items():
        for site in SITES:
            truth = torch.stack(
                [run.mixing(layer, site).query_distances_from_identity()[position] for layer in range(3)]
            )
            torch.testing.assert_close(rows[site], truth, rtol=1e-5, atol=1e-6)


def test_the_tap_says_what_a_capture_says_in_float32():
    model = HookedDCFormer(small_config("llama windows", dtype=torch.float32), seed=2)
    tokens = some_tokens(1, LENGTH)
    run = capture(model, tokens)
    for position, rows in rows_by_step(model, tokens, (11, *[1] * 6)).items():
        for site in SITES:
            truth = torch.stack(
                [run.mixing(layer, site).query_distances_from_identity()[position] for layer in range(3)]
            )
            assert truth.max() > 1e-3
            torch.testing.assert_close(rows[site], truth, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("variant", ["llama windows", "groups", "talking heads", "plain", "key side"])
def test_a_row_s_distance_is_the_mean_over_its_matrices(variant):
    run = capture(small_model(variant), some_tokens(1, 9))
    for layer in range(3):
        for site in SITES:
            mix = run.mixing(layer, site)
            truth = [(mix.row(i) - torch.eye(4)).square().sum(1).mean(0).sqrt() for i in range(9)]
            torch.testing.assert_close(mix.query_distances_from_identity(), torch.stack(truth), rtol=1e-4, atol=1e-6)


def test_rows_and_the_whole_agree():
    mix = capture(small_model("llama"), some_tokens(1, 8)).mixing(1, "post")
    counts = torch.arange(1, 9)[:, None]
    whole = ((mix.query_distances_from_identity().square() * counts).sum(0) / counts.sum()).sqrt()
    torch.testing.assert_close(whole, mix.distance_from_identity())


def test_a_site_that_mixes_nothing_is_at_no_distance():
    assert torch.equal(SiteMixing(Mixing(n_heads=5), 7, None).query_distances_from_identity(), torch.zeros(7, 5))


def test_the_tap_changes_no_logit():
    model, tokens = small_model(), some_tokens(1, 6)
    engine, before = Engine(model), Engine(model)(tokens)
    with engine.tapped(DecodingDistances(model.cfg)):
        assert torch.equal(engine(tokens), before)


def test_misuse_is_one_sentence():
    model = small_model()
    distances = DecodingDistances(model.cfg)
    with pytest.raises(ValueError, match="0 of 3 layers were run"):
        distances.last_row()
    with Engine(model).tapped(distances), pytest.raises(ValueError, match="of one sequence without padding; 2 were"):
        Engine(model)(some_tokens(2, 5))


def test_streamed_tokens_are_the_generated_ones():
    model = load_model("demo/dcformer")
    prompt = "Mary has an apple. John"
    tokens = list(stream_tokens(model, prompt, 21, temperature=0.8, seed=5))
    before = model.to_tokens(prompt)
    ids = model.generate(before, 21, temperature=0.8, seed=5)[0, before.shape[1] :]
    assert [token.id for token in tokens] == ids.tolist()
    assert prompt + "".join(token.text for token in tokens) == model.generate(prompt, 21, temperature=0.8, seed=5)
