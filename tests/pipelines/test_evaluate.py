"""`clip-es evaluate`: any folder of masks against the truth, and the same figures as mmsegmentation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.masks import write_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.commands.evaluate import Evaluate
from clip_es.pipelines.evaluate import evaluate, pair, read_ids

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 2, 255]], dtype=np.uint8)
MADE = np.array([[0, 0, 0, 1], [0, 0, 2, 2]], dtype=np.uint8)


def put(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, labels.astype(np.uint8))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        put(tmp_path / "truth" / f"{name}.png", TRUTH)
        put(tmp_path / "made" / f"{name}.png", MADE)
    return tmp_path


def call(folder: Path, *flags: str) -> tuple[int, dict]:
    out = folder / "figures.json"
    base = ["evaluate", str(folder / "made"), "--truth", str(folder / "truth"), "--out", str(out)]
    code = main([*base, *flags])
    return code, json.loads(out.read_text())


def test_the_figures_of_a_small_folder_written_out(folders, capsys):
    code, figures = call(folders, "--classes", "3")
    assert code == 0
    assert figures["iou"] == pytest.approx({"0": 80.0, "1": 50.0, "2": 100.0})
    assert figures["miou"] == pytest.approx((80 + 50 + 100) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(100 * 6 / 7)
    assert figures["mean_accuracy"] == pytest.approx(100 * (1 + 0.5 + 1) / 3)
    assert figures["images"] == 2
    assert "76.67" in capsys.readouterr().out


def test_names_come_from_a_list_of_lines_too(folders):
    names = folders / "names.txt"
    names.write_text("sky\nroad\n\ncar\n")
    assert set(call(folders, "--classes", str(names))[1]["iou"]) == {"sky", "road", "car"}
    assert Evaluate(run_folder=folders, truth=folders, vocabulary="scenes").names()[:2] == ("background", "aeroplane")


@pytest.mark.parametrize("text", ["", "car\ncar\n"])
def test_a_useless_list_of_names_is_refused(folders, text):
    (folders / "names.txt").write_text(text)
    with pytest.raises(DataError, match="not a list of class names"):
        Evaluate(run_folder=folders, truth=folders, classes=str(folders / "names.txt")).names()


def test_a_number_of_classes_that_no_mask_holds_is_refused(folders):
    for number in ("0", "256"):
        with pytest.raises(ConfigError):
            Evaluate(run_folder=folders, truth=folders, classes=number).names()


def test_sub_folders_are_paired_however_they_are_written(tmp_path):
    put(tmp_path / "truth" / "x" / "a.png", TRUTH)
    put(tmp_path / "truth" / "y" / "a.png", TRUTH)
    put(tmp_path / "made" / "x" / "a.png", MADE)
    put(tmp_path / "made" / "y__a.png", MADE)
    assert list(pair(tmp_path / "made", tmp_path / "truth")) == ["x__a", "y__a"]
    put(tmp_path / "made" / "y" / "a.png", MADE)
    with pytest.raises(DataError, match="two files"):
        pair(tmp_path / "made", tmp_path / "truth")


def test_a_list_holds_the_masks_to_its_pictures(folders, capsys):
    ids = folders / "ids.txt"
    ids.write_text("b\nc\n")
    put(folders / "truth" / "c.png", TRUTH)
    code, figures = call(folders, "--classes", "3", "--list-file", str(ids))
    assert code == 1
    assert figures["images"] == 1
    assert "left out c" in capsys.readouterr().out
    ids.write_text("/JPEGImages/b.jpg /SegmentationClass/b.png\n")
    assert list(pair(folders / "made", folders / "truth", read_ids(ids))) == ["b"]


def test_truth_without_a_mask_is_mentioned(folders, capsys):
    put(folders / "truth" / "c.png", TRUTH)
    assert call(folders, "--classes", "3")[0] == 0
    assert "1 pictures with ground truth have no mask" in capsys.readouterr().out


def test_folders_with_nothing_in_common_are_refused(folders):
    with pytest.raises(DataError, match="no mask of the same name"):
        pair(folders / "made", folders / "truth", ["z"])
    (folders / "empty").mkdir()
    with pytest.raises(DataError, match="no mask of the same name"):
        pair(folders / "empty", folders / "truth")
    with pytest.raises(DataError, match="not a folder of masks"):
        pair(folders / "nowhere", folders / "truth")


def test_a_mask_of_another_size_is_left_out_by_name(folders, capsys):
    put(folders / "made" / "b.png", MADE[:1])
    code, figures = call(folders, "--classes", "3")
    assert code == 1
    assert figures["images"] == 1
    assert "left out b" in capsys.readouterr().out


def drawn(seed: int, folder: Path, classes: int, undecided: bool, absent: tuple[int, ...] = ()) -> None:
    """Five blocky pictures; truth has 255 borders, predictions are wrong in some blocks."""
    rng = np.random.default_rng(seed)
    known = np.setdiff1d(np.arange(classes), absent)
    for number in range(5):
        blocks = rng.choice(known, (6, 8))
        wrong = np.where(rng.random((6, 8)) < 0.3, rng.integers(0, classes, (6, 8)), blocks)
        truth = blocks.repeat(9, 0).repeat(7, 1).astype(np.uint8)
        made = wrong.repeat(9, 0).repeat(7, 1).astype(np.uint8)
        truth[::9] = truth[:, ::7] = 255
        if undecided:
            made[5:9, 3:20] = 255
        put(folder / "truth" / f"{number}.png", truth)
        put(folder / "made" / f"{number}.png", made)


def mmseg_figures(folder: Path, classes: int) -> tuple[np.ndarray, np.ndarray, float, dict]:
    """IoU and accuracy of each class and accuracy of all pixels, unrounded, and the rounded summary."""
    from clip_es.segmentor import prepare

    prepare()
    import torch
    from mmseg.datasets.transforms import LoadAnnotations
    from mmseg.evaluation import IoUMetric

    load = LoadAnnotations(imdecode_backend="pillow")

    def read(path: Path) -> dict:
        loaded = load({"seg_map_path": str(path), "seg_fields": [], "reduce_zero_label": False})["gt_seg_map"]
        return {"data": torch.from_numpy(np.asarray(loaded).astype(np.int64))}

    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": [str(k) for k in range(classes)]}
    for path in sorted((folder / "truth").iterdir()):
        sample = {"pred_sem_seg": read(folder / "made" / path.name), "gt_sem_seg": read(path), "img_path": path.name}
        metric.process({}, [sample])
    areas = [sum(column) for column in zip(*metric.results, strict=True)]
    exact = metric.total_area_to_metrics(*areas, ["mIoU"])
    return exact["IoU"], exact["Acc"], float(exact["aAcc"]), metric.compute_metrics(metric.results)


@pytest.mark.parametrize("undecided", [False, True])
def test_the_figures_are_those_of_mmsegmentations_metric(tmp_path, undecided):
    drawn(0, tmp_path, 7, undecided)
    iou, accuracy, pixels, summary = mmseg_figures(tmp_path, 7)
    result = evaluate(pair(tmp_path / "made", tmp_path / "truth"), 7)
    np.testing.assert_allclose(result.scores.iou, iou, atol=1e-6)
    assert result.scores.miou == pytest.approx(float(iou.mean()), abs=1e-6)
    assert result.scores.mean_accuracy == pytest.approx(float(accuracy.mean()), abs=1e-6)
    assert result.scores.pixel_accuracy == pytest.approx(pixels, abs=1e-6)
    assert round(100 * result.scores.miou, 2) == pytest.approx(summary["mIoU"], abs=0.011)
    assert 0.3 < result.scores.miou < 0.9, "neither perfect nor chance"


def test_a_class_that_is_only_predicted_is_a_zero_in_mmsegmentations_mean_and_in_our_second_one(tmp_path):
    drawn(1, tmp_path, 7, False, absent=(3,))
    iou, accuracy, _, _ = mmseg_figures(tmp_path, 7)
    result = evaluate(pair(tmp_path / "made", tmp_path / "truth"), 7)
    np.testing.assert_allclose(result.scores.iou, iou, atol=1e-6)
    assert iou[3] == 0
    assert result.miou_of_all == pytest.approx(float(np.nanmean(iou)), abs=1e-6)
    assert result.scores.miou == pytest.approx(float(np.delete(iou, 3).mean()), abs=1e-6)
    assert result.scores.mean_accuracy == pytest.approx(float(np.nanmean(accuracy)), abs=1e-6)


@pytest.fixture
def own_run(folders) -> Path:
    """The small folder as a run with two classes of its own."""
    run = folders / "run"
    (run / "labels").parent.mkdir()
    (folders / "made").rename(run / "labels")
    for part in ("masks", "confidence"):
        for name in ("a", "b"):
            put(run / part / f"{name}.png", np.full_like(MADE, 255))
    (run / "run.yaml").write_text("labels: given\nabout: {classes: [tram, kiosk]}\n")
    return run


@pytest.mark.parametrize("inner", ["", "labels"])
def test_a_run_is_scored_by_its_labels_under_its_own_names(own_run, folders, capsys, inner):
    """Given whole it was scored over its confidences too, and the names were those of VOC."""
    out = folders / "figures.json"
    assert main(["evaluate", str(own_run / inner), "--truth", str(folders / "truth"), "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["iou"] == pytest.approx({"background": 80.0, "tram": 50.0, "kiosk": 100.0})
    assert figures["images"] == 2
    assert "labels 0 to 2 are background, tram, kiosk" in " ".join(capsys.readouterr().out.split())


def test_the_undecided_masks_of_a_run_may_be_scored_too_and_its_confidences_not(own_run, folders, capsys):
    truth = ["--truth", str(folders / "truth")]
    assert main(["evaluate", str(own_run / "masks"), *truth, "--undecided", "miss"]) == 0
    assert main(["evaluate", str(own_run / "confidence"), *truth]) == 2
    assert "holds no labels" in capsys.readouterr().err


def test_background_takes_no_part_where_a_run_could_not_decide_for_it(own_run, folders):
    (own_run / "run.yaml").write_text("config: {mask: {background: false}}\nabout: {classes: [tram, kiosk]}\n")
    out = folders / "figures.json"
    assert main(["evaluate", str(own_run), "--truth", str(folders / "truth"), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["iou"] == pytest.approx({"tram": 50.0, "kiosk": 100.0})
