"""CLIPer: against the recorded arrays of the published code, by hand, and by what must hold."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_es.config.run import CliperConfig, EncoderConfig, ImageConfig, MaskConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes
from clip_es.encoder.capture import normalised
from clip_es.encoder.tokenize import tokenize
from clip_es.errors import ConfigError, ShapeError
from clip_es.images import read_picture
from clip_es.localize.cliper.layers import fused_attentions, read_layers, see
from clip_es.localize.cliper.localizer import Cliper
from clip_es.localize.cliper.maps import class_maps, comparison_set, sliding_logits
from clip_es.localize.cliper.published import TEMPLATES, cliper_preset
from clip_es.localize.cliper.rule import PublishedHeights, ceiling, mean_of_maxima, short_side_hw
from clip_es.masks import decide
from clip_es.metrics.masks import ConfusionMatrix
from clip_es.prompts import ClassEntry, Vocabulary, build_bank
from clip_es.prompts.templates import load_templates
from clip_es.refine.diffusion import carry, clean
from clip_es.types import ClassMaps, ImageRecord, Picture, TextBank

GOLDEN = Path(__file__).parents[2] / "golden/cliper"
ABLATIONS = {
    "sel-1": {},
    "sel-2": {"select": -2},
    "sel-2_thr0.1_scale50": {"select": -2, "threshold": 0.1, "temperature": 50.0},
    "nofuse": {"fuse": False},
    "qq": {"last_attention": "qq"},
    "kk": {"last_attention": "kk"},
    "vv": {"last_attention": "vv"},
    "identity": {"last_attention": "identity"},
    "vanilla": {"last_attention": "vanilla"},
}


def arrays(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) if file[key].ndim else float(file[key]) for key in file.files}


def tiny(text=False):
    """The recorded tower: 4 heads of 12 channels, text with 2 heads of 8; each asks for sizes of its own."""
    state = {key: torch.as_tensor(value) for key, value in arrays("tiny_clip_weights").items()}
    rows = 49408 if text else 8
    seed = zlib.crc32(b"20220617:clip_model.token_embedding.weight")
    draw = np.random.RandomState(seed).standard_normal((rows, 16)).astype(np.float32)
    state["token_embedding.weight"] = torch.from_numpy(0.5 * draw)
    sizes = TowerSizes(16, 48, 5, 4, 24, 16, 2, vocab=rows, head_width=8 if text else 12)
    model = CLIP(sizes)
    model.load_state_dict(state)
    return Encoder(model.eval().requires_grad_(False), source="tiny", config=EncoderConfig(half_weights=False))


@pytest.fixture(scope="module")
def encoder():
    return tiny()


@pytest.fixture(scope="module")
def whole():
    return arrays("whole_image")


def text_of(case):
    return comparison_set(case["fg_text"], case["bg_text"])


def bank_of(case, classes=3):
    vectors = torch.nn.functional.normalize(torch.cat([case["fg_text"], case["bg_text"]]), dim=-1)
    return TextBank(tuple("abcde"), vectors, classes, "test")


# ---------------------------------------------------------------- the published arrays


@pytest.mark.parametrize("name", ABLATIONS)
def test_maps_are_those_of_the_published_code(encoder, whole, name):
    config = CliperConfig(**ABLATIONS[name])
    seg = class_maps(encoder, see(encoder, whole["pixels"]), None, text_of(whole), 3, config)
    torch.testing.assert_close(seg, whole[f"seg_{name}"], atol=2e-5, rtol=0)
    attention = read_layers(encoder, see(encoder, whole["pixels"]), config).patch_attention
    torch.testing.assert_close(attention, whole[f"attnmap_{name}"], atol=2e-5, rtol=0)


def test_every_layer_has_the_published_embedding(encoder, whole):
    seen = read_layers(encoder, see(encoder, whole["pixels"]), CliperConfig())
    torch.testing.assert_close(seen.layers, whole["embeds_fused"], atol=2e-5, rtol=0)
    torch.testing.assert_close(seen.attention, whole["attn_fused_all_heads"], atol=2e-5, rtol=0)


def test_the_balance_accumulates_over_the_layers():
    case = arrays("attention_normalise")
    for ours, theirs in zip(fused_attentions(case["raw"]), case["per_embedding"], strict=False):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_first_version_gives_its_own_maps(encoder, whole):
    seg = class_maps(encoder, see(encoder, whole["pixels"]), None, text_of(whole), 3, CliperConfig(variant="v1"))
    torch.testing.assert_close(seg, arrays("v1_variant")["seg_v1"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("select", [-1, -2])
def test_sliding_windows_are_blended_with_the_whole_picture(encoder, select):
    case = arrays("sliding")
    pixels = normalised(case["image_uint8"].permute(2, 0, 1)[None].float() / 255)
    slide = CliperConfig(select=select, window=224)
    logits = sliding_logits(encoder, pixels, text_of(case), slide)
    torch.testing.assert_close(logits, case["slide_logits"].flatten(2), atol=5e-5, rtol=1e-5)
    for config, name in ((slide, "slide224"), (CliperConfig(select=select), "whole")):
        seg = class_maps(encoder, see(encoder, pixels), pixels, text_of(case), 3, config)
        torch.testing.assert_close(seg, case[f"seg_{name}_sel{select}"], atol=5e-5, rtol=0)


def test_pictures_are_resized_as_published(tmp_path):
    case = arrays("preprocess")
    Image.fromarray(case["image_uint8"].numpy()).save(tmp_path / "a.png")
    record = ImageRecord("a", tmp_path / "a.png", ())
    read = read_picture(record, 16, ImageConfig(), lambda size_hw: short_side_hw(size_hw, 64, 16))
    pixels = normalised(torch.from_numpy(read.patches).permute(2, 0, 1)[None].float() / 255)[0]
    torch.testing.assert_close(pixels, case["pixels_b16_size64"], atol=1e-6, rtol=0)
    for name, side, patch in (("B16_336", 336, 16), ("L14_336", 336, 14), ("B16_560", 560, 16), ("L14_448", 448, 14)):
        for (w, h), expected in zip(case["sizes_in_wh"].tolist(), case[f"sizes_out_hw_{name}"].tolist(), strict=True):
            assert short_side_hw((h, w), side, patch) == tuple(expected)


def test_text_vectors_are_the_published_averages():
    case = arrays("text_bank")
    names = ("aeroplane", "bird avian", "person with clothes, people, human", "tvmonitor screen", "background")
    words = Vocabulary("golden", tuple(ClassEntry(name=name) for name in names))
    ids = tokenize([t.replace("{}", names[2]) for t in load_templates("scene15")])
    assert torch.equal(ids, case["ids_first_name_car"][:, : ids.shape[1]].long())
    assert not case["ids_first_name_car"][:, ids.shape[1] :].any()
    encoder = tiny(text=True)
    for list_name, key in (("scene15", "car"), ("imagenet80", "openai")):
        bank = build_bank(encoder, words, templates=load_templates(list_name))
        torch.testing.assert_close(bank.vectors, case[key], atol=2e-5, rtol=0)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.35])
@pytest.mark.parametrize(("mode", "name"), [("chain", "SFSA"), ("mean", "mean"), ("single", "selection")])
def test_maps_pass_the_chain_of_heads(threshold, mode, name):
    case = arrays("refine")
    heads = [head for layer in ("m4", "m6") for head in case[f"maps_layer_{layer}"][0]]
    out = carry(case["seg_coarse"], heads, (8, 8), threshold=threshold, mode=mode)
    torch.testing.assert_close(out, case[f"{name}_thr{threshold}"], atol=1e-6, rtol=0)


def test_scores_average_the_maxima_before_and_after_refinement():
    case = arrays("refine")
    scores = mean_of_maxima(case["seg_coarse"], case["pipeline_mask"])
    np.testing.assert_allclose(scores, case["pipeline_score"], atol=1e-6)


def labels_of(maps, scores, config, size_hw):
    """The labels that a run decides on, from maps in 0..2 and their scores."""
    ids = tuple(range(len(maps)))
    rule = PublishedHeights(tuple(scores.tolist()), ceiling(maps), config.background_threshold, config.normalise)
    full = rule(ClassMaps(maps / ceiling(maps), ids), size_hw)
    return decide(size_hw, full, MaskConfig()).decided


LABELS = [
    ("full_map", "label_bkg0.6_cls0.7_norm1"),
    ("full_map", "label_bkg0.3_cls0.3_norm0"),
    ("full_map", "label_bkg0.0_cls0.5_norm1"),
    ("full_map", "label_bkg0.0001_cls0.0_norm0"),
    ("syn_map", "syn_label_bkg0.6_cls0.7_norm1"),
    ("syn_map", "syn_label_bkg0.45_cls0.45_norm0"),
    ("syn_map", "syn_label_bkg0.5_cls0.1_norm0"),
    ("syn_map", "syn_label_bkg0.0_cls0.5_norm1"),
    ("syn_map", "syn_label_bkg0.0001_cls0.0_norm0"),
]


@pytest.mark.parametrize(("maps", "name"), LABELS)
def test_labels_follow_the_published_thresholds(maps, name):
    case = arrays("labels_eval")
    background, score, normalise = (part.lstrip("bkgclsnorm") for part in name.split("label_")[1].split("_"))
    config = CliperConfig(
        background_threshold=float(background), score_threshold=float(score), normalise=normalise == "1"
    )
    scores = case["pipeline_score" if maps == "full_map" else "syn_score"]
    keep = scores > config.score_threshold
    # Its own maxima as scores leave a map as it is.
    kept = labels_of(case[maps][keep], case[maps][keep].amax((1, 2)), config, tuple(case[maps].shape[1:]))
    labels = np.array([0, *(keep.nonzero()[:, 0] + 1).tolist()])[kept]
    assert (labels != case[name].numpy()).mean() < 0.001


@pytest.mark.parametrize("ignored", ["255", "0_255"])
def test_the_confusion_matrix_counts_as_the_published_evaluator(ignored):
    case = arrays("labels_eval")
    truth = case["gt"].numpy().copy()
    if ignored == "0_255":
        truth[truth == 0] = 255
    matrix = ConfusionMatrix(4)
    for one in (truth, truth[::-1]):
        matrix.update(case["syn_label_bkg0.5_cls0.1_norm0"].numpy(), one)
    np.testing.assert_array_equal(matrix.counts[:, :4], case[f"hist_ignore_{ignored}"])
    assert matrix.compute().miou == pytest.approx(case[f"miou_ignore_{ignored}"], abs=1e-6)


# ---------------------------------------------------------------- what must hold


def test_fused_attention_is_row_stochastic_and_the_published_0_by_0_is_zero(encoder, whole):
    attention = read_layers(encoder, see(encoder, whole["pixels"]), CliperConfig()).attention
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(4, 25))
    flat = next(fused_attentions(torch.ones(1, 3, 3)))
    assert torch.equal(flat, torch.zeros(1, 3, 3))


def test_the_chain_equals_the_explicit_product_and_stays_inside_the_maps():
    heads = list(torch.softmax(3 * torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(0)), -1))
    maps = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))
    product = torch.linalg.multi_dot([clean(head, 0.2) for head in heads])
    expected = (product @ maps.flatten(1).T).T.reshape(2, 3, 3)
    out = carry(maps, iter(heads), (3, 3), threshold=0.2)
    torch.testing.assert_close(out, expected)
    assert out.min() >= 0
    assert out.max() <= maps.max()


def test_the_chain_wants_attention_of_its_grid():
    with pytest.raises(ShapeError, match=r"\[4 4\]"):
        carry(torch.rand(1, 3, 3), [torch.eye(9)], (2, 2))
    with pytest.raises(ShapeError, match="0 heads"):
        carry(torch.rand(1, 3, 3), [], (2, 2))


def picture(seed=0, size=(64, 96)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def located(encoder, bank, class_ids=None, config=None, rgb=None):
    """One picture, a whole number of patches, through the localizer; `settle` without refiners follows."""
    localizer = Cliper(encoder, bank, config)
    rgb = picture() if rgb is None else rgb
    one = Picture("a", rgb, rgb, 16)
    found = localizer.locate(one, localizer.encode([one])[0], class_ids)
    return found, localizer.settle(found, found.maps, class_ids is not None).found


def test_maps_come_in_the_order_of_the_labels(encoder, whole):
    bank = bank_of(whole)
    found, settled = located(encoder, bank, [2, 0])
    assert settled.maps.class_ids == found.maps.class_ids == (2, 0)
    assert tuple(found.maps.scores.shape) == (2, 4, 6)
    torch.testing.assert_close(located(encoder, bank, [0, 2])[0].raw.flip(0), found.raw)
    assert located(encoder, bank, [1], rgb=picture(1, (64, 64)))[0].maps.scores.shape == (1, 4, 4)


def test_without_labels_the_score_threshold_picks_the_classes(encoder, whole):
    bank = bank_of(whole)
    everything = located(encoder, bank, None, CliperConfig(score_threshold=0.0))[1]
    assert everything.maps.class_ids == (0, 1, 2)
    middle = float(everything.scores.median())
    some = located(encoder, bank, None, CliperConfig(score_threshold=middle))[1]
    assert len(some.maps.class_ids) == 1
    torch.testing.assert_close(some.raw, everything.raw[list(some.maps.class_ids)])
    assert located(encoder, bank, None, CliperConfig(score_threshold=2.0))[1].maps.class_ids == ()


def test_the_score_of_a_class_counts_its_refined_map_too(encoder, whole):
    localizer = Cliper(encoder, bank_of(whole), CliperConfig(score_threshold=0.0))
    one = Picture("a", picture(), picture(), 16)
    found = localizer.locate(one, localizer.encode([one])[0], None)
    flat = ClassMaps(found.maps.scores / 4, found.maps.class_ids)
    settled = localizer.settle(found, flat, known=False)
    torch.testing.assert_close(settled.found.scores, found.scores * 5 / 8)
    assert settled.enlarge is not None
    assert float(settled.enlarge(settled.maps, (4, 6)).scores.max()) <= 1


def test_behind_refiners_that_stretch_heights_are_set_before(encoder, whole):
    bank, config = bank_of(whole), CliperConfig(score_threshold=0.0, background_threshold=0.6)
    one = Picture("a", picture(), picture(), 16)
    early = Cliper(encoder, bank, config, on_patches=True)
    found = early.locate(one, early.encode([one])[0], None)
    assert torch.equal(found.maps.scores > 0.5, found.raw > 0.6)
    stretched = ClassMaps(found.maps.scores / found.maps.scores.amax((1, 2), keepdim=True), found.maps.class_ids)
    settled = early.settle(found, stretched, known=False)
    assert settled.enlarge is None
    torch.testing.assert_close(settled.maps.scores, found.maps.scores)
    for rule, expected in (("published", False), ("early", True)):
        config = CliperConfig(rule=rule)
        assert [Cliper(encoder, bank, config, on_patches=on).early for on in (True, False)] == [expected] * 2


def test_labels_against_the_vocabulary_give_the_open_maps(encoder, whole):
    bank = bank_of(whole)
    known, everything = located(encoder, bank, [1])[0], located(encoder, bank)[0]
    torch.testing.assert_close(known.raw, everything.raw[1:2])


def test_a_window_as_large_as_the_picture_is_one_window(encoder, whole):
    bank, rgb = bank_of(whole), picture(size=(64, 64))
    wide, larger = (located(encoder, bank, [0], CliperConfig(window=side, stride=16), rgb)[0].raw for side in (64, 640))
    torch.testing.assert_close(wide, larger)


def test_bad_input_is_named(encoder, whole):
    bank = bank_of(whole)
    with pytest.raises(ShapeError, match="whole number of patches"):
        see(encoder, torch.zeros(1, 3, 60, 64))
    with pytest.raises(ShapeError, match="not in the text bank"):
        located(encoder, bank, [3])
    with pytest.raises(ShapeError, match="window and stride"):
        Cliper(encoder, bank, CliperConfig(window=40))
    with pytest.raises(ConfigError, match="threshold"):
        CliperConfig(threshold=1.5)
    with pytest.raises(ConfigError, match="v1"):
        CliperConfig(variant="v1", select=-2)
    with pytest.raises(ConfigError, match="no windows"):
        CliperConfig(last_attention="proxy", window=224)
    with pytest.raises(ConfigError, match=r"--cliper\.proxy-model"):
        Cliper(encoder, bank, CliperConfig(last_attention="proxy"))


def test_presets_are_the_published_settings():
    voc = cliper_preset("voc21", "L/14")
    assert (voc.threshold, voc.select, voc.temperature, voc.score_threshold) == (0.1, -2, 50, 0.5)
    assert (voc.background_threshold, voc.normalise, voc.short_side, voc.window) == (0.4, True, 336, None)
    slid = cliper_preset("context60", "L/14", sliding=True)
    assert (slid.window, slid.stride, slid.score_threshold, slid.background_threshold) == (224, 112, 0.2, 0.2)
    assert cliper_preset("cityscapes").short_side == 560
    assert TEMPLATES["object", "B/16"] == "imagenet80"
    with pytest.raises(ConfigError, match="Nearest: 'voc21'"):
        cliper_preset("voc2l")


def test_short_sides_round_half_up_and_never_vanish():
    assert short_side_hw((375, 500), 336, 16) == (336, 448)
    assert short_side_hw((24, 1000), 24, 16) == (32, 1008)
    assert short_side_hw((100, 100), 4, 16) == (16, 16)


def test_only_the_labels_compete_where_asked(encoder, whole):
    bank = bank_of(whole)
    alone = located(encoder, bank, [1], CliperConfig(competitors="labels"))[0]
    against = located(encoder, bank, [1])[0]
    assert (alone.raw >= against.raw - 1e-6).any()
    assert not torch.allclose(alone.raw, against.raw)
