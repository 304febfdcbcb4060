"""Seen, unseen and harmonic figures, and episodes: by hand, and as the published scripts compute them."""

import math
from pathlib import Path

import numpy as np
import pytest

from clip_es.errors import ConfigError, DataError, ShapeError
from clip_es.metrics.zero_shot import EpisodeMeter, ZeroShotMeter, harmonic

GOLDEN = Path(__file__).parents[2] / "golden"

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 255, 255], [0, 0, 2, 2]], dtype=np.uint8)
PREDICTION = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 2, 1]], dtype=np.uint8)


def scores(prediction=PREDICTION, truth=TRUTH, **options):
    meter = ZeroShotMeter([1], [2], **options)
    meter.update(prediction, truth)
    return meter.compute()


def test_the_figures_of_a_small_mask_written_out():
    made = scores()
    # background 8 right, 9 predicted; class 1: 3 right of 4, 4 predicted on known pixels; class 2: 1 of 2, 1 predicted
    assert made.iou[:3].tolist() == pytest.approx([8 / 9, 3 / 5, 1 / 2])
    assert made.seen.miou == pytest.approx((8 / 9 + 3 / 5) / 2)
    assert made.unseen.miou == pytest.approx(1 / 2)
    assert made.harmonic.miou == pytest.approx(2 * made.seen.miou * 0.5 / (made.seen.miou + 0.5))
    assert made.seen.pixel_accuracy == pytest.approx(11 / 12)
    assert made.unseen.mean_accuracy == pytest.approx(1 / 2)
    assert made.all.pixel_accuracy == pytest.approx(12 / 14)
    assert made.fb_iou == pytest.approx((8 / 9 + 5 / 6) / 2)
    assert made.percent()["unseen"] == pytest.approx(50)


def test_ignored_pixels_count_as_false_positives_where_asked():
    made = scores(ignore_policy="count")
    assert made.iou[:3].tolist() == pytest.approx([8 / 10, 3 / 6, 1 / 2]), "one more 0 and one more 1 predicted"
    assert made.fb_iou == pytest.approx((8 / 10 + 5 / 7) / 2)


def test_background_can_be_left_out():
    made = scores(include_background=False)
    assert made.iou[1:3].tolist() == pytest.approx([3 / 5, 1 / 2])
    assert made.seen.miou == pytest.approx(3 / 5)
    assert math.isnan(made.iou[0])
    assert math.isnan(made.fb_iou)


def test_a_perfect_mask_scores_one_and_no_unseen_class_gives_no_harmonic_mean():
    meter = ZeroShotMeter([1, 2], [])
    meter.update(TRUTH % 255, TRUTH)
    made = meter.compute()
    assert made.seen.miou == made.all.pixel_accuracy == made.fb_iou == 1
    assert math.isnan(made.unseen.miou)
    assert math.isnan(made.harmonic.miou)


def test_the_harmonic_mean_of_equal_shares_is_the_share_and_of_zero_is_zero():
    assert harmonic(0.3, 0.3) == pytest.approx(0.3)
    assert harmonic(0.3, 0.0) == 0
    assert harmonic(0.0, 0.0) == 0


def test_meters_of_parts_merge_to_the_meter_of_the_whole():
    rng = np.random.default_rng(0)
    whole, parts = ZeroShotMeter([1, 2], [3]), [ZeroShotMeter([1, 2], [3]) for _ in range(2)]
    for i, (prediction, truth) in enumerate(rng.integers(0, 4, (5, 2, 6, 7))):
        whole.update(prediction, truth)
        parts[i % 2].update(prediction, truth)
    parts[0].merge(parts[1])
    assert parts[0].compute().percent() == whole.compute().percent()
    with pytest.raises(ConfigError, match="one protocol"):
        whole.merge(ZeroShotMeter([1], [2]))


FIGURES = {
    "Overall Acc": "pixel_accuracy",
    "Mean Acc": "mean_accuracy",
    "FreqW Acc": "frequency_weighted_iou",
    "Mean IoU": "miou",
}
PUBLISHED = {
    "pred": {
        "FreqW Acc": (0.5177185315165367, 0.36110835368315164, 0.15661017783338507, 0.2184710032371437),
        "Mean Acc": (0.6588147565443855, 0.6560363449179509, 0.6643715797972549, 0.6601776537679646),
        "Mean IoU": (0.4314002723168166, 0.40213716108452946, 0.5045580503975344, 0.4475628401247451),
        "Overall Acc": (0.6618257261410788, 0.6601503759398496, 0.6655518394648829, 0.6628401037952018),
    },
    "pred_no_unseen": {
        "FreqW Acc": (0.3240524882219112, 0.3240524882219112, 0.0, 0.0),
        "Mean Acc": (0.45214250951519314, 0.6782137642727897, 0.0, 0.0),
        "Mean IoU": (0.24608661931771028, 0.3445212670447944, 0.0, 0.0),
        "Overall Acc": (0.46680497925311204, 0.6766917293233082, 0.0, 0.0),
    },
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_figures_of_the_published_script_are_repeated(case):
    with np.load(GOLDEN / "cagnet/metrics.npz") as arrays:
        labels, predictions, class_iou = arrays["label"], arrays[case], arrays["class_iou"]
    meter = ZeroShotMeter(range(1, 6), (6, 7), include_background=False)
    for label, prediction in zip(labels, predictions, strict=True):
        meter.update(prediction + 1, np.where((label < 0) | (label > 6), 255, label + 1))
    made = meter.compute()
    for name, expected in PUBLISHED[case].items():
        found = [getattr(getattr(made, group), FIGURES[name]) for group in ("all", "seen", "unseen", "harmonic")]
        assert found == pytest.approx(expected, abs=1e-12), name
    if case == "pred":
        np.testing.assert_allclose(made.iou[1:8], class_iou, atol=1e-12)


def test_an_episode_is_counted_as_published():
    with np.load(GOLDEN / "sazs/episode_iou.npz") as arrays:
        label, prediction = arrays["label"], arrays["pred"][0] == 1
        counted = arrays["inter_ignore"][:, 0], arrays["union_ignore"][:, 0]
        unignored = arrays["inter_noignore"][:, 0], arrays["union_noignore"][:, 0]
    made = EpisodeMeter([2], ignore_policy="count").update(2, prediction, label, value=3)
    np.testing.assert_array_equal(made, counted)
    made = EpisodeMeter([2]).update(2, prediction, np.where(label == 255, 0, label), value=3)
    np.testing.assert_array_equal(made, unignored)


def test_dropping_ignored_pixels_never_lowers_a_foreground_iou():
    rng = np.random.default_rng(1)
    for _ in range(20):
        truth = rng.choice([0, 1, 255], (5, 5))
        prediction = rng.random((5, 5)) > 0.5
        meters = [EpisodeMeter([0], policy) for policy in ("count", "drop")]
        for meter in meters:
            meter.update(0, prediction, truth, value=1)
        assert meters[0].miou <= meters[1].miou


def test_episodes_add_up_to_the_published_figures():
    with np.load(GOLDEN / "sazs/episode_metrics.npz") as arrays:
        meter = EpisodeMeter(range(5))
        for row, inter, union in zip(arrays["class_id"], arrays["inter"], arrays["union"], strict=True):
            meter.intersection[row] += inter.astype(np.int64)
            meter.union[row] += union.astype(np.int64)
        np.testing.assert_allclose(100 * meter.iou(), arrays["per_class"], rtol=1e-6)
    assert 100 * meter.miou == pytest.approx(38.81801986694336, rel=1e-6)
    assert 100 * meter.fb_iou == pytest.approx(39.36421203613281, rel=1e-6)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ConfigError, match="seen or unseen") as caught:
        ZeroShotMeter([1, 2], [2])
    assert caught.value.found == "[2]"
    with pytest.raises(ConfigError, match="mask values"):
        ZeroShotMeter([0], [1])
    with pytest.raises(DataError, match="neither seen nor unseen"):
        scores(np.full((4, 4), 7))
    with pytest.raises(ShapeError, match="one size"):
        scores(np.zeros((2, 2), int))
    with pytest.raises(DataError, match="not of this fold"):
        EpisodeMeter([1]).update(2, TRUTH > 0, TRUTH, 1)
    with pytest.raises(ConfigError, match="unique"):
        EpisodeMeter([])
    with pytest.raises(ConfigError, match="one fold"):
        EpisodeMeter([1]).merge(EpisodeMeter([2]))
