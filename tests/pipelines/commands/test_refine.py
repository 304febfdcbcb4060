"""Maps of another method become masks; the published maps of CLIP-ES become its published masks, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded import CASES, GOLDEN, recorded

from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.store.failures import read_failures
from clip_es.store.manifest import Manifest


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Maps as CLIP-ES's code saves them, and their pictures."""
    for name in ("maps", "pictures"):
        (tmp_path / name).mkdir()
    for case in CASES:
        arrays = recorded(f"{case}/tiny224")
        held = {"keys": arrays["keys"], "attn_highres": arrays["attn_highres_f16"]}
        np.save(tmp_path / "maps" / f"{case}.npy", held)
        shutil.copy(GOLDEN / case / "image.jpg", tmp_path / "pictures" / f"{case}.jpg")
    return tmp_path


def refine(root: Path, *flags: str, maps: str = "maps") -> int:
    arguments = ["refine", "--maps", str(root / maps), "--images", str(root / "pictures"), "--out", str(root / "run")]
    return main([*arguments, "--workers", "0", *flags])


def test_published_maps_become_the_published_masks_bit_for_bit(published):
    pytest.importorskip("pydensecrf")
    pytest.importorskip("cv2")
    assert refine(published, "--preset", "reference", "--report-pictures", "1") == 0
    for case in CASES:
        theirs = np.asarray(Image.open(GOLDEN / case / "tiny224_pseudo_mask.png"))
        assert (read_mask(published / "run/masks" / f"{case}.png") != theirs).sum() == 0
        assert (
            read_mask(published / "run/labels" / f"{case}.png") != recorded(f"{case}/tiny224")["label_crf"]
        ).sum() == 0
    assert "maps that another method has made" in (published / "run/report.html").read_text()


def test_without_a_refiner_the_strongest_map_wins_and_the_second_call_continues(published, capsys):
    for case in CASES:
        arrays = recorded(f"{case}/tiny224")
        shutil.rmtree(published / "maps" / case, ignore_errors=True)
        np.savez(published / "maps" / f"{case}.npz", class_ids=arrays["keys"], maps=arrays["attn_highres_f16"])
        (published / "maps" / f"{case}.npy").unlink()
    assert refine(published, "--refine", "--mask.half", "--report-pictures", "0") == 0
    for case in CASES:
        decided = read_mask(published / "run/labels" / f"{case}.png")
        assert np.array_equal(decided, recorded(f"{case}/tiny224")["label_a1"])
    assert refine(published, "--refine", "--mask.half", "--report-pictures", "0") == 0
    assert "4 done before, 0 to do" in capsys.readouterr().out


def test_masks_are_evaluated_and_a_bad_file_costs_its_picture_alone(published, capsys):
    (published / "truth").mkdir()
    for case in CASES:
        write_mask(published / "truth" / f"{case}.png", recorded(f"{case}/tiny224")["label_a1"])
    (published / "maps" / f"{CASES[0]}.npy").write_bytes(b"no maps")
    shutil.copy(published / f"pictures/{CASES[0]}.jpg", published / "pictures/more.jpg")
    np.savez(published / "maps/nobody.npz", keys=np.array([0]), maps=np.ones((1, 2, 2)))
    assert refine(published, "--refine", "--mask.half", "--truth", str(published / "truth")) == 1
    assert "1 picture of " in (out := capsys.readouterr().out)
    assert "without maps, such as more.jpg" in out
    failures = {row.image_id: row.reason for row in read_failures(published / "run/failures.csv")}
    assert failures.keys() == {CASES[0], "nobody"}
    assert "no picture for these maps" in failures["nobody"]
    summary = json.loads((published / "run/summary.json").read_text())
    assert summary["images"]["done"] == 3
    assert summary["miou"] == pytest.approx(100)


def test_affinity_asks_the_frozen_clip(published):
    weights = ("--weights", str(GOLDEN / "tiny224.pt"), "--refine", "affinity", "--report-pictures", "1")
    assert refine(published, *weights) == 0
    labels = read_mask(published / "run/labels" / f"{CASES[0]}.png")
    arrays = recorded(f"{CASES[0]}/tiny224")
    assert labels.shape == arrays["label_a1"].shape
    assert set(np.unique(labels)) <= {0, *(arrays["keys"] + 1)}


def test_maps_on_their_side_are_refused(published, tmp_path):
    case = CASES[0]
    for path in (published / "maps").iterdir():
        path.unlink()
    arrays = recorded(f"{case}/tiny224")
    turned = arrays["attn_highres_f16"].transpose(0, 2, 1)
    np.savez(published / "maps" / f"{case}.npz", keys=arrays["keys"], maps=turned)
    assert refine(published, "--refine") == 1
    assert "lie on their side" in read_failures(published / "run/failures.csv")[0].reason


def test_folders_that_do_not_belong_together_are_named(published, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    shutil.move(published / "pictures", tmp_path / "moved")
    (published / "pictures").mkdir()
    assert refine(published) == 2
    assert "none of these pictures has maps" in capsys.readouterr().err
    assert refine(published, "--preset", "nothing") == 2
    assert "no such preset" in capsys.readouterr().err


def test_the_settings_of_a_run_are_given_back(published):
    own = ("--refine", "--mask.half", "--scale", "min-max", "--mask.threshold", "0.7", "--report-pictures", "0")
    assert refine(published, *own) == 0
    (published / "run").rename(published / "first")
    config = ("--config", str(published / "first/run.yaml"), "--report-pictures", "0")
    assert refine(published, *config) == 0
    assert Manifest.read(published / "run").settings == Manifest.read(published / "first").settings
    for path in (published / "first/masks").iterdir():
        assert path.read_bytes() == (published / "run/masks" / path.name).read_bytes()
    assert refine(published, *config, "--preset", "reference") == 2
    text = (published / "first/run.yaml").read_text()
    (published / "first/run.yaml").write_text(text.replace("scale: min-max", "scale: some"))
    assert refine(published, *config) == 2
