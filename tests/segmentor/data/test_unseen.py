"""Masks that hold classes which are not to be learnt, from the labels to `clip-es train`."""

from __future__ import annotations

import numpy as np
import pytest

from clip_es.errors import DataError
from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.segmentor import prepare
from clip_es.segmentor.data.pairs import find_pairs
from clip_es.segmentor.data.unseen import seen_labels, without_unseen
from clip_es.segmentor.inference import Segmenter
from clip_es.store.tables import read_json

pytest.importorskip("mmseg")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tiny_training, tmp_path):
    """Six pictures with `left`, of which four hold `right` too."""
    made = tiny_training.make_run(tmp_path / "data")
    for i in (1, 4):
        path = made / "run" / "labels" / f"p{i}.png"
        labels = read_mask(path)
        labels[labels == 2] = 0
        write_mask(path, labels)
    return made


def test_seen_classes_are_numbered_without_gaps_and_unseen_pixels_are_undecided_or_background():
    values = np.array([0, 1, 2, 3, 255], dtype=np.uint8)
    assert seen_labels(4, [2], "ignore")[values].tolist() == [0, 1, 255, 2, 255]
    assert seen_labels(4, [2], "drop")[values].tolist() == [0, 1, 255, 2, 255]
    assert seen_labels(4, [2], "keep")[values].tolist() == [0, 1, 0, 2, 255]


def test_pictures_with_unseen_classes_are_left_out(folder):
    pairs = find_pairs(run=folder / "run")
    assert [pair.image_id for pair in without_unseen(pairs, [2])] == ["p1", "p4"]
    with pytest.raises(DataError, match="every picture holds an unseen class"):
        without_unseen(pairs, [1])


@pytest.mark.parametrize(
    ("mode", "pictures", "at_right"), [("drop", 2, [0]), ("ignore", 6, [0, 255]), ("keep", 6, [0])]
)
def test_the_data_set_of_a_training_holds_what_the_flag_says(folder, mode, pictures, at_right):
    prepare()
    from mmengine.registry import init_default_scope

    from clip_es.segmentor.data.dataset import PseudoMaskDataset

    init_default_scope("mmseg")
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadPseudoMask"}, {"type": "PackPseudoMask"}]
    told = {"unseen": [2], "pictures_with_unseen": mode, "metainfo": {"classes": ("background", "left")}}
    data = PseudoMaskDataset(run=str(folder / "run"), pipeline=steps, **told)
    assert len(data) == pictures
    maps = [data[i]["data_samples"].gt_sem_seg.data[0, 10:30, 24:44].unique().tolist() for i in range(pictures)]
    assert sorted({value for values in maps for value in values}) == at_right


def test_the_command_trains_without_an_unseen_class_and_stamps_how(folder, tmp_path, capsys):
    words = ["train", folder / "run", "--config", "scenes_small", "--head", "pixel-text", "--iterations", "1"]
    words += ["--batch-size", "2", "--workers", "0", "--loss", "plain", "--out", tmp_path / "out"]
    words = [str(word) for word in words]
    for flags, part in (
        (["--pictures-with-unseen", "keep"], "goes with --unseen"),
        (["--unseen", "zebra"], "'zebra' is no class of these masks"),
        (["--unseen", "left,right"], "no class is left"),
        (["--unseen", "left"], "every picture holds an unseen class"),
    ):
        assert main([*words, *flags]) == 2
        assert part in capsys.readouterr().err
    val = ["--val-masks", str(folder / "truth"), "--val-images", str(folder / "images")]
    asked = ["--unseen", "right", "--pictures-with-unseen", "ignore", *val]
    assert main([*words, *asked]) == 0
    record = read_json(tmp_path / "out" / "train.json")
    assert record["data"]["classes"] == ["background", "left"]
    assert record["data"]["train"]["pictures_with_unseen"] == "ignore"
    segmenter = Segmenter.load(tmp_path / "out" / "final.pth", device="cpu")
    segmenter.set_classes([("left",), ("right",)])
    facts = segmenter.text_facts() or {}
    assert facts["unseen_classes"] == ["right"]
    assert (facts["held_out_in_training"], facts["held_out_in_training_pictures"]) == (["right"], "ignore")
    assert main([*words, *asked[:2], *val]) == 2  # Another way with the pictures is another training.
