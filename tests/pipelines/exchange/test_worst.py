"""Which pictures come first, by hand and against the truth of scenes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clip_es.masks import write_mask
from clip_es.metrics.certainty import certainty, expected_miou
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.run_folder import Run
from clip_es.pipelines.exchange.worst import rank


def f32(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def u8(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def test_full_confidence_promises_full_marks():
    assert expected_miou(u8([0, 0, 1, 2]), f32([1, 1, 1, 1])) == 1


def test_the_expected_miou_by_hand():
    # Background: 3 pixels, of which 2.5 are expected right. Class 1: 1 pixel, half of it right.
    # Background has 3 pixels and gains half of class 1's; class 1 has 1 and gains half of background's.
    found = expected_miou(u8([0, 0], [0, 1]), f32([1, 1], [0.5, 0.5]))
    assert found == pytest.approx((2.5 / 3.5 + 0.5 / 1.5) / 2)


def test_what_is_wrong_goes_to_the_other_labels_in_equal_shares():
    # Three labels of one pixel each; the first is wrong with 0.4, so each of the others is expected to lack 0.2.
    found = expected_miou(u8([0, 1, 2]), f32([0.6, 1, 1]))
    assert found == pytest.approx((0.6 / 1 + 1 / 1.2 + 1 / 1.2) / 3)


def test_a_small_unsure_object_weighs_as_much_as_a_large_one():
    small, large = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    small[0, 0], large[:5] = 1, 1
    half = {n: np.where(labels == 1, np.float32(0.5), np.float32(1)) for n, labels in (("s", small), ("l", large))}
    assert expected_miou(small, half["s"]) < 0.76
    assert expected_miou(large, half["l"]) < 0.76
    assert certainty(small, small, half["s"])["mean-confidence"] == pytest.approx(0.995)


def test_the_decided_share_counts_what_is_not_255():
    assert certainty(u8([0, 1]), u8([255, 1]), f32([0.2, 1]))["decided-share"] == 0.5


def test_the_least_sure_come_first_and_are_exported(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path, 10)
    scores = {k: expected_miou(made.decided[k], made.confidence[k]) for k in made.decided}
    order = sorted(scores, key=lambda image_id: (scores[image_id], image_id))
    out = tmp_path / "out"
    assert main(["worst", str(made.run), "--count", "4", "--out", str(out)]) == 0
    assert [p.image_id for p in rank(Run.open(made.run)).pictures] == order
    assert {path.stem for path in out.glob("0*.json")} == set(order[:4])
    assert (out / "worst.csv").read_text().splitlines()[1].split(",")[0] == order[0]
    assert len((out / "worst.csv").read_text().splitlines()) == 11
    assert all(image_id in (out / "worst.html").read_text() for image_id in order[:4])
    text = capsys.readouterr().out
    assert text.index(order[0]) < text.index(order[3])
    assert f"clip-es import {made.run} --format labelme --from {out}" in text


def test_pictures_that_came_back_are_not_asked_for_again(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path, 10)
    assert main(["worst", str(made.run), "--count", "3", "--out", str(tmp_path / "one"), "--format", "voc"]) == 0
    first = {path.stem for path in (tmp_path / "one/SegmentationClass").iterdir()}
    for image_id in first:
        write_mask(tmp_path / f"one/SegmentationClass/{image_id}.png", (made.decided[image_id] + 1) % 4)
    assert main(["import", str(made.run), "--format", "voc", "--from", str(tmp_path / "one")]) == 0
    assert main(["worst", str(made.run), "--count", "3", "--out", str(tmp_path / "two"), "--format", "voc"]) == 0
    second = {path.stem for path in (tmp_path / "two/SegmentationClass").iterdir()}
    assert len(first) == len(second) == 3
    assert not first & second


def test_the_truth_tells_how_good_the_ranking_is(made_up_run, tmp_path, capsys):
    """Pictures whose confidence is the share of pixels that are right are ranked in the order of their mIoU."""
    made = made_up_run(tmp_path, 12, side=40)
    (tmp_path / "truth").mkdir()
    rng = np.random.default_rng(1)
    for number, (image_id, decided) in enumerate(made.decided.items()):
        right = 0.4 + 0.05 * number
        wrong = rng.random(decided.shape) > right
        write_mask(tmp_path / f"truth/{image_id}.png", np.where(wrong, (decided + 1) % 4, decided).astype(np.uint8))
        grey = np.full(decided.shape, round(255 * right), dtype=np.uint8)
        Image.fromarray(grey).save(made.run / f"confidence/{image_id}.png")
    found = rank(Run.open(made.run), truth=tmp_path / "truth").correlation("expected-miou")
    assert found is not None
    assert found.value > 0.8
    assert found.low > 0
    assert main(["worst", str(made.run), "--out", str(tmp_path / "o"), "--truth", str(tmp_path / "truth")]) == 0
    assert "rank correlation of expected-miou with true mIoU: +" in capsys.readouterr().out


def test_a_damaged_confidence_is_told_and_the_others_are_ranked(made_up_run, tmp_path, capsys):
    made = made_up_run(tmp_path, 5)
    (made.run / "confidence/000.plain.png").write_bytes(b"broken")
    assert main(["worst", str(made.run), "--out", str(tmp_path / "o")]) == 1
    assert "left out 000.plain" in capsys.readouterr().out
    assert len(rank(Run.open(made.run)).pictures) == 4


@pytest.mark.slow
def test_on_scenes_the_least_sure_are_the_worst(tmp_path, capsys):
    scenes, run = tmp_path / "scenes", tmp_path / "run"
    assert main(["scenes", "make", "--out", str(scenes), "--train", "0", "--val", "120"]) == 0
    assert main(["masks", "scenes", "--root", str(scenes), "--out", str(run), "--workers", "0"]) == 0
    ranking = rank(Run.open(run), truth=scenes / "SegmentationClass")
    found = ranking.correlation("expected-miou")
    assert found is not None
    assert found.low > 0
    miou = [picture.miou for picture in ranking.pictures if picture.miou is not None]
    assert len(miou) == 120
    assert np.mean(miou[:30]) < np.mean(miou) - 0.05
