"""The command line with `--preset reference` against arrays recorded from the published code, stage by stage.

The published arithmetic gave its very bits where the arrays were recorded; other processors may round otherwise, so the
tolerances are those of golden/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import NEAR_THRESHOLD, recorded
from seeded_clip import DIGEST, digest, vit_b_16

from clip_es.pipelines.cli import main


def run(root: Path, out: Path, weights: Path, *flags: str) -> None:
    arguments = ["masks", "voc12", "--root", str(root), "--out", str(out), "--weights", str(weights)]
    assert main([*arguments, "--keep-cams", "full", "--report-pictures", "0", *flags]) == 0


def tell(case: str, ours: np.lib.npyio.NpzFile, theirs: dict[str, np.ndarray]) -> None:
    """The differences, for `pytest -s`."""
    names = {"scores": "scores", "cam": "cam", "refined": "cam_refined", "probabilities": "crf_prob"}
    found = (f"{a} {difference(ours[a], theirs[b]):.1e}" for a, b in names.items() if b in theirs)
    sys.stdout.write(f"{case}: {', '.join(found)}\n")


def difference(ours: np.ndarray, recorded: np.ndarray) -> float:
    return float(np.abs(ours - recorded).max())


def compare(case: str, golden: Path, out: Path, model: str = "tiny224") -> None:
    name = f"{case}/{model}"
    theirs, ours = recorded(name), np.load(out / "cams" / f"{case}.npz")
    tell(name, ours, theirs)
    assert ours["class_ids"].tolist() == theirs["keys"].tolist()
    assert difference(ours["scores"], theirs["scores"]) < 1e-6
    assert difference(ours["cam"], theirs["cam"]) < 1e-5
    assert difference(ours["refined"], theirs["cam_refined"]) < 1e-5
    assert difference(ours["probabilities"], theirs["crf_prob"]) < 1e-3
    mask, published = (
        np.asarray(Image.open(path)) for path in (out / "masks" / f"{case}.png", golden / f"{name}_pseudo_mask.png")
    )
    assert (mask != published).sum() <= NEAR_THRESHOLD[name]
    decided = np.asarray(Image.open(out / "labels" / f"{case}.png"))
    assert (decided != theirs["label_crf"]).sum() <= 3


def test_the_reference_preset_computes_what_the_published_code_computes(golden_voc, golden, tmp_path):
    run(golden_voc, tmp_path / "run", golden / "tiny224.pt", "--preset", "reference")
    for case in ("astronaut_150x131", "coffee_333x500", "rocket_17x400"):
        compare(case, golden, tmp_path / "run")


def test_a_turned_picture_fails_in_the_crf_as_published_and_keeps_its_maps(golden_voc, golden, tmp_path):
    """The published maps ignore the EXIF orientation and its CRF applies it, so the two have different sizes."""
    case = "astronaut_150x131"
    path = golden_voc / "JPEGImages" / f"{case}.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:])
    arguments = ["masks", "voc12", "--root", str(golden_voc), "--weights", str(golden / "tiny224.pt")]
    arguments += ["--keep-cams", "full", "--report-pictures", "0"]
    assert main([*arguments, "--out", str(tmp_path / "published"), "--preset", "reference"]) == 1
    assert "EXIF" in (tmp_path / "published" / "failures.csv").read_text()
    theirs, ours = (np.load(p) for p in (golden / case / "tiny224.npz", tmp_path / f"published/cams/{case}.npz"))
    assert difference(ours["refined"], theirs["cam_refined"]) < 1e-5
    assert not (tmp_path / "published" / "masks" / f"{case}.png").exists()
    assert main([*arguments, "--out", str(tmp_path / "ours")]) == 0
    assert np.load(tmp_path / "ours" / "cams" / f"{case}.npz")["probabilities"].shape[1:] == (131, 150)


def test_the_fast_arithmetic_gives_the_same_maps_to_rounding(golden_voc, golden, tmp_path):
    run(golden_voc, tmp_path / "run", golden / "tiny224.pt", "--preset", "reference", "--arithmetic", "fast")
    for case in ("astronaut_150x131", "coffee_333x500", "rocket_17x400"):
        theirs, ours = np.load(golden / case / "tiny224.npz"), np.load(tmp_path / "run" / "cams" / f"{case}.npz")
        assert difference(ours["scores"], theirs["scores"]) < 3e-6
        assert difference(ours["cam"], theirs["cam"]) < 1e-5
        assert difference(ours["refined"], theirs["cam_refined"]) < 1e-5


def test_two_labels_whose_order_is_not_that_of_the_classes(tmp_path, golden, voc_tree):
    root = voc_tree(tmp_path / "voc", [golden / "chelsea_214x198"])
    run(root, tmp_path / "run", golden / "tiny224.pt", "--preset", "reference")
    compare("chelsea_214x198", golden, tmp_path / "run")


def test_the_default_preset_lets_boxes_reach_the_border(golden_voc, golden, tmp_path):
    """The one default that changes maps: nothing else differs before the affinity."""
    for name in ("reference", "default"):
        run(golden_voc, tmp_path / name, golden / "tiny224.pt", "--preset", name, "--refine", "affinity")
    for case in ("astronaut_150x131", "coffee_333x500"):
        published, ours = (np.load(tmp_path / name / "cams" / f"{case}.npz") for name in ("reference", "default"))
        assert difference(ours["cam"], published["cam"]) < 1e-5
        assert difference(ours["refined"], published["refined"]) > 1e-4


@pytest.mark.slow
def test_a_tower_of_full_size_through_the_command_line(tmp_path, golden, voc_tree):
    arrays, weights = vit_b_16(), tmp_path / "vit-b-16.pt"
    assert digest(arrays) == DIGEST, "the weights are those of the recording"
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, weights)
    root = voc_tree(tmp_path / "voc", [golden / "chelsea_214x198"])
    run(root, tmp_path / "run", weights, "--preset", "reference")
    compare("chelsea_214x198", golden, tmp_path / "run", "vit-b-16")
