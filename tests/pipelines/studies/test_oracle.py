"""The spectral oracle: a bound that looks at the truth, refuses to work without, and says so everywhere."""

import json

import numpy as np
import pytest

from clip_es.config.run import ImageConfig, SpectralConfig
from clip_es.encoder import load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.studies.oracle import best_in_all, published, spectral_oracle
from clip_es.prompts import load_vocabulary
from clip_es.records import folder, voc
from clip_es.scenes.dataset import ScenesConfig, make
from clip_es.scenes.world import CLASSES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"), ScenesConfig(train=1, val=3, side=(96, 112)))


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("scenes", device="cpu")


def dataset(scenes):
    return voc(scenes, "val", class_id=load_vocabulary("scenes").class_id)


def ask(encoder, data, labels):
    return spectral_oracle(encoder, data, labels, len(CLASSES) + 1, SpectralConfig(), ImageConfig())


def test_perfect_masks_cannot_be_bettered(encoder, scenes):
    result = ask(encoder, dataset(scenes), scenes / "SegmentationClass")
    assert result.miou == (1.0, 1.0, 1.0)
    assert result.chosen == (0, 0)


def test_empty_masks_are_bettered_by_segments_and_never_worsened(encoder, scenes, tmp_path):
    for record in dataset(scenes).records:
        truth = read_mask(scenes / f"SegmentationClass/{record.image_id}.png")
        write_mask(tmp_path / f"{record.image_id}.png", np.zeros_like(truth))
    result = ask(encoder, dataset(scenes), tmp_path)
    masks, _, best = result.iou
    there = ~np.isnan(masks)
    assert (masks[1:][there[1:]] == 0).all()
    assert best[1:][there[1:]].max() > 0.2
    assert (result.inside[1] >= 0).all()
    assert min(result.chosen) > 0


def test_the_published_choice_can_lower_the_iou_over_pictures_and_the_bound_never_does():
    """Mask and one segment in two pictures. In the second the segment has 1/5 and the mask 1/6 of its object."""
    counts = np.array([[[5, 5], [10, 10]], [[1, 20], [6, 100]]])
    assert published(counts).tolist() == [0, 1]
    assert best_in_all(counts).tolist() == [0, 0], "6 / 16 and not 25 / 110"
    rng = np.random.default_rng(0)
    for _ in range(50):
        inside = rng.integers(0, 9, (4, 3))
        union = inside + rng.integers(1, 30, (4, 3))
        some = np.stack([inside, union], axis=1)
        ways = np.stack(np.meshgrid(*4 * [range(3)]), -1).reshape(-1, 4)
        sums = [some[range(4), :, way].sum(0) for way in ways]
        picks = best_in_all(some)
        found = some[range(4), :, picks].sum(0)
        assert found[0] / found[1] == max(a / b for a, b in sums)
    empty = np.zeros((2, 2, 3), dtype=np.int64)
    assert best_in_all(empty).tolist() == [0, 0]


def test_without_truth_it_refuses(encoder, scenes, tmp_path, capsys):
    data = folder(scenes / "JPEGImages", "none", class_id=load_vocabulary("scenes").class_id)
    with pytest.raises(ConfigError, match="ground truth"):
        ask(encoder, data, tmp_path)
    flags = ["--images", str(scenes / "JPEGImages"), str(tmp_path), "--weights", "scenes"]
    assert main(["oracle", "folder", *flags, "--vocabulary", "scenes"]) == 2
    assert "has none" in capsys.readouterr().err
    with pytest.raises(DataError, match="no picture has both"):
        ask(encoder, dataset(scenes), tmp_path)


def test_what_it_writes_is_stamped(scenes, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "oracle"
    assert (
        main(["masks", "scenes", "--root", str(scenes), "--out", str(run), "--refine", "--report-pictures", "0"]) == 0
    )
    before = sorted(path.name for path in run.rglob("*"))
    assert main(["oracle", "scenes", "--root", str(scenes), str(run), "--out", str(out)]) == 0
    told = json.loads((out / "oracle.json").read_text())
    assert "ORACLE" in told["oracle"]
    assert told["miou"] == pytest.approx(json.loads((run / "summary.json").read_text())["miou"])
    assert told["miou_oracle"] >= max(told["miou"], told["miou_published_choice"])
    assert "ORACLE" in (out / "oracle.html").read_text()
    assert "ORACLE" in capsys.readouterr().out
    assert sorted(path.name for path in run.rglob("*")) == before  # a run's folder is left as it is


@pytest.mark.parametrize("flag", ["--oracle", "--refine.spectral.oracle"])
def test_no_run_can_ask_for_it(scenes, tmp_path, flag, capsys):
    assert main(["masks", "scenes", "--root", str(scenes), "--out", str(tmp_path), flag]) == 2
    assert f"there is no flag {flag}" in capsys.readouterr().err
