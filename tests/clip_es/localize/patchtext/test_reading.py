"""Patches read in CLIP's common space: the recorded arrays of the public code, and what must hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.errors import ConfigError
from clip_es.localize.patchtext.reading import (
    RECIPES,
    enriched,
    look,
    nearness,
    surgery,
    words_share,
)

GOLDEN = Path(__file__).parents[3] / "golden/beyond"


def arrays(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def encoder(tiny_cliper):
    made = tiny_cliper()
    # The recorded towers keep the position table in float32.
    made.config = replace(made.config, half_positions=False)
    return made


def test_self_correlation_over_three_blocks_is_that_of_excel(encoder):
    case = arrays("surgery")
    seen = look(encoder, case["image"], "svc", 3)
    torch.testing.assert_close(seen.embeddings, case["embeddings"][0], atol=2e-5, rtol=0)
    torch.testing.assert_close(surgery(seen.embeddings, case["text"]), case["maps"][0], atol=5e-5, rtol=0)
    unit = torch.nn.functional.normalize(seen.embeddings, dim=-1)
    torch.testing.assert_close(unit @ case["text"].T, case["cosines"][0], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("recorded", "read"), [("reduced_naclip", "kk-near"), ("vanilla_csa", "qq+kk")])
def test_recipes_are_those_of_naclip_and_sclip(encoder, recorded, read):
    case = arrays("naclip")
    seen = look(encoder, case["image"], read, positions=case["positions"])
    torch.testing.assert_close(seen.embeddings, case[recorded][0], atol=2e-5, rtol=0)


def test_attributes_enrich_class_texts_as_in_excel():
    case = arrays("text_enrichment")
    classes = 4  # the other rows are background words, which nothing is added to
    found = enriched(case["text"][:classes], case["attributes"].T)
    torch.testing.assert_close(found, case["enriched"][:classes], atol=1e-6, rtol=0)


def test_the_plain_attention_is_what_clip_itself_says(encoder):
    pixels = arrays("surgery")["image"]
    seen = look(encoder, pixels, "vanilla")
    visual = encoder.model.visual
    torch.testing.assert_close(seen.embeddings, (visual(pixels) @ visual.proj)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("read", RECIPES)
def test_every_recipe_gives_one_finite_vector_a_token_and_the_same_affinity(encoder, read):
    pixels = arrays("naclip")["image"]
    seen = look(encoder, pixels, read)
    assert seen.grid_hw == (6, 9)
    assert seen.embeddings.shape == (55, 24)
    assert torch.isfinite(seen.embeddings).all()
    assert torch.equal(seen.attention, look(encoder, pixels, "svc").attention)


def test_nearness_is_one_on_the_diagonal_and_leaves_the_class_token_out():
    near = nearness((2, 3), std=1.0)
    assert near[0].sum() == near[:, 0].sum() == 0
    assert torch.equal(near[1:, 1:].diagonal(), torch.ones(6))
    assert near[1, 2] == pytest.approx(np.exp(-0.5))
    assert near[1, 5] == pytest.approx(np.exp(-1.0))  # one row down, one column right


def test_an_unknown_recipe_and_too_many_blocks_are_refused(encoder):
    pixels = arrays("surgery")["image"]
    with pytest.raises(ConfigError, match="no such reading"):
        look(encoder, pixels, "svv")
    with pytest.raises(ConfigError, match="more blocks"):
        look(encoder, pixels, "svc", 6)


def test_shares_of_the_texts_sum_to_one():
    shares = words_share(torch.randn(5, 8), torch.randn(3, 8), 50.0)
    torch.testing.assert_close(shares.sum(0), torch.ones(5))
