"""Labels from CLIP itself: each step by hand, the rules, and drawn scenes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_es import tagging
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder, load_encoder
from clip_es.encoder.capture import normalised
from clip_es.errors import ConfigError, ShapeError
from clip_es.metrics.labels import label_scores, reliability
from clip_es.prompts import build_bank, load_vocabulary
from clip_es.scenes.backgrounds import background
from clip_es.scenes.draw import SceneConfig, draw_scene
from clip_es.tagging import (
    TaggingConfig,
    carry,
    decide_tags,
    fit_confidence,
    patch_shares,
    peaks,
    region_boxes,
    second_look,
    tag,
)
from clip_es.types import EncodedImage, Picture, TextBank


def hand_bank(*rows: list[float], classes: int) -> TextBank:
    vectors = F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)
    return TextBank(tuple(map(str, range(len(rows)))), vectors, classes, "by hand")


BANK = hand_bank([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], classes=3)


@pytest.fixture(scope="module")
def small() -> Encoder:
    torch.manual_seed(3)
    return build_encoder(CLIP(TowerSizes(8, 32, 2, 4, 4, 32, 1, vocab=49408)).state_dict(), device="cpu")


def noise(*hw: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def seen(small: Encoder) -> EncodedImage:
    return small.encode([noise(24, 40)])[0]


# patches


def softmax_of(encoder: Encoder, tokens: torch.Tensor) -> torch.Tensor:
    """What rows of tokens that left the last block say, spelled out."""
    visual = encoder.model.visual
    vectors = F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)
    return (encoder.logit_scale * vectors @ BANK.vectors.T).softmax(-1)[:, :3]


def test_each_patch_passes_the_last_block_alone(small, seen):
    block = small.model.visual.transformer.blocks[-1]
    q, k, v = block.attn.project(block.ln_1(seen.tokens))
    own = torch.eye(len(seen.tokens), dtype=torch.bool)  # attention that may look at itself only
    z = seen.tokens + block.attn.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=own))
    z = z + block.mlp(block.ln_2(z))
    torch.testing.assert_close(patch_shares(small, seen, BANK), softmax_of(small, z[1:]), rtol=1e-5, atol=1e-6)


def test_a_patch_alone_does_not_know_the_others(small):
    # One block only, so nothing came from the neighbours before it.
    torch.manual_seed(5)
    one_block = build_encoder(CLIP(TowerSizes(8, 32, 1, 4, 4, 32, 1, vocab=49408)).state_dict(), device="cpu")
    pictures = [noise(16, 16, seed=1), noise(16, 16, seed=2)]
    pictures[1][:8, :8] = pictures[0][:8, :8]
    alone = [patch_shares(one_block, s, BANK)[0] for s in one_block.encode(pictures)]
    mixed = [patch_shares(one_block, s, BANK, mixed=True)[0] for s in one_block.encode(pictures)]
    assert torch.equal(*alone)
    assert not torch.allclose(mixed[0], mixed[1])


def test_mixed_patches_are_those_of_the_whole_tower(small, seen):
    pixels = torch.from_numpy(noise(24, 40)).permute(2, 0, 1).float()[None] / 255
    visual = small.model.visual
    tokens = visual.transformer(visual.embed(normalised(pixels), small.positions((3, 5))))[0]
    found = patch_shares(small, seen, BANK, mixed=True)
    torch.testing.assert_close(found, softmax_of(small, tokens[1:]), rtol=1e-5, atol=1e-6)


def test_background_words_take_their_share(small, seen):
    with_words = patch_shares(small, seen, BANK)
    without = patch_shares(small, seen, TextBank(BANK.names[:3], BANK.vectors[:3], 3, "by hand"))
    assert with_words.shape == without.shape == (15, 3)
    torch.testing.assert_close(without.sum(1), torch.ones(15))
    assert bool((with_words.sum(1) < 1).all())


# attention


def test_scores_are_carried_along_the_strong_attention_of_sure_patches_by_hand():
    attention = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.8, 0.0], [0.4, 0.0, 0.5]])  # mean 0.322
    shares = torch.tensor([[0.9], [0.3], [0.0]])
    # Kept and made sum one: [1 0 0], [0 1 0], [4/9 0 5/9]. Once: 0.9, 0.3, 0.4, mean 0.533: only patch 0 is sure.
    torch.testing.assert_close(carry(shares, attention), torch.tensor([[0.9], [0.0], [0.4]]))


def test_each_class_is_carried_for_itself():
    attention = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    shares = torch.rand(7, 3, generator=torch.Generator().manual_seed(1))
    together = carry(shares, attention)
    for k in range(3):
        torch.testing.assert_close(carry(shares[:, k : k + 1], attention), together[:, k : k + 1])


def test_carried_scores_stay_shares():
    shares = torch.rand(9, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    found = carry(shares, torch.rand(9, 9, generator=torch.Generator().manual_seed(1)))
    assert float(found.min()) >= 0
    assert float(found.max()) <= float(shares.max()) + 1e-6


def test_the_score_of_a_class_is_the_mean_of_its_best_patches():
    shares = torch.tensor([[0.1, 0.9], [0.5, 0.0], [0.3, 0.7]])
    torch.testing.assert_close(peaks(shares, 2), torch.tensor([0.4, 0.8]))
    torch.testing.assert_close(peaks(shares, 1), torch.tensor([0.5, 0.9]))
    torch.testing.assert_close(peaks(shares, 10), shares.mean(0))


# regions


def region(*rows: str) -> torch.Tensor:
    return torch.tensor([[cell == "#" for cell in row] for row in rows])[None]


def test_regions_have_boxes_with_surroundings_by_hand():
    middle = region("......", "......", "..##..", "..#...", "......", "......")
    assert region_boxes(middle, context=0, least=0).tolist() == [[2, 2, 4, 4]]
    assert region_boxes(middle, context=1, least=0).tolist() == [[1, 1, 5, 5]]
    assert region_boxes(middle, context=0, least=5).tolist() == [[1, 1, 6, 6]]
    assert region_boxes(middle, context=9, least=0).tolist() == [[0, 0, 6, 6]]


def test_a_box_at_the_border_moves_inwards():
    corner = region("......", "......", "......", "......", "......", ".....#")
    assert region_boxes(corner, context=0, least=3).tolist() == [[3, 3, 6, 6]]
    wide = region("#.....", "......")  # two rows only: the side cannot have three
    assert region_boxes(wide, context=0, least=3).tolist() == [[0, 0, 3, 2]]


def test_a_class_without_region_is_looked_for_everywhere():
    assert region_boxes(region("...", "..."), context=0, least=0).tolist() == [[0, 0, 3, 2]]


def test_boxes_hold_their_region_and_stay_in_the_grid():
    rng = np.random.default_rng(0)
    for _ in range(300):
        gh, gw, context, least = (int(n) for n in rng.integers((1, 1, 0, 0), (9, 14, 4, 12)))
        regions = torch.from_numpy(rng.random((3, gh, gw)) < 0.1)
        for inside, (x0, y0, x1, y1) in zip(regions, region_boxes(regions, context, least).tolist(), strict=True):
            assert 0 <= x0 < x1 <= gw
            assert 0 <= y0 < y1 <= gh
            assert inside.sum() == inside[y0:y1, x0:x1].sum()
            assert x1 - x0 >= min(least, gw)
            assert y1 - y0 >= min(least, gh)


def test_boxes_of_patches_cover_their_pixels():
    (rows, columns), (all_rows, all_columns) = tagging._slices(
        np.array([[1, 2, 3, 3], [0, 0, 5, 3]]), grid_hw=(3, 5), size_hw=(22, 37)
    )
    # Patch rows end at 7.33, 14.67, 22; columns at 7.4, 14.8, 22.2, ...
    assert (rows, columns) == (slice(14, 22), slice(7, 23))
    assert (all_rows, all_columns) == (slice(0, 22), slice(0, 37))


def test_a_second_look_at_everything_is_the_class_token_of_the_whole_picture(small):
    rgb = noise(32, 32)  # the size this CLIP was trained on
    pixels = torch.from_numpy(rgb).permute(2, 0, 1).float()[None] / 255
    visual = small.model.visual
    vector = F.normalize(visual(normalised(pixels))[0, 0] @ visual.proj, dim=-1)
    wanted = (small.logit_scale * BANK.vectors @ vector).softmax(0)[:3]
    found = second_look(small, rgb, np.array([[0, 0, 4, 4]]), (4, 4), BANK)
    torch.testing.assert_close(found, wanted[None], rtol=1e-3, atol=1e-5)  # positions are rounded to float16


def test_a_second_look_sees_the_part_alone(small):
    rgb, box = noise(64, 64), np.array([[1, 1, 3, 3]])
    elsewhere = rgb.copy()
    elsewhere[:8], elsewhere[-8:] = 0, 255
    one, other = (second_look(small, picture, box, (4, 4), BANK) for picture in (rgb, elsewhere))
    assert torch.equal(one, other)
    assert second_look(small, rgb, box[:0], (4, 4), BANK).shape == (0, 3)


def test_a_region_that_classes_share_is_looked_at_once_and_regions_share_a_pass(small, monkeypatch):
    rgb, boxes = noise(64, 64), np.array([[1, 1, 3, 3], [0, 0, 4, 4], [1, 1, 3, 3], [0, 2, 4, 4], [1, 1, 3, 3]])
    alone = torch.cat([second_look(small, rgb, box[None], (4, 4), BANK) for box in boxes])
    calls, encode = [], small.encode
    monkeypatch.setattr(
        Encoder,
        "encode",
        lambda self, parts, **how: calls.append((len(parts), how["together"])) or encode(parts, **how),
    )
    together = second_look(small, rgb, boxes, (4, 4), BANK)
    assert calls == [(3, 16)]
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


# confidence


def test_at_the_centre_the_confidence_is_one_half():
    tags = decide_tags(torch.tensor([0.2, 0.1, 0.5]), TaggingConfig(centre=0.2, steepness=3.0))
    assert tags.confidences[0].item() == pytest.approx(0.5)
    assert tags.class_ids == (0, 2)
    # logit(1/2) - logit(1/5) = ln 4, so the odds are 4 to the power of the steepness.
    assert tags.confidence[1] == pytest.approx(64 / 65)
    assert tags.confidences[1].item() == pytest.approx(1 / (1 + (9 / 4) ** 3))


def test_how_sure_a_picture_is_by_hand():
    tags = decide_tags(torch.tensor([0.9, 0.2, 0.5]), TaggingConfig(centre=0.5, steepness=1.0))
    assert tags.sure == pytest.approx(0.9 * 0.8 * 0.5)


def test_a_picture_may_have_no_class():
    tags = decide_tags(torch.tensor([0.01, 0.02]), TaggingConfig(centre=0.5))
    assert (tags.class_ids, tags.confidence) == ((), ())
    assert tags.sure > 0.99


def test_the_extremes_are_finite():
    tags = decide_tags(torch.tensor([0.0, 1.0]))
    assert tags.class_ids == (1,)
    assert bool(torch.isfinite(tags.confidences).all())


def test_a_higher_threshold_finds_a_part_of_what_a_lower_one_finds():
    scores = torch.linspace(0.01, 0.99, 30)
    sets = [set(decide_tags(scores, TaggingConfig(threshold=t)).class_ids) for t in (0.0, 0.2, 0.5, 0.9, 1.0)]
    assert sets[0] == set(range(30))
    assert all(more >= fewer for more, fewer in pairwise(sets))


def test_the_fit_finds_the_curve_that_made_the_labels():
    torch.manual_seed(0)
    scores = torch.rand(4_000, 10) * 0.98 + 0.01
    told = decide_tags(scores.flatten(), TaggingConfig(centre=0.3, steepness=2.5)).confidences
    present = torch.rand(4_000, 10) < told.view(4_000, 10)
    centre, steepness = fit_confidence(scores, present)
    assert centre == pytest.approx(0.3, abs=0.01)
    assert steepness == pytest.approx(2.5, abs=0.08)


def test_the_fit_makes_confidences_right_on_average():
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    present = torch.tensor([False, False, True, False, True, True])
    centre, steepness = fit_confidence(scores, present)
    p = decide_tags(scores, TaggingConfig(centre=centre, steepness=steepness)).confidences
    assert p.sum().item() == pytest.approx(3, abs=0.01)


def test_the_fit_stays_finite_where_a_score_parts_the_classes():
    centre, steepness = fit_confidence(torch.tensor([0.1, 0.2, 0.7, 0.9]), torch.tensor([False, False, True, True]))
    assert 0.2 < centre < 0.7
    assert 1 < steepness < 100


def test_the_fit_says_what_it_needs():
    with pytest.raises(ConfigError, match="present and classes that are not"):
        fit_confidence(torch.rand(4), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="do not score higher"):
        fit_confidence(torch.tensor([0.1, 0.9]), torch.tensor([True, False]))
    with pytest.raises(ShapeError):
        fit_confidence(torch.rand(4), torch.ones(3, dtype=torch.bool))


# the whole


def picture_of(rgb: np.ndarray, patch: int) -> Picture:
    h, w = (side // patch * patch for side in rgb.shape[:2])
    return Picture("drawn", rgb[:h, :w], rgb[:h, :w], patch)


def test_one_class_without_background_words_is_refused(small, seen):
    bank = TextBank(("cat",), BANK.vectors[:1], 1, "by hand")
    with pytest.raises(ConfigError, match="Add background words") as told:
        tag(small, picture_of(noise(24, 40), 8), seen, bank)
    assert told.value.where == "cat"


def test_a_bank_of_another_encoder_is_refused(small, seen):
    bank = TextBank(("cat", "dog"), torch.eye(2, 5), 2, "by hand")
    with pytest.raises(ShapeError, match="another encoder"):
        tag(small, picture_of(noise(24, 40), 8), seen, bank)


def test_classes_that_are_not_likely_count_half_what_their_patches_say(small, seen):
    picture, local = picture_of(noise(24, 40), 8), TaggingConfig(reidentify=False)
    before = tag(small, picture, seen, BANK, local).scores
    after = tag(small, picture, seen, BANK, TaggingConfig(candidate=1.0)).scores
    best = int(before.argmax())
    for k in range(3):
        assert (after[k] == before[k] / 2) == (k != best)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"peak": 0},
        {"candidate": -0.1},
        {"context": -1},
        {"zoom": 0.5},
        {"centre": 0.0},
        {"centre": 1.0},
        {"steepness": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TaggingConfig(**wrong)


@pytest.fixture(scope="module")
def scenes() -> tuple[Encoder, TextBank]:
    encoder = load_encoder("scenes", device="cpu")
    return encoder, build_bank(encoder, load_vocabulary("scenes"))


def drawn(index: int) -> tuple[Picture, tuple[int, ...]]:
    scene = draw_scene(90_210, index, SceneConfig((192, 208)))
    return picture_of(scene.picture, 16), tuple(sorted(scene.class_ids))


def test_most_drawn_scenes_get_exactly_their_labels(scenes):
    encoder, bank = scenes
    right = 0
    for index in range(10):
        picture, class_ids = drawn(index)
        tags = tag(encoder, picture, encoder.encode([picture.patches])[0], bank)
        assert tags.class_ids == tuple(sorted(tags.class_ids))
        right += tags.class_ids == class_ids
    assert right >= 7


def test_an_empty_landscape_gets_no_label(scenes):
    encoder, bank = scenes
    rng = np.random.default_rng(0)
    for upper, lower in (("sky", "grass"), ("wall", "floor"), ("mountain", "sea")):
        canvas = background(rng, (192, 208), upper, lower)[0]
        picture = picture_of(np.clip(canvas, 0, 255).astype(np.uint8), 16)
        tags = tag(encoder, picture, encoder.encode([picture.patches])[0], bank)
        assert tags.class_ids == ()


def test_one_class_with_background_words_is_found_where_it_is(scenes):
    encoder, bank = scenes
    rows = [bank.names.index("car"), *range(bank.class_count, len(bank.names))]
    only = TextBank(tuple(bank.names[row] for row in rows), bank.vectors[rows], 1, "cars alone")
    agree = []
    for index in range(12):
        picture, class_ids = drawn(index)
        tags = tag(encoder, picture, encoder.encode([picture.patches])[0], only)
        agree.append((tags.class_ids == (0,)) == (bank.names.index("car") in class_ids))
    assert np.mean(agree) >= 0.75


def test_the_batch_a_picture_came_in_changes_nothing(scenes):
    encoder, bank = scenes
    pictures = [drawn(index)[0] for index in range(3)]
    together = [
        tag(encoder, picture, seen, bank)
        for picture, seen in zip(pictures, encoder.encode([p.patches for p in pictures]), strict=True)
    ]
    for picture, before in zip(pictures, together, strict=True):
        alone = tag(encoder, picture, encoder.encode([picture.patches])[0], bank)
        assert torch.equal(alone.scores, before.scores)
        assert alone.confidence == before.confidence


@pytest.mark.slow
def test_each_step_is_worth_its_place_on_drawn_scenes(scenes):
    encoder, bank = scenes
    settings = TaggingConfig()
    steps = {
        "patch": replace(settings, refine=False, reidentify=False, peak=1),
        "carried": replace(settings, reidentify=False),
        "whole": settings,
    }
    rows: dict[str, list[np.ndarray]] = {name: [] for name in steps}
    present, told = np.zeros((60, bank.class_count), dtype=bool), []
    for index in range(60):
        picture, class_ids = drawn(100 + index)
        present[index, list(class_ids)] = True
        seen = encoder.encode([picture.patches])[0]
        for name, config in steps.items():
            rows[name].append(tag(encoder, picture, seen, bank, config).scores.numpy())
        told.append(decide_tags(torch.from_numpy(rows["whole"][-1])).confidences.numpy())
    found = {name: label_scores(np.stack(row), present).mean_average_precision for name, row in rows.items()}
    assert found["patch"] < found["carried"]
    assert found["patch"] < found["whole"]
    assert found["whole"] > 0.85
    assert label_scores(np.stack(told), present).f1 > 0.75
    assert reliability(np.stack(told), present).error < 0.05
