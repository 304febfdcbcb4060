"""Softmax-GradCAM: recorded maps, the closed form against autograd, and what the settings mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded import CASES, GOLDEN, recorded

from clip_es.config.run import LocalizeConfig
from clip_es.encoder import CLIP, Encoder, TowerSizes, build_encoder, load_encoder
from clip_es.encoder.vit import SelfAttention, VisionTower
from clip_es.errors import ShapeError
from clip_es.localize import localize, localize_autograd, pooled_embedding
from clip_es.localize.gradcam import closed_form as module
from clip_es.localize.gradcam.closed_form import Question, explain, explain_autograd
from clip_es.localize.gradcam.together import localize_together
from clip_es.scaling import scale_twice
from clip_es.types import EncodedImage, TextBank

BACKGROUND, SOFTMAX = LocalizeConfig(background=False), LocalizeConfig(softmax=False)


@pytest.fixture(scope="module")
def tiny224() -> Encoder:
    return load_encoder(GOLDEN / "tiny224.pt", device="cpu")


@pytest.fixture(scope="module")
def voc() -> TextBank:
    words = np.load(GOLDEN / "text_tiny224.npz")
    vectors = np.concatenate([words["text_fg_voc"], words["text_bg_voc"]])
    return TextBank(tuple(map(str, range(45))), torch.from_numpy(vectors), 20, "recorded")


def relative(found: torch.Tensor, told: np.ndarray) -> float:
    return float(np.abs(found.numpy() - told).max() / np.abs(told).max())


# recorded arrays; tolerances: tests/golden/README.md


@pytest.mark.parametrize("way", [localize, localize_autograd])
@pytest.mark.parametrize("case", CASES)
def test_maps_are_the_recorded_ones(case, way, tiny224, voc):
    told = recorded(f"{case}/tiny224")
    seen = tiny224.encode([told["input_u8"]])[0]
    found = way(tiny224, seen, voc, told["keys"].tolist())
    assert np.abs(found.scores.numpy() - told["scores"]).max() <= 1e-6
    assert relative(found.weights, told["grad_weights"]) <= 1e-5
    assert relative(found.raw, told["cam_raw"]) <= 1e-5
    assert np.abs(found.maps.scores.numpy() - told["cam"]).max() <= 1e-5
    assert found.maps.class_ids == tuple(told["keys"].tolist())


@pytest.mark.parametrize("case", CASES)
def test_the_pooled_vector_is_the_recorded_one(case, tiny224):
    told = recorded(f"{case}/tiny224")
    seen = tiny224.encode([told["input_u8"]])[0]
    wanted = told["image_embed"] / np.linalg.norm(told["image_embed"])
    assert np.abs(pooled_embedding(tiny224, seen).numpy() - wanted).max() <= 1e-6


# the closed form


def tower(width: int, head_width: int, seed: int) -> VisionTower:
    """A float64 tower whose norms and biases are far from their start values."""
    torch.manual_seed(seed)
    sizes = TowerSizes(8, width, 1, 4, 24, 32, 1, vocab=10, head_width=head_width)
    visual = CLIP(sizes).visual.double().requires_grad_(False)
    for name, value in visual.named_parameters():
        if "bias" in name or "ln_" in name:
            value += 0.3 * torch.randn_like(value)
    return visual


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize(("width", "head_width", "patches"), [(32, 64, 1), (32, 8, 6), (64, 16, 77), (48, 24, 30)])
def test_the_closed_form_is_the_gradient(width, head_width, patches, labels, softmax):
    visual = tower(width, head_width, seed=patches)
    tokens = torch.randn(patches + 1, width, dtype=torch.float64)
    text = F.normalize(torch.randn(labels + 4, 24, dtype=torch.float64), dim=-1)
    question = Question(text, labels, scale=20.0, softmax=softmax)
    block = visual.transformer.blocks[-1]
    queries, keys, _ = block.attn.project(block.ln_1(tokens))
    found = explain(visual, tokens, SelfAttention.weights(queries, keys), question)
    wanted = explain_autograd(visual, tokens, question)
    for a, b in ((found.scores, wanted.scores), (found.weights, wanted.weights), (found.raw, wanted.raw)):
        assert a is not None
        assert b is not None
        assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())


def test_the_gradient_is_the_slope_of_the_score():
    # A third way, without autograd: push ln_1's output of every patch along a direction and look at the score.
    visual = tower(32, 8, seed=1)
    tokens = torch.randn(7, 32, dtype=torch.float64)
    question = Question(F.normalize(torch.randn(5, 24, dtype=torch.float64), dim=-1), 2, scale=20.0, softmax=True)
    weights = explain_autograd(visual, tokens, question).weights
    direction, step = torch.randn(32, dtype=torch.float64), 1e-6
    tail = module.Tail(visual, tokens[None], question)
    y = tail.block.ln_1(tokens[None])
    moved = torch.zeros_like(y)
    moved[:, 1:] = direction
    slope = (tail.after(y + step * moved) - tail.after(y - step * moved))[0, :2] / (2 * step)
    torch.testing.assert_close(weights @ direction * 6, slope, rtol=1e-6, atol=1e-12)


def test_labels_in_groups_are_labels_at_once(tiny224, voc, monkeypatch):
    told = recorded("astronaut_150x131/tiny224")
    seen = tiny224.encode([told["input_u8"]])[0]
    together = localize(tiny224, seen, voc, range(20))
    monkeypatch.setattr(module, "_LARGEST_FIELD", 3 * 90 * 256)
    torch.testing.assert_close(localize(tiny224, seen, voc, range(20)).raw, together.raw, rtol=1e-4, atol=1e-9)


# promises


def hand_bank(*rows: list[float], classes: int) -> TextBank:
    vectors = F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)
    return TextBank(tuple(map(str, range(len(rows)))), vectors, classes, "by hand")


@pytest.fixture(scope="module")
def small() -> tuple[Encoder, EncodedImage]:
    torch.manual_seed(3)
    encoder = build_encoder(CLIP(TowerSizes(8, 32, 2, 4, 4, 32, 1, vocab=49408)).state_dict(), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return encoder, encoder.encode([pixels])[0]


BANK = hand_bank([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], classes=3)


def test_maps_come_in_the_order_of_the_labels(small):
    one, other = localize(*small, BANK, (0, 2)), localize(*small, BANK, (2, 0))
    assert (one.maps.class_ids, other.maps.class_ids) == ((0, 2), (2, 0))
    torch.testing.assert_close(one.maps.scores.flip(0), other.maps.scores, rtol=0, atol=1e-5)


def test_scores_are_labels_then_background_words(small):
    encoder, seen = small
    embedding = pooled_embedding(encoder, seen)
    logits = encoder.logit_scale * embedding
    wanted = torch.stack([logits[2], logits[0], logits[3], (logits[0] + logits[1]) / 2**0.5]).softmax(0)
    found = localize(encoder, seen, BANK, (2, 0))
    torch.testing.assert_close(found.scores, wanted, rtol=0, atol=1e-6)
    alone = localize(encoder, seen, BANK, (2, 0), BACKGROUND)
    torch.testing.assert_close(alone.scores, logits[[2, 0]].softmax(0), rtol=0, atol=1e-6)
    plain = localize(encoder, seen, BANK, (2,), SOFTMAX)
    torch.testing.assert_close(plain.scores[0], logits[2], rtol=0, atol=1e-5)


def test_other_classes_of_the_vocabulary_take_no_part(small):
    changed = hand_bank([1, 0, 0, 0], [-1, 3, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], classes=3)
    assert torch.equal(localize(*small, BANK, (0, 2)).raw, localize(*small, changed, (0, 2)).raw)


def test_a_plain_logit_does_not_depend_on_its_neighbours(small):
    one, both = localize(*small, BANK, (0,), SOFTMAX), localize(*small, BANK, (0, 2), SOFTMAX)
    torch.testing.assert_close(one.raw[0], both.raw[0], rtol=1e-5, atol=1e-7)


def test_two_labels_alone_pull_in_opposite_directions(small):
    # Two softmax scores sum to one, so their gradients sum to zero.
    found = localize(*small, BANK, (0, 2), BACKGROUND)
    torch.testing.assert_close(found.raw[0], -found.raw[1], rtol=1e-3, atol=1e-7)


def test_a_single_label_without_competitors_has_its_logit_explained(small):
    found = localize(*small, BANK, (1,), BACKGROUND)
    assert torch.equal(found.raw, localize(*small, BANK, (1,), replace(BACKGROUND, softmax=False)).raw)
    assert float(found.raw.abs().max()) > 0


def test_a_map_that_is_nowhere_positive_is_zero(small):
    assert torch.equal(scale_twice(torch.tensor([[[-1.0, -2.0], [-3.0, 0.0]]])), torch.zeros(1, 2, 2))
    encoder, _ = small
    frozen = build_encoder(encoder.model.state_dict(), device="cpu")
    frozen.model.visual.proj.zero_()[0, 0] = 1e-20
    found = localize(frozen, frozen.encode([np.zeros((16, 16, 3), np.uint8)])[0], BANK, (0, 1))
    assert bool(torch.isfinite(found.maps.scores).all())


def test_scaling_twice_by_hand():
    # raw 0, 1e-7, 3e-7: first 0, 1/4, 3/4; then 0, 1/3, 1 (the 1e-7 no longer counts).
    found = scale_twice(torch.tensor([[[-1.0, 1e-7, 3e-7]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1 / 3, 1.0]]]), rtol=0, atol=1e-6)


def test_one_patch_has_nothing_to_compare_and_so_a_map_of_zero(small):
    encoder, _ = small
    seen = encoder.encode([np.full((8, 8, 3), 200, np.uint8)])[0]
    assert localize(encoder, seen, BANK, (0, 1)).maps.scores.tolist() == [[[0.0]], [[0.0]]]


@pytest.mark.parametrize("config", [LocalizeConfig(), BACKGROUND, SOFTMAX])
@pytest.mark.parametrize("way", [localize, localize_autograd])
def test_no_label_is_no_map(way, config, small):
    found = way(*small, BANK, (), config)
    assert found.maps.scores.shape == (0, 3, 4)
    assert len(found.scores) == (2 if config.background else 0)


def test_a_class_the_bank_does_not_have_is_refused(small):
    with pytest.raises(ShapeError, match=r"Expected 0\.\.2\. Found \[3, -1\]"):
        localize(*small, BANK, (3, 0, -1))


def test_bytes_repeat(small):
    assert torch.equal(localize(*small, BANK, (0, 1, 2)).raw, localize(*small, BANK, (0, 1, 2)).raw)


# several pictures at once


@pytest.mark.parametrize("config", [LocalizeConfig(), BACKGROUND, SOFTMAX], ids=["default", "no background", "logits"])
def test_several_pictures_are_explained_as_each_alone(config, tiny224, voc):
    random = np.random.default_rng(0)
    seen = tiny224.encode(list(random.integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)))
    # Without background words the third has one label and no competitor: its logit is explained.
    asked = [(0, 5), (), (7,), (19, 2, 11, 4)]
    together = localize_together(tiny224, seen, voc, asked, config)
    for own, one, ids in zip(together, seen, asked, strict=True):
        alone = localize(tiny224, one, voc, ids, config)
        assert own.maps.class_ids == ids
        torch.testing.assert_close(own.scores, alone.scores, atol=1e-6, rtol=1e-5)
        for name in ("weights", "raw"):
            told = getattr(alone, name)
            scale = float(told.abs().max()) if told.numel() else 1.0
            torch.testing.assert_close(getattr(own, name), told, atol=1e-4 * scale, rtol=0)
        torch.testing.assert_close(own.maps.scores, alone.maps.scores, atol=1e-4, rtol=0)


def test_several_pictures_may_have_a_class_in_common(tiny224, voc):
    (seen,) = tiny224.encode([np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)])
    one, other = localize_together(tiny224, [seen, seen], voc, [(3, 4), (4, 3)], LocalizeConfig())
    torch.testing.assert_close(one.raw, other.raw.flip(0))


def test_labels_that_do_not_fit_one_field_go_in_groups_of_rows(tiny224, voc, monkeypatch):
    seen = tiny224.encode(list(np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)))
    whole = localize_together(tiny224, seen, voc, [(0, 1), (2, 3, 4)], LocalizeConfig())
    monkeypatch.setattr(module, "_LARGEST_FIELD", 1)
    grouped = localize_together(tiny224, seen, voc, [(0, 1), (2, 3, 4)], LocalizeConfig())
    for own, before in zip(grouped, whole, strict=True):
        torch.testing.assert_close(own.raw, before.raw)


def test_a_class_that_the_bank_lacks_is_refused_in_any_of_several_pictures(tiny224, voc):
    seen = tiny224.encode(list(np.zeros((2, 32, 32, 3), np.uint8)))
    with pytest.raises(ShapeError, match="not in the text bank"):
        localize_together(tiny224, seen, voc, [(0,), (20,)], LocalizeConfig())
