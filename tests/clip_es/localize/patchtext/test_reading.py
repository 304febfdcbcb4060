"""Patches read in CLIP's common space: the recorded arrays of the public code, and what must hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_es.config.methods import PatchTextConfig
from clip_es.errors import ConfigError
from clip_es.localize.patchtext.localizer import PatchText
from clip_es.localize.patchtext.reading import Reading, look, look_at_all
from clip_es.localize.patchtext.recipes import RECIPES, nearness
from clip_es.localize.patchtext.selfcalibrated import mended, outlier_factor, outliers
from clip_es.localize.patchtext.texts import enriched, surgery, words_share
from clip_es.refine.affinity import AffinityConfig, refine
from clip_es.refine.dino import DinoConfig, weights
from clip_es.refine.par import ParConfig, neighbour_weights, par, pass_on
from clip_es.scaling import min_max, resized
from clip_es.types import ClassMaps, Picture, TextBank

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


@pytest.mark.parametrize("read", [name for name, recipe in RECIPES.items() if not recipe.network])
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


def blank(height, width):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    return Picture("blank", pixels, pixels, 16)


def test_excel_from_the_picture_to_its_labels(encoder):
    """Surgery's maps, affinity over the last four blocks of which three count with their sum, 20 rounds of PAR."""
    case, after = arrays("surgery"), arrays("refine")
    bank = TextBank(tuple("abcdefg"), case["text"], 7, "recorded")
    excel = PatchText(encoder, bank, PatchTextConfig(score="surgery", blocks=3), layers=4)
    (seen,) = look_at_all(encoder, case["image"], excel.reading)
    labels = torch.where(after["label"])[0].tolist()
    maps = excel.locate(blank(96, 96), seen, labels).maps
    torch.testing.assert_close(maps.scores.flatten(1), case["maps"][0, 1:, labels].T, atol=5e-5, rtol=0)
    torch.testing.assert_close(seen.attention, case["attention"][-4:, 1:, 1:].mean(0), atol=2e-5, rtol=0)
    spread = refine(blank(96, 96), seen, maps, AffinityConfig(layers=4, border="drop", box_threshold=0.79), 0.4)
    assert spread.unscaled is not None
    torch.testing.assert_close(spread.unscaled, after["refined"], atol=2e-5, rtol=0)
    # These maps span 0.001, so that the last step enlarges rounding a thousand times: it is compared by itself.
    full = resized(min_max(after["refined"]), (96, 96))
    torch.testing.assert_close(full, after["cams"][1:], atol=2e-5, rtol=0)
    config = ParConfig(iterations=20, shares=False)
    values = torch.cat([1 - full.amax(0, keepdim=True), full])
    found = pass_on(values, neighbour_weights(case["image"][0], config), config).argmax(0)
    assert torch.equal(torch.tensor([0, *(k + 1 for k in labels)])[found], after["labels"])


def test_par_without_shares_passes_scores_on_as_they_are():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    maps = ClassMaps(torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)), (0, 1))
    config = ParConfig(iterations=2, shares=False, dilations=(1, 2))
    found = par(Picture("noise", rgb, rgb, 16), maps, config)
    values = torch.cat([1 - maps.scores.amax(0, keepdim=True), maps.scores])
    pixels = torch.from_numpy(rgb).permute(2, 0, 1).float()
    passed = pass_on(values, neighbour_weights(pixels, config), config)
    assert found.background is not None
    torch.testing.assert_close(torch.cat([found.background[None], found.scores]), passed / passed.sum(0))


def test_surgery_needs_labels(encoder):
    case = arrays("surgery")
    excel = PatchText(encoder, TextBank(tuple("abcdefg"), case["text"], 7, "x"), PatchTextConfig(score="surgery"))
    with pytest.raises(ConfigError, match="stretches every map"):
        excel.locate(blank(96, 96), look_at_all(encoder, case["image"], excel.reading)[0], None)


def test_the_self_calibrated_reading_is_that_of_sc_clip(encoder):
    case = arrays("scclip")
    seen = look(encoder, case["image"], "sc", positions=case["positions"])
    torch.testing.assert_close(seen.embeddings[1:], case["embeddings"][0], atol=2e-5, rtol=0)


def test_outliers_are_those_of_sc_clip(encoder):
    """From the tokens that enter the last block, as recorded."""
    case = arrays("scclip")
    tokens = look(encoder, case["image"], "sc", positions=case["positions"]).tokens[1:]
    torch.testing.assert_close(outlier_factor(tokens, 30), case["lof"], atol=2e-5, rtol=0)
    assert torch.where(outliers(tokens))[0].tolist() == case["outliers"].tolist()


def test_an_outlier_becomes_the_mean_of_its_neighbours_on_any_grid():
    patches = torch.arange(6.0)[:, None]  # 0 1 2 over 3 4 5
    odd = torch.zeros(2, 3, dtype=torch.bool)
    odd[0, 2] = True
    assert mended(patches, odd).flatten().tolist() == [0, 1, pytest.approx((1 + 4 + 5) / 3), 3, 4, 5]
    every = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(mended(patches, every), patches)
    assert not outliers(torch.ones(1, 4)).any()


def test_a_batch_of_pictures_is_read_as_each_alone(encoder):
    pixels = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for read in ("svc", "kk-near", "value", "qq+kk", "fused", "sc"):
        both = look_at_all(encoder, pixels, Reading(read, 2))
        for one, alone in zip(both, pixels.split(1), strict=True):
            expected = look_at_all(encoder, alone, Reading(read, 2))[0]
            torch.testing.assert_close(one.embeddings, expected.embeddings, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(one.attention, expected.attention, atol=1e-5, rtol=0)


def test_dino_features_say_which_patches_are_averaged(encoder):
    """Two kinds of patches in the other network: each becomes the mean of the values of its kind, on its grid."""
    pixels = arrays("naclip")["image"]
    features = torch.zeros(1, 2, 12, 18)
    features[:, 0, :, :9], features[:, 1, :, 9:] = 1, 1
    assert torch.equal(weights(features[0].flatten(1).T, DinoConfig()).count_nonzero(1), torch.full((12 * 18,), 12 * 9))
    (seen,) = look_at_all(encoder, pixels, Reading("dino"), features=features)
    assert seen.read_hw == (12, 18)
    assert seen.grid_hw == (6, 9)
    grid = seen.embeddings[1:].unflatten(0, (12, 18))
    torch.testing.assert_close(grid[:, :9], grid[:1, :1].expand(12, 9, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(grid[:, 9:], grid[:1, -1:].expand(12, 9, -1), atol=1e-5, rtol=0)
    assert (grid[0, 0] - grid[0, -1]).abs().max() > 1e-3


def test_each_patch_alone_in_dino_is_the_reading_by_values(encoder):
    """With features that are all apart on CLIP's own grid nothing is mixed, which is MaskCLIP."""
    pixels = arrays("naclip")["image"]
    features = torch.eye(54).unflatten(1, (6, 9))[None]
    (seen,) = look_at_all(encoder, pixels, Reading("dino"), features=features)
    expected = look(encoder, pixels, "value").embeddings
    torch.testing.assert_close(seen.embeddings[1:], expected[1:], atol=1e-5, rtol=0)


def test_dino_needs_features_and_a_model(encoder):
    with pytest.raises(ConfigError, match="another network"):
        look(encoder, arrays("naclip")["image"], "dino")
    with pytest.raises(ConfigError, match="needs a DINO"):
        PatchTextConfig(read="dino")
