"""A decoder that starts as CLIP's own comparison of patches with words: what it says untrained, what learns, layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_es.encoder import CLIP, TowerSizes, build_encoder
from clip_es.errors import ConfigError
from clip_es.localize.clipseg.sight import block_outputs
from clip_es.localize.clipseg.start import FIXED, start_as_clip
from clip_es.localize.clipseg.training import DecoderTraining, new_decoder
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.metrics.ranks import spearman
from clip_es.pipelines.clipseg.train import train_decoder
from clip_es.records.phrases.table import Phrase, PhraseSet

CONFIG = DecoderTraining(
    layers=(0, 2), dim=16, hidden=32, side=64, steps=4, batch=4, per_picture=2, example_side=32, save_every=2,
    threads=0, examples=0.0, start="clip",
)  # fmt: skip


class Halves(PhraseSet):
    """Six pictures with a bright left and a dark right half, called left and right."""

    name = "halves"

    def __init__(self) -> None:
        self.samples = tuple(Phrase(number, text) for number in range(6) for text in ("left", "right"))

    def picture(self, number):
        rgb = np.random.default_rng(number).integers(0, 120, (64, 64, 3), dtype=np.uint8)
        rgb[:, :32] += 130
        return rgb

    def mask(self, sample):
        mask = np.zeros((64, 64), bool)
        mask[:, slice(0, 32) if self.samples[sample].text == "left" else slice(32, 64)] = True
        return mask


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    sizes = TowerSizes(patch=16, width=64, layers=3, grid=4, embed=32, text_width=64, text_layers=1)
    return build_encoder(CLIP(sizes).state_dict(), device="cpu")


@pytest.fixture(scope="module")
def shown(encoder):
    """Outputs of two layers for sixteen pictures of noise, and vectors that are no text of theirs."""
    generator = torch.Generator().manual_seed(1)
    seen = block_outputs(encoder, torch.randn(16, 3, 64, 64, generator=generator), CONFIG.layers)
    return seen, 40 * torch.randn(50, 32, generator=generator) + 20


def test_untrained_it_orders_patches_as_clip_does_for_prompts_it_was_not_shown(encoder, shown):
    seen, prompts = shown
    decoder = start_as_clip(new_decoder(encoder, CONFIG).eval(), encoder, seen, prompts, seed=0)
    others = 40 * torch.randn(20, 32, generator=torch.Generator().manual_seed(2)) + 20
    visual = encoder.model.visual
    with torch.no_grad():
        patches = visual.ln_post(seen[1][:, 1:]) @ visual.proj
        patches = patches - patches.mean((0, 1))
        agreement = torch.einsum("bnd,pd->bpn", F.normalize(patches, dim=-1), F.normalize(others - prompts.mean(0)))
        found = [decoder([one[[b]] for one in seen], others, (4, 4)) for b in range(16)]
        logits = torch.stack([F.avg_pool2d(one[:, None], 16).flatten(1) for one in found])
        random = [new_decoder(encoder, CONFIG).eval()([one[[b]] for one in seen], others, (4, 4)) for b in range(16)]
        drawn = torch.stack([F.avg_pool2d(one[:, None], 16).flatten(1) for one in random])
    assert spearman(logits.flatten().numpy(), agreement.flatten().numpy()) > 0.5
    assert abs(spearman(drawn.flatten().numpy(), agreement.flatten().numpy())) < 0.3


def test_channels_have_mean_zero_and_deviation_one_over_what_was_shown(encoder, shown):
    seen, prompts = shown
    decoder = start_as_clip(new_decoder(encoder, CONFIG), encoder, seen, prompts, seed=0)
    for layer, rows in ((decoder.reduces[0], seen[1][:, 1:].flatten(0, 1)), (decoder.film_mul, prompts)):
        out = layer(rows)
        torch.testing.assert_close(out.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
        assert float(out.std()) == pytest.approx(1, abs=1e-3)
    assert float(decoder.reduces[1](seen[0][:, 1:]).detach().std()) == pytest.approx(0.2, abs=1e-3)
    assert not bool(decoder.film_add(prompts).any())


def test_the_layers_where_picture_and_prompt_meet_stay_and_the_others_learn(encoder, tmp_path):
    states = {}
    for steps in (1, 4):
        train_decoder(encoder, Halves(), CONFIG, tmp_path / str(steps), stop_after=steps)
        states[steps] = load_decoder(tmp_path / str(steps) / "decoder.safetensors").state_dict()
    same = {key for key, value in states[4].items() if torch.equal(value, states[1][key])}
    assert same == {key for key in states[4] if key.startswith(FIXED)}


def test_the_layout_is_that_of_any_decoder(encoder, tmp_path):
    train_decoder(encoder, Halves(), CONFIG, tmp_path, stop_after=1)
    found = load_decoder(tmp_path / "decoder.safetensors").state_dict()
    usual = new_decoder(encoder, replace(CONFIG, start="random")).state_dict()
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in usual.items()}


def test_a_run_in_parts_ends_with_the_weights_of_one_in_one_go(encoder, tmp_path):
    train_decoder(encoder, Halves(), CONFIG, tmp_path / "whole")
    for stop in (1, 2, 9):
        train_decoder(encoder, Halves(), CONFIG, tmp_path / "parts", stop_after=stop)
    whole, parts = (load_decoder(tmp_path / name / "decoder.safetensors").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, whole[key]) for key, value in parts.items())


def test_a_refined_head_may_start_so_too(encoder, shown):
    refined = new_decoder(encoder, replace(CONFIG, refined=True))
    seen, prompts = shown
    start_as_clip(refined, encoder, seen, prompts, seed=0)
    assert refined(seen, prompts[:16], (4, 4)).shape == (16, 64, 64)


def test_more_channels_than_the_space_has_are_refused(encoder, shown):
    with pytest.raises(ConfigError, match=r"--dim of at most 32.*Found 48"):
        start_as_clip(new_decoder(encoder, replace(CONFIG, dim=48)), encoder, *shown, seed=0)
