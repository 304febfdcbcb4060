"""Background as a threshold, and segments by the nearest side, through `clip-es predict`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip_es.masks import read_mask, read_wide_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.predict import decided, without_background
from clip_es.pipelines.segments import SegmentFolder
from clip_es.segmentor.inference import Segmenter
from clip_es.store.manifest import Manifest

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")


def predict(trained, out, *flags):
    """Exit code of the command for one picture."""
    words = ["predict", trained[0], trained[3] / "images" / "p0.png", "--device", "cpu", "--out", out, *flags]
    return main([str(word) for word in words])


def test_pixels_whose_likeliest_class_is_below_the_threshold_are_background():
    shares = torch.tensor([[0.8, 0.2, 0.0], [0.15, 0.6, 0.45], [0.05, 0.2, 0.55]])[:, None]
    among = without_background(shares)
    torch.testing.assert_close(among[:, 0, 0], torch.tensor([0.0, 0.75, 0.25]))
    mask = decided(among, 0.0, 0.7)
    assert mask.labels.tolist() == [[1, 1, 0]]
    np.testing.assert_allclose(mask.confidence, [[0.75, 0.75, 0.45]], rtol=1e-6)
    assert decided(among, 0.0, 0.0).labels.min() == 1


def test_the_row_of_background_counts_for_nothing_beside_a_threshold(trained):
    segmenter = Segmenter.load(trained[0], device="cpu")
    segmenter.set_classes([("cat",), ("dog",), ("left",)], ("sky", "grass"))
    rgb = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    alone = segmenter.probabilities(rgb, background=False)
    assert not alone[0].any()
    torch.testing.assert_close(alone, without_background(segmenter.probabilities(rgb)), atol=1e-5, rtol=1e-4)
    for rows_at_once in (1, 2, 256):
        labels, sure = segmenter.labels(rgb, rows_at_once, background=False)
        torch.testing.assert_close(sure, alone.amax(0), atol=1e-5, rtol=1e-4)
        assert bool((labels > 0).all())


def test_the_command_finds_background_by_a_threshold_and_says_so_in_its_result(trained, tmp_path, capsys):
    asked = ["--classes", "cat,dog,left"]
    for least in (0.0, 0.4, 1.0):
        out = tmp_path / str(least)
        assert predict(trained, out, *asked, "--background-threshold", least, "--confidence") == 0
        labels = read_mask(out / "labels" / "p0.png")
        assert {0.0: (labels > 0).all(), 1.0: (labels == 0).all()}.get(least, True)
        protocol = Manifest.read(out).about["protocol"]
        assert (protocol["background_threshold"], protocol["background_words"]) == (least, [])
    assert predict(trained, tmp_path / "0.4", *asked, "--background-threshold", "0.5", "--confidence") == 2
    capsys.readouterr()
    for flags, part in (
        (["--background-threshold", "0.5"], "goes with --classes"),
        ([*asked, "--background-threshold", "1.5"], "0..1"),
        ([*asked, "--background-threshold", "nan"], "a finite number"),
        ([*asked, "--background-threshold", "0.5", "--background", "sky"], "Pass one of them"),
        (["--classes", "cat", "--background-threshold", "0.5"], "two classes or more"),
    ):
        assert predict(trained, tmp_path / "no", *flags) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_threshold_goes_with_the_vote_the_crf_training_free_and_streamed_classes(trained, tmp_path):
    folder = tmp_path / "segments"
    segments = SegmentFolder(folder, {"test": 1})
    size = read_mask(trained[3] / "run" / "labels" / "p0.png").shape
    halves = (torch.arange(size[1]) >= size[1] // 2).long().expand(size).contiguous()
    segments.save("p0", halves, (halves > 0)[None])
    fuse = ["--fuse", "segments", "--segments", folder, "--fuse-amount", "1"]
    asked = ["--classes", "cat,dog,left"]
    assert predict(trained, tmp_path / "vote", *asked, "--background-threshold", "0.35", *fuse) == 0
    voted = read_mask(tmp_path / "vote" / "masks" / "p0.png")
    assert all(len(np.unique(voted[halves.numpy() == k])) == 1 for k in (0, 1))
    more = ["--crf", "--training-free", "0.5", "--refine.crf.backend", "torch"]
    assert predict(trained, tmp_path / "crf", *asked, "--background-threshold", "0.99", *more) == 0
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {k}" for k in range(300)))
    for least, there in (("0", False), ("1", True)):
        wide = ["--classes", names, "--background-threshold", least]
        assert predict(trained, tmp_path / f"wide{least}", *wide) == 0
        found = read_wide_mask(tmp_path / f"wide{least}" / "masks" / "p0.png")
        assert (found == 0).all() == there
        assert (found == 0).any() == there


def test_the_command_replaces_masks_by_the_nearest_side(trained, tmp_path, capsys):
    asked = ["--classes", "cat,dog", "--unseen-bonus", "20"]  # So background is nowhere.
    assert predict(trained, tmp_path / "plain", *asked) == 0
    plain = read_mask(tmp_path / "plain" / "masks" / "p0.png")
    label = int(np.bincount(plain.ravel()).argmax())
    assert label > 0
    side = plain == label
    side[:2, :2] ^= True  # A little off the mask.
    folder = tmp_path / "segments"
    SegmentFolder(folder, {"test": 1}).save("p0", torch.zeros(plain.shape).long(), torch.from_numpy(side)[None])
    fuse = [*asked, "--fuse", "segments", "--segments", folder, "--fuse-rule", "nearest-side"]
    assert predict(trained, tmp_path / "kept", *fuse, "--fuse-tau", "1") == 0
    assert np.array_equal(read_mask(tmp_path / "kept" / "masks" / "p0.png"), plain)
    assert predict(trained, tmp_path / "near", *fuse) == 0
    near = read_mask(tmp_path / "near" / "masks" / "p0.png")
    assert np.array_equal(near[:2, :2] == label, side[:2, :2])
    assert (near[side & (plain == label)] == label).all()
    for flags, part in (
        (["--fuse-tau", "2"], "--fuse-tau is a share"),
        (["--background-threshold", "0.5"], "--fuse-rule vote"),
    ):
        assert predict(trained, tmp_path / "no", *fuse, *flags) == 2
        assert part in capsys.readouterr().err
