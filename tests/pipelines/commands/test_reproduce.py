"""The published protocol on made-up data sets and tiny weights: what it prints, writes and continues."""

from __future__ import annotations

import hashlib
import json

import pytest
from recorded import GOLDEN

from clip_es.masks import write_mask
from clip_es.pipelines.cli import main

TINY = str(GOLDEN / "tiny224.pt")


@pytest.mark.parametrize("preset", ["default", "best"])
def test_voc_is_evaluated_before_and_after_the_crf_beside_the_published_figures(golden_voc, tmp_path, capsys, preset):
    out = tmp_path / "out"
    asked = ["reproduce", "voc12", "--root", str(golden_voc), "--weights", TINY, "--preset", preset]
    asked += ["--out", str(out), "--workers", "0", "--device", "cpu"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "70.8" in told
    assert "75.0" in told
    record = json.loads((out / "reproduce.json").read_text())
    assert [row["step"] for row in record["rows"]] == ["before the CRF", "with the CRF"]
    assert [row["published"] for row in record["rows"]] == [70.8, 75.0]
    for row in record["rows"]:
        assert row["pictures"] == 3
        assert row["difference"] == pytest.approx(row["miou"] - row["published"])
    assert {"weights", "text", "labels", "list"} <= record["sha256"].keys()
    listed = golden_voc / "ImageSets/Segmentation/train.txt"
    assert record["sha256"]["list"] == hashlib.sha256(listed.read_bytes()).hexdigest()[:32]

    mask = next((out / "with-the-crf/masks").iterdir())
    before = mask.stat().st_mtime_ns
    assert main(asked) == 0
    assert mask.stat().st_mtime_ns == before
    assert "3 done before, 0 to do" in capsys.readouterr().out


def test_coco_is_evaluated_with_masks_of_the_ground_truth(made_up_coco, tmp_path, capsys):
    coco = made_up_coco(tmp_path / "coco", 4)
    truth = tmp_path / "truth"
    truth.mkdir()
    for name, mask in coco.truth.items():
        write_mask(truth / f"{name}.png", mask)
    asked = ["reproduce", "coco14", "--root", str(coco.root), "--weights", TINY, "--preset", "default"]
    asked += ["--truth", str(truth), "--out", str(tmp_path / "out"), "--workers", "0", "--device", "cpu"]
    assert main(asked) in (0, 1)
    assert "39.7" in capsys.readouterr().out
    record = json.loads((tmp_path / "out/reproduce.json").read_text())
    assert [row["published"] for row in record["rows"]] == [39.7, None]
    assert "annotations" in record["sha256"]


def test_masks_without_ground_truth_are_kept_and_the_reason_is_said(golden_voc, tmp_path, capsys):
    for path in (golden_voc / "SegmentationClassAug").iterdir():
        path.unlink()
    (golden_voc / "SegmentationClassAug").rmdir()
    out = tmp_path / "out"
    asked = ["reproduce", "voc12", "--root", str(golden_voc), "--weights", TINY, "--preset", "default"]
    assert main([*asked, "--out", str(out), "--workers", "0"]) == 2
    assert "no ground truth" in capsys.readouterr().err
    assert len(list((out / "before-the-crf/masks").iterdir())) == 3


def test_an_unknown_preset_is_refused(golden_voc, tmp_path, capsys):
    asked = ["reproduce", "voc12", "--root", str(golden_voc), "--weights", TINY, "--preset", "bset"]
    assert main([*asked, "--out", str(tmp_path)]) == 2
    assert "no such preset" in capsys.readouterr().err
