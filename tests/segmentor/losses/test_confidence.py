"""The confidence-guided loss on two by two pixels, by hand and against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.segmentor.losses.confidence import ConfidenceGuidedLoss, confidence_loss

LOG2, LOG4 = math.log(2), math.log(4)


def picture(dtype=torch.float64):
    """Two classes on 2 x 2 pixels. Chance of the pixel's own label: 1/2, 1/4, 1/2, 1/4; cross-entropy its -log."""
    chance = torch.tensor([[0.5, 0.25], [0.5, 0.25]], dtype=dtype)
    labels = torch.tensor([[0, 0], [1, 1]])
    of_one = torch.where(labels == 1, chance, 1 - chance)
    logits = torch.stack([(1 - of_one).log(), of_one.log()])
    confidence = torch.tensor([[1.0, 0.96], [0.95, 0.5]], dtype=dtype)
    return logits[None], labels[None], confidence[None]


def test_plain_is_the_mean_cross_entropy():
    logits, labels, _ = picture()
    assert float(confidence_loss(logits, labels, mode="plain")) == pytest.approx((2 * LOG2 + 2 * LOG4) / 4)


def test_hard_leaves_out_what_is_below_the_threshold_and_keeps_what_is_on_it():
    logits, labels, confidence = picture()
    assert float(confidence_loss(logits, labels, confidence)) == pytest.approx((LOG2 + LOG4 + LOG2) / 3)
    assert float(confidence_loss(logits, labels, confidence, threshold=1.0)) == pytest.approx(LOG2)


def test_soft_weighs_each_pixel_by_its_confidence():
    logits, labels, confidence = picture()
    by_hand = (1.0 * LOG2 + 0.96 * LOG4 + 0.95 * LOG2 + 0.5 * LOG4) / (1.0 + 0.96 + 0.95 + 0.5)
    assert float(confidence_loss(logits, labels, confidence, mode="soft")) == pytest.approx(by_hand)


def test_255_never_counts():
    logits, labels, confidence = picture()
    labels[0, 0, 0] = 255
    assert float(confidence_loss(logits, labels, mode="plain")) == pytest.approx((LOG4 + LOG2 + LOG4) / 3)
    assert float(confidence_loss(logits, labels, confidence)) == pytest.approx((LOG4 + LOG2) / 2)


def test_balanced_is_the_mean_of_background_and_objects():
    logits, labels, confidence = picture()
    labels[0, 1, 0] = 255
    ground, objects = (LOG2 + LOG4) / 2, LOG4
    assert float(confidence_loss(logits, labels, mode="plain", balanced=True)) == pytest.approx((ground + objects) / 2)
    # The last pixel is unsure, so of the objects nothing is left, and the loss is that of the background.
    assert float(confidence_loss(logits, labels, confidence, balanced=True)) == pytest.approx(ground)


def test_class_weights_count_in_the_mean_as_in_torch():
    logits, labels, confidence = picture()
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    ours = confidence_loss(logits, labels, confidence, mode="plain", class_weight=weight)
    assert float(ours) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels, weight=weight)))


@pytest.mark.parametrize("mode", ["hard", "soft", "plain"])
@pytest.mark.parametrize("balanced", [False, True])
def test_without_any_pixel_loss_and_gradient_are_zero(mode, balanced):
    logits, labels, confidence = picture()
    logits.requires_grad_()
    if mode == "plain":
        labels = torch.full_like(labels, 255)
    loss = confidence_loss(logits, labels, 0 * confidence, mode=mode, balanced=balanced)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("mode", ["hard", "soft", "plain"])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_gradient_is_that_of_finite_differences(mode, balanced):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([[[0, 1], [2, 255]], [[1, 0], [0, 2]]])
    confidence = torch.rand(2, 2, 2, dtype=torch.float64, generator=generator)

    def loss(x):
        return confidence_loss(x, labels, confidence, mode=mode, threshold=0.4, balanced=balanced)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_the_gradient_by_hand_is_softmax_minus_one_over_the_pixels_that_count():
    logits, labels, confidence = picture()
    logits.requires_grad_()
    confidence_loss(logits, labels, confidence).backward()
    wanted = torch.softmax(logits.detach(), 1) - torch.nn.functional.one_hot(labels, 2).permute(0, 3, 1, 2)
    wanted = wanted / 3
    wanted[..., 1, 1] = 0
    torch.testing.assert_close(logits.grad, wanted)


def test_the_module_takes_what_heads_give_and_what_the_model_set():
    logits, labels, confidence = picture(torch.float32)
    loss = ConfidenceGuidedLoss(mode="soft", loss_weight=0.4)
    loss.confidence = confidence
    wanted = 0.4 * confidence_loss(logits, labels, confidence, mode="soft")
    torch.testing.assert_close(loss(logits, labels, weight=None, ignore_index=255), wanted)
    assert loss.loss_name == "loss_cgl"


def test_half_precision_logits_are_widened():
    logits, labels, confidence = picture(torch.float32)
    loss = ConfidenceGuidedLoss(mode="hard")
    loss.confidence = confidence
    found = loss(logits.half(), labels)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx((LOG2 + LOG4 + LOG2) / 3, abs=1e-3)


def test_a_smaller_label_map_takes_the_nearest_confidence():
    loss = ConfidenceGuidedLoss(mode="soft")
    loss.confidence = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    logits, labels = torch.tensor([[[[0.0]], [[0.0]]]]), torch.zeros(1, 1, 1, dtype=torch.int64)
    assert float(loss(logits, labels)) == pytest.approx(LOG2)


def test_guiding_without_confidence_names_the_parts_that_bring_it():
    logits, labels, _ = picture()
    with pytest.raises(ConfigError, match=r"ConfidenceEncoderDecoder.*PackPseudoMask"):
        confidence_loss(logits, labels)


def test_a_label_that_is_no_class_is_named():
    logits, labels, confidence = picture()
    labels[0, 1, 1] = 7
    with pytest.raises(DataError, match=r"Expected 0\.\.1, or 255 for undecided\. Found 7"):
        confidence_loss(logits, labels, confidence)


def test_sizes_and_modes_that_do_not_fit_are_refused():
    logits, labels, confidence = picture()
    with pytest.raises(ShapeError, match="labels of another size"):
        confidence_loss(logits, labels[:, :1], confidence)
    with pytest.raises(ShapeError, match="confidence of another size"):
        confidence_loss(logits, labels, confidence[:, :, :1])
    with pytest.raises(ConfigError, match="no such"):
        ConfidenceGuidedLoss(mode="harder")
    with pytest.raises(ConfigError, match="threshold within"):
        ConfidenceGuidedLoss(threshold=95)
    with pytest.raises(ConfigError, match="takes its own mean"):
        ConfidenceGuidedLoss()(logits, labels, reduction_override="none")
