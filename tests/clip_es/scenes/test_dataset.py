"""Scenes as a folder in VOC layout: what lies where, and that a second call only writes what is missing."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError
from clip_es.scenes.dataset import ScenesConfig, make, scene_of
from clip_es.scenes.draw import CLASSES

SMALL = ScenesConfig(train=3, val=2, side=(40, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes") / "scenes", SMALL)


def test_the_lists_name_the_pictures_that_are_there(folder):
    train = (folder / "ImageSets/Segmentation/train.txt").read_text().split()
    val = (folder / "ImageSets/Segmentation/val.txt").read_text().split()
    assert (len(train), len(val)) == (3, 2)
    for part, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClass", ".png")):
        assert {path.name for path in (folder / part).iterdir()} == {image_id + ending for image_id in (*train, *val)}


def test_annotations_tell_the_size_and_every_object(folder):
    scene = scene_of(SMALL, "val", 1)
    tree = ElementTree.parse(folder / "Annotations/val_000001.xml")
    assert (int(tree.findtext("size/height")), int(tree.findtext("size/width"))) == scene.mask.shape
    assert [element.findtext("name") for element in tree.findall("object")] == [
        CLASSES[thing.class_id] for thing in scene.objects
    ]
    box = tree.find("object/bndbox")
    x0, y0, x1, y1 = scene.objects[0].box
    assert [int(box.findtext(name)) for name in ("xmin", "ymin", "xmax", "ymax")] == [x0 + 1, y0 + 1, x1, y1]


def test_masks_are_palette_files_with_the_drawn_labels(folder):
    mask = Image.open(folder / "SegmentationClass/train_000002.png")
    assert mask.mode == "P"
    assert mask.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert np.array_equal(np.asarray(mask), scene_of(SMALL, "train", 2).mask)


def test_pictures_are_the_drawn_ones_but_for_jpeg(folder):
    picture = np.asarray(Image.open(folder / "JPEGImages/train_000000.jpg"), np.int16)
    assert np.abs(picture - scene_of(SMALL, "train", 0).picture).mean() < 3


def test_a_second_call_writes_only_what_is_missing(folder):
    lost, kept = folder / "Annotations/train_000001.xml", folder / "JPEGImages/train_000000.jpg"
    before, text = kept.stat().st_mtime_ns, lost.read_text()
    lost.unlink()
    make(folder, SMALL)
    assert lost.read_text() == text
    assert kept.stat().st_mtime_ns == before


def test_a_larger_split_begins_with_the_smaller_one(tmp_path):
    make(tmp_path / "a", ScenesConfig(1, 0, side=(40, 60)))
    first = (tmp_path / "a/JPEGImages/train_000000.jpg").read_bytes()
    make(tmp_path / "a", ScenesConfig(2, 1, side=(40, 60)))
    assert (tmp_path / "a/JPEGImages/train_000000.jpg").read_bytes() == first
    assert (tmp_path / "a/ImageSets/Segmentation/train.txt").read_text() == "train_000000\ntrain_000001\n"


def test_every_picture_shows_as_many_classes_as_asked():
    for least in (1, 2, 3):
        config = ScenesConfig(side=(40, 60), least_classes=least)
        counts = [len(scene_of(config, "val", number).class_ids) for number in range(40)]
        assert min(counts) == least


def test_settings_that_cannot_work_are_refused():
    for wrong in ({"train": -1}, {"side": (60, 40)}, {"least_classes": 9}):
        with pytest.raises(ConfigError):
            ScenesConfig(**wrong)


def test_train_and_val_share_no_scene():
    assert not np.array_equal(scene_of(SMALL, "train", 0).mask, scene_of(SMALL, "val", 0).mask)


def test_progress_counts_every_picture(tmp_path):
    seen = []
    make(tmp_path / "a", SMALL, lambda done, total: seen.append((done, total)))
    assert seen == [(number, 5) for number in range(1, 6)]


def test_a_folder_of_other_settings_is_refused(folder):
    with pytest.raises(ConfigError, match="other settings"):
        make(folder, ScenesConfig(3, 2, seed=1, side=(40, 60)))


def test_a_folder_with_another_data_set_is_refused(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(ConfigError, match="another data set"):
        make(tmp_path, SMALL)


def test_a_damaged_settings_file_is_refused(tmp_path):
    make(tmp_path, ScenesConfig(1, 0, side=(40, 60)))
    (tmp_path / "scenes.json").write_text("{")
    with pytest.raises(ConfigError, match="other settings"):
        make(tmp_path, ScenesConfig(1, 0, side=(40, 60)))


def test_the_settings_are_written_beside_the_pictures(folder):
    assert json.loads((folder / "scenes.json").read_text())["seed"] == SMALL.seed
