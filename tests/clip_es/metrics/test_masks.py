"""Scores of masks, on 4x4 numbers and against the figures of the published scripts."""

import json
import math

import numpy as np
import pytest
from recorded import GOLDEN, recorded

from clip_es.errors import DataError, ShapeError
from clip_es.masks import read_mask
from clip_es.metrics.masks import ConfusionMatrix, Scores, hiou

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 255, 255], [0, 0, 2, 2]], dtype=np.uint8)
PREDICTION = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 3], [0, 0, 1, 1]], dtype=np.uint8)


def scores(prediction, truth, classes=4, **options) -> Scores:
    matrix = ConfusionMatrix(classes, **options)
    matrix.update(prediction, truth)
    return matrix.compute()


def test_the_scores_of_a_small_mask_written_out():
    # truth: 8 of class 0, 4 of class 1, 2 of class 2, 2 not counted
    made = scores(PREDICTION, TRUTH)
    assert made.iou[:3].tolist() == pytest.approx([8 / 9, 3 / 6, 0])
    assert math.isnan(made.iou[3]), "predicted only where nothing is counted"
    assert made.miou == pytest.approx((8 / 9 + 3 / 6) / 3)
    assert made.pixel_accuracy == pytest.approx(11 / 14)
    assert made.mean_accuracy == pytest.approx((1 + 3 / 4 + 0) / 3)
    assert made.frequency_weighted_iou == pytest.approx(8 / 14 * 8 / 9 + 4 / 14 / 2)


def test_a_class_that_is_only_predicted_has_an_iou_but_no_say_in_the_mean():
    made = scores(np.array([[0, 3]]), np.array([[0, 0]]))
    assert made.iou[3] == 0
    assert made.miou == pytest.approx(0.5), "class 0 alone: 1 of 2 pixels"


def test_a_perfect_mask_scores_one():
    made = scores(TRUTH % 255, TRUTH)
    assert made.miou == made.pixel_accuracy == made.mean_accuracy == made.frequency_weighted_iou == 1


def test_undecided_counts_against_its_true_class_and_for_no_other():
    prediction = np.array([[0, 0, 255, 1]])
    truth = np.array([[0, 0, 1, 1]])
    missed = scores(prediction, truth, classes=2)
    assert missed.iou.tolist() == [1, 0.5]
    assert missed.pixel_accuracy == 0.75
    ignored = scores(prediction, truth, classes=2, undecided="ignore")
    assert ignored.iou.tolist() == [1, 1]
    assert ignored.pixel_accuracy == 1


def test_many_pictures_give_one_matrix_however_they_are_split():
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 5, (2, 6, 7)) for _ in range(4)]
    together, parts = ConfusionMatrix(5), [ConfusionMatrix(5), ConfusionMatrix(5)]
    for i, (prediction, truth) in enumerate(pairs):
        together.update(prediction, truth)
        parts[i % 2].update(prediction, truth)
    parts[0].merge(parts[1])
    assert np.array_equal(together.counts, parts[0].counts)
    assert together.counts.dtype == np.int64
    assert together.counts.sum() == 4 * 42


def test_nothing_counted_gives_no_scores_and_no_warning():
    made = scores(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert all(math.isnan(value) for value in (made.miou, made.pixel_accuracy, made.mean_accuracy))
    assert np.isnan(made.iou).all()


def test_a_signed_ignore_label_is_not_counted():
    assert scores(np.array([[0, 1]]), np.array([[0, -1]])).pixel_accuracy == 1


def test_unknown_predictions_are_refused():
    with pytest.raises(DataError, match="not being evaluated") as caught:
        scores(np.array([[7]]), np.array([[0]]))
    assert caught.value.found == "7"


def test_sizes_and_kinds_must_fit():
    with pytest.raises(ShapeError, match="one size"):
        scores(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ShapeError):
        scores(np.zeros((2, 2)), np.zeros((2, 2), int))
    with pytest.raises(ShapeError):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
    with pytest.raises(ShapeError):
        ConfusionMatrix(3).merge(ConfusionMatrix(3, undecided="ignore"))
    with pytest.raises(ShapeError):
        ConfusionMatrix(256)


def test_the_harmonic_mean_is_drawn_to_the_lower_value():
    assert hiou(0.8, 0.2) == pytest.approx(0.32)
    assert hiou(0.5, 0.5) == 0.5
    assert hiou(0.0, 0.0) == 0


def published_labels(arrays, stage, setting):
    """The labels a published script scored: recorded ones, or those over a constant background."""
    if stage == "crf":
        return arrays["label_crf"]
    if setting in {"1", "2"}:
        return arrays[f"label_a{setting}"]
    maps = arrays["attn_highres_f16"]
    winner = np.concatenate([np.full_like(maps[:1], float(setting)), maps]).argmax(axis=0)
    return np.array([0, *(arrays["keys"] + 1)])[winner]


@pytest.mark.parametrize("run", range(3))
def test_the_figures_of_the_published_scripts_are_repeated(run):
    run = json.loads((GOLDEN / "evaluation.json").read_text())["runs"][run]
    made = {}
    for setting in run.get("mean_iou_by_setting", ["crf"]):
        matrix = ConfusionMatrix(21)
        for case in run["cases"]:
            arrays = recorded(f"{case}/{run['model']}")
            matrix.update(published_labels(arrays, run["stage"], setting), read_mask(GOLDEN / case / "gt.png"))
        made[setting] = matrix.compute()
    for setting, expected in run.get("mean_iou_by_setting", {}).items():
        assert made[setting].miou == pytest.approx(expected, abs=1e-12)
    check(max(made.values(), key=lambda scores: scores.miou), run.get("best") or run["result"])


def check(made: Scores, expected):
    assert made.miou == pytest.approx(expected["Mean IoU"], abs=1e-12)
    assert made.pixel_accuracy == pytest.approx(expected["Pixel Accuracy"], abs=1e-12)
    assert made.mean_accuracy == pytest.approx(expected["Mean Accuracy"], abs=1e-12)
    assert made.frequency_weighted_iou == pytest.approx(expected["Frequency Weighted IoU"], abs=1e-12)
    theirs = [math.nan if expected["Class IoU"][str(k)] is None else expected["Class IoU"][str(k)] for k in range(21)]
    np.testing.assert_allclose(made.iou, theirs, atol=1e-12)
