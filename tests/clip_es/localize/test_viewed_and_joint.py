"""Views and pairs of methods are localizers like any other: what they keep, what they add up, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clip_es.config.methods import LocalizeConfig, PatchTextConfig
from clip_es.config.presets import find_preset
from clip_es.config.run import DEFAULT
from clip_es.config.views import ViewsConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, load_encoder
from clip_es.encoder.capture import shown_to
from clip_es.errors import ConfigError, ShapeError
from clip_es.localize.base import Localizer
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.localize.joint import Joint
from clip_es.localize.patchtext.localizer import PatchText, read_attributes
from clip_es.localize.viewed import Viewed
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.prompts import build_bank, load_vocabulary
from clip_es.refine.affinity import AffinityConfig, refine
from clip_es.scaling import upsample
from clip_es.scenes.draw import SceneConfig, draw_scene
from clip_es.types import Picture


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("scenes", device="cpu")


@pytest.fixture(scope="module")
def bank(encoder):
    return build_bank(encoder, load_vocabulary("scenes"))


@pytest.fixture(scope="module")
def picture():
    rgb = np.random.default_rng(3).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    return Picture("noise", rgb, np.ascontiguousarray(rgb[:64, :80]), 16)


@pytest.fixture
def patch_text(encoder, bank):
    return PatchText(encoder, bank, PatchTextConfig(blocks=1))


@pytest.fixture
def clip_es(encoder, bank):
    return ClipEs(encoder, bank, LocalizeConfig(), 8)


AFFINITY = ("affinity", partial(refine, config=AffinityConfig(), box_threshold=0.4))


def located(localizer, picture, labels=(0, 3)):
    return localizer.locate(picture, localizer.encode([picture])[0], labels)


def test_shares_of_patch_text_and_its_background_sum_to_one(patch_text, picture):
    found = located(patch_text, picture)
    assert isinstance(patch_text, Localizer)
    assert found.maps.background is not None
    torch.testing.assert_close(found.maps.scores.sum(0) + found.maps.background, torch.ones(4, 5))
    assert found.scores.tolist() == found.maps.scores.amax((1, 2)).tolist()


def test_patch_text_finds_the_classes_whose_share_is_large_enough(encoder, bank, picture):
    every = located(PatchText(encoder, bank, PatchTextConfig(blocks=1, score_threshold=0.0)), picture, None)
    assert every.maps.class_ids == tuple(range(bank.class_count))
    none = located(PatchText(encoder, bank, PatchTextConfig(blocks=1, score_threshold=1.0)), picture, None)
    assert none.maps.class_ids == ()


def test_classes_that_a_picture_does_not_have_compete_only_where_asked(encoder, bank, picture):
    wide = PatchText(encoder, bank, PatchTextConfig(blocks=1, competitors="vocabulary"))
    narrow = PatchText(encoder, bank, PatchTextConfig(blocks=1))
    shares = wide.shares(wide.encode([picture])[0])
    torch.testing.assert_close(located(wide, picture).maps.scores.flatten(1), shares[[0, 3]])
    # A softmax over fewer rows: the same shares, divided by what those rows had together.
    rows = [0, 3, *range(bank.class_count, len(shares))]
    torch.testing.assert_close(located(narrow, picture).maps.scores.flatten(1), shares[[0, 3]] / shares[rows].sum(0))
    assert located(narrow, picture, ()).maps.scores.shape == (0, 4, 5)
    torch.testing.assert_close(located(narrow, picture, None).maps.scores, located(wide, picture, None).maps.scores)


def test_patch_text_refuses_what_another_method_has_seen(patch_text, clip_es, picture):
    with pytest.raises(ShapeError, match="reads patches"):
        patch_text.locate(picture, clip_es.encode([picture])[0], (0,))


def test_attributes_change_the_texts_and_are_hashed(encoder, bank, tmp_path):
    path = tmp_path / "attributes.txt"
    path.write_text("# what a cat looks like\na small animal with a tail\n\nwings and a beak\n")
    assert read_attributes(path) == ["a small animal with a tail", "wings and a beak"]
    plain = PatchText(encoder, bank, PatchTextConfig())
    told = PatchText(encoder, bank, PatchTextConfig(attributes=path))
    assert set(told.sources) == {"attributes"}
    assert not torch.equal(plain.text, told.text)
    assert torch.equal(plain.text[bank.class_count : -1], told.text[bank.class_count : -1])


def test_one_view_is_the_method_itself_at_full_size(patch_text, clip_es, picture):
    for base, refiners in ((patch_text, []), (clip_es, [AFFINITY])):
        viewed = Viewed(base, ViewsConfig(), refiners)
        assert isinstance(viewed, Localizer)
        seen = base.encode([picture])[0]
        maps = base.locate(picture, seen, (0, 3)).maps
        for _, again in refiners:
            maps = again(picture, seen, maps)
        expected = upsample(maps, picture.size_hw)
        found = located(viewed, picture).maps
        assert found.class_ids == (0, 3)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)


def test_views_are_averaged_with_equal_weight(patch_text, picture):
    two = located(Viewed(patch_text, ViewsConfig(2)), picture).maps
    plain = located(Viewed(patch_text, ViewsConfig()), picture).maps
    four = located(Viewed(patch_text, ViewsConfig(2, flip=True)), picture).maps
    assert tuple(two.scores.shape) == (2, 70, 90)
    assert not torch.equal(two.scores, plain.scores)
    assert two.background is not None
    torch.testing.assert_close(two.scores.sum(0) + two.background, torch.ones(70, 90), atol=1e-5, rtol=0)
    assert float((four.scores - two.scores).abs().max()) > 1e-4


def test_the_plain_view_says_which_classes_there_are(encoder, bank, picture):
    base = PatchText(encoder, bank, PatchTextConfig(blocks=1, score_threshold=0.2))
    expected = located(base, picture, None).maps.class_ids
    assert located(Viewed(base, ViewsConfig(4)), picture, None).maps.class_ids == expected


def test_views_of_several_pictures_are_those_of_each(patch_text, picture):
    viewed = Viewed(patch_text, ViewsConfig(2))
    other = Picture("dark", picture.rgb // 2, picture.patches // 2, 16)
    both = viewed.encode([picture, other])
    for one, seen in zip((picture, other), both, strict=True):
        alone = located(viewed, one).maps.scores
        assert torch.equal(viewed.locate(one, seen, (0, 3)).maps.scores, alone)


def test_a_joint_is_the_mean_of_both_shares(patch_text, clip_es, picture):
    joint = Joint(patch_text, clip_es, calibration="fixed")
    assert isinstance(joint, Localizer)
    assert joint.supervision == "none"
    found = located(joint, picture).maps
    one = upsample(located(patch_text, picture).maps, picture.size_hw)
    two = upsample(located(clip_es, picture).maps, picture.size_hw)
    first = torch.cat([1 - one.scores.sum(0)[None], one.scores])
    second = torch.cat([1 - two.scores.amax(0)[None], two.scores])
    expected = (first / first.sum(0) + second / second.sum(0)) / 2
    torch.testing.assert_close(found.scores, expected[1:], atol=1e-5, rtol=0)
    assert found.background is not None
    torch.testing.assert_close(found.background, expected[0], atol=1e-5, rtol=0)


def work_of(encoder, picture, maker, labels=(0, 3)):
    """All arithmetic on one picture before the refiners of pixels, in passes of the whole vision tower over it.

    Its attention is a fused kernel, which the counter does not see, so it is written out for the pass.
    """
    with FlopCounterMode(display=False) as one, sdpa_kernel(SDPBackend.MATH):
        encoder.model.visual(shown_to(encoder, picture.patches))
    with FlopCounterMode(display=False) as every:
        maker.refine(maker.locate(picture, maker.encode([picture])[0], labels))
    return every.get_total_flops() / one.get_total_flops()


def presets(encoder, name, **patch_text):
    config = find_preset(name).config
    config = config.using(patch_text=replace(config.methods.patch_text, **patch_text))
    return MaskMaker(encoder, load_vocabulary("scenes"), config=config)


@pytest.fixture(scope="module")
def deep():
    """Twelve blocks in the proportions of ViT-B/16, a quarter as wide, with seeded random weights."""
    torch.manual_seed(0)
    model = CLIP(TowerSizes(16, 192, 12, 14, 64, 64, 2, head_width=16))
    return Encoder(model.eval().requires_grad_(False), source="seeded")


def test_best_fast_costs_at_most_two_passes_and_a_fifth(deep):
    """Patches read over five blocks, gradients, affinity: both methods from one pass."""
    rgb = np.random.default_rng(3).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    fast = work_of(deep, Picture("noise", rgb, rgb, 16), presets(deep, "best-fast"))
    assert 1 < fast <= 2.2
    many = work_of(deep, Picture("noise", rgb, rgb, 16), presets(deep, "best-fast"), tuple(range(20)))
    assert fast < many <= 2.2
    apart = work_of(deep, Picture("noise", rgb, rgb, 16), presets(deep, "best-fast-scenes"))
    assert fast < apart <= 2.2  # two sizes, so two passes, of which one is smaller


def test_best_is_linear_in_its_views(deep):
    rgb = np.random.default_rng(3).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    picture = Picture("noise", rgb, rgb, 16)
    one, four = (work_of(deep, picture, presets(deep, name)) for name in ("best-fast", "best"))
    # Three of the four views have a row or a column of patches more, or both; what is enlarged and cut is counted too.
    assert 4 <= four / one < 4 * 1.25


def test_two_methods_at_one_size_share_a_pass(encoder, picture):
    shared = presets(encoder, "best-fast", blocks=1).localizer
    (seen,) = shared.encode([picture])
    assert seen.halves[0][1] is seen.halves[1][1]
    alone = located(Joint(Silent(shared.first), Silent(shared.second)), picture).maps
    torch.testing.assert_close(located(shared, picture).maps.scores, alone.scores, atol=1e-5, rtol=0)
    apart = presets(encoder, "best-fast", blocks=1, short_side=48).localizer
    (seen,) = apart.encode([picture])
    assert seen.halves[0][1] is not seen.halves[1][1]
    other = Joint(apart.second, shared.first)  # the other way round
    (seen,) = other.encode([picture])
    assert seen.halves[0][1] is seen.halves[1][1]


class Silent:
    """A method that does not say what it reads, so that nothing is shared with it."""

    def __init__(self, base):
        self.base, self.stretches, self.supervision = base, base.stretches, base.supervision
        self.finds_classes, self.sources = base.finds_classes, base.sources
        self.seen_hw, self.encode, self.locate, self.settle = base.seen_hw, base.encode, base.locate, base.settle


def test_mirrored_views_go_in_one_batch(patch_text, picture):
    batches = []
    encode = patch_text.encode
    patch_text.encode = lambda shown: batches.append(len(shown)) or encode(shown)
    Viewed(patch_text, ViewsConfig(4, flip=True)).encode([picture, picture])
    assert batches == [4, 4, 4, 4]


def test_affinity_on_patch_text_has_to_be_asked_for():
    with pytest.raises(ConfigError, match="maps of patch-text worse"):
        replace(DEFAULT, method="patch-text")
    asked = DEFAULT.using(patch_text=PatchTextConfig(with_affinity=True))
    assert replace(asked, method="patch-text").refine == ("affinity", "crf")
    other = replace(DEFAULT, method="patch-text", refine=("spectral", "crf"))  # only what is known to be worse
    assert other.refine == ("spectral", "crf")


def test_a_joint_writes_down_the_settings_of_both_methods():
    used = find_preset("best").config.in_use()
    assert {"joint", "patch_text", "localize", "affinity", "views"} <= used.keys()
    assert "cliper" not in used


def test_the_best_presets_rest_on_no_training(encoder):
    for name in ("best", "best-fast", "best-multiscale", "best-scenes", "best-fast-scenes", "best-multiscale-scenes"):
        made = MaskMaker(encoder, load_vocabulary("scenes"), config=find_preset(name).config)
        assert made.localizer.supervision == "none"


def test_weights_by_entropy_still_sum_to_one(patch_text, clip_es, picture):
    found = located(Joint(patch_text, clip_es, weights="entropy"), picture).maps
    assert found.background is not None
    torch.testing.assert_close(found.scores.sum(0) + found.background, torch.ones(70, 90), atol=1e-5, rtol=0)


def test_each_half_of_a_joint_is_shown_its_own_size(encoder, bank, clip_es, picture):
    small = PatchText(encoder, bank, PatchTextConfig(blocks=1, short_side=32))
    seen = Joint(small, clip_es).encode([picture])[0]
    assert [part.grid_hw for _, part in seen.halves] == [(2, 3), (4, 5)]


def test_scenes_are_found_by_views_and_joint(encoder, bank):
    """On one real scene both find the object about where it was drawn."""
    scene = draw_scene(2026, 5, SceneConfig((112, 112), objects=(1, 2), scale=(0.4, 0.6)))
    picture = Picture("scene", scene.picture, scene.picture, 16)
    pair = Joint(
        Viewed(PatchText(encoder, bank, PatchTextConfig(blocks=1)), ViewsConfig(2)),
        Viewed(ClipEs(encoder, bank, LocalizeConfig(), 8), ViewsConfig(2), [AFFINITY]),
    )
    maps = located(pair, picture, scene.class_ids).maps
    for place, k in enumerate(scene.class_ids):
        inside = float(maps.scores[place][torch.from_numpy(scene.mask == k + 1)].mean())
        outside = float(maps.scores[place][torch.from_numpy(scene.mask != k + 1)].mean())
        assert inside > outside
