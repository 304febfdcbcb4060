"""Evaluation sets: their numbers for classes become ours, their truth scores, background counts where it is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.commands.masks import score_run
from clip_es.pipelines.commands.sources import Ade20kSource, CityscapesSource, ContextSource
from clip_es.pipelines.commands.truth import Truth
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, ade20k, cityscapes, context


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


def grey(path: Path, rows: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)


def make_ade(root: Path, *rows: list[list[int]]) -> Path:
    for number, values in enumerate(rows, start=1):
        picture(root / f"images/validation/ADE_val_{number:08d}.jpg")
        grey(root / f"annotations/validation/ADE_val_{number:08d}.png", values)
    return root


CITY = "frankfurt_000000_000294"


def make_city(root: Path, values: list[list[int]], kind: str = "labelIds") -> Path:
    picture(root / f"leftImg8bit/val/frankfurt/{CITY}_leftImg8bit.png")
    grey(root / f"gtFine/val/frankfurt/{CITY}_gtFine_{kind}.png", values)
    return root


def make_context(root: Path, values: list[list[int]], listed: str | None = "2008_000002\n") -> Path:
    picture(root / "JPEGImages/2008_000002.jpg")
    grey(root / "SegmentationClassContext/2008_000002.png", values)
    if listed is not None:
        (root / "ImageSets/SegmentationContext").mkdir(parents=True)
        (root / "ImageSets/SegmentationContext/val.txt").write_text(listed)
    return root


def truth(data: Dataset) -> list:
    return data.read_truth(data.records[0].image_id).tolist()


def test_zero_of_ade20k_is_ignored_and_its_classes_keep_their_numbers(tmp_path):
    data = ade20k(make_ade(tmp_path, [[0, 1, 150], [3, 3, 1]]))
    assert [(r.image_id, r.class_ids) for r in data.records] == [("ADE_val_00000001", (0, 2, 149))]
    assert truth(data) == [[255, 1, 150], [3, 3, 1]]
    assert (data.has_background, data.problems) == (False, ())


def test_label_ids_of_cityscapes_become_train_ids(tmp_path):
    # road 7 -> 0, sidewalk 8 -> 1, sky 23 -> 10, bicycle 33 -> 18; ego vehicle 1, trailer 30 and 255 are not evaluated.
    data = cityscapes(make_city(tmp_path, [[7, 8, 23], [33, 1, 30]]))
    assert [(r.image_id, r.class_ids) for r in data.records] == [(CITY, (0, 1, 10, 18))]
    assert truth(data) == [[1, 2, 11], [19, 255, 255]]
    assert data.records[0].path.name == f"{CITY}_leftImg8bit.png"
    assert data.records[0].path.is_file()


def test_train_ids_of_cityscapes_are_read_where_there_are_only_those(tmp_path):
    data = cityscapes(make_city(tmp_path, [[0, 18, 255], [10, 10, 10]], "labelTrainIds"))
    assert (truth(data), data.records[0].class_ids) == ([[1, 19, 255], [11, 11, 11]], (0, 10, 18))


def test_the_rest_of_pascal_context_is_ignored_or_background(tmp_path):
    make_context(tmp_path, [[0, 1, 59], [0, 0, 7]])
    data = context(tmp_path)
    assert (truth(data), data.has_background) == ([[255, 1, 59], [255, 255, 7]], False)
    data = context(tmp_path, background="class")
    assert (truth(data), data.has_background) == ([[0, 1, 59], [0, 0, 7]], True)
    assert data.records[0].class_ids == (0, 6, 58)


def test_without_a_list_every_mask_of_pascal_context_counts(tmp_path):
    make_context(tmp_path, [[1, 1, 1]], listed=None)
    grey(tmp_path / "SegmentationClassContext/other.png", [[1]])
    data = context(tmp_path)
    assert [r.image_id for r in data.records] == ["2008_000002"]
    assert "'other', which has no picture" in data.problems[0].reason


def test_small_classes_are_no_labels_and_empty_pictures_are_left_out(tmp_path):
    make_ade(tmp_path, [[1, 1, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]])
    data = ade20k(tmp_path, min_area=2)
    assert [r.class_ids for r in data.records] == [(0,)]
    assert data.notes == ("1 picture left out: no class in the mask.",)


def test_without_labels_no_mask_is_read(tmp_path):
    make_ade(tmp_path, [[1, 1, 2]])
    (tmp_path / "annotations/validation/ADE_val_00000001.png").write_bytes(b"no mask")
    data = ade20k(tmp_path, labelled=False)
    assert ([r.class_ids for r in data.records], data.problems) == ([()], ())


@pytest.mark.parametrize("value", [151, 254])
def test_a_value_that_the_set_does_not_have_is_a_problem(tmp_path, value):
    data = ade20k(make_ade(tmp_path, [[1, value, 2]], [[5, 5, 5]]))
    assert [r.image_id for r in data.records] == ["ADE_val_00000002"]
    assert "Expected 0..150." in data.problems[0].reason
    assert str(value) in data.problems[0].reason


def test_a_missing_or_damaged_mask_is_a_problem(tmp_path):
    make_ade(tmp_path, [[1]], [[1]], [[1]])
    (tmp_path / "annotations/validation/ADE_val_00000001.png").unlink()
    (tmp_path / "annotations/validation/ADE_val_00000002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = ade20k(tmp_path)
    assert [r.image_id for r in data.records] == ["ADE_val_00000003"]
    assert "has no mask" in data.problems[0].reason
    assert "must be a PNG file" in data.problems[1].reason


def test_other_folders_and_other_vocabularies_are_refused(tmp_path):
    for reader in (ade20k, cityscapes, context):
        with pytest.raises(DataError, match="is not a folder in the layout of"):
            reader(tmp_path / "none")
    with pytest.raises(ConfigError, match="different classes"):
        ade20k(make_ade(tmp_path, [[1]]), class_count=20)


@pytest.mark.parametrize(("name", "count"), [("ade20k", 150), ("cityscapes", 19), ("context", 59)])
def test_each_set_has_its_vocabulary_without_background_words(name, count):
    words = load_vocabulary(name)
    assert (len(words.classes), words.background) == (count, ())
    first = {"ade20k": ("wall", "flag"), "cityscapes": ("road", "bicycle"), "context": ("aeroplane", "wood")}
    assert (words.names[0], words.names[-1]) == first[name]


@pytest.mark.slow
def test_the_names_stand_in_the_order_that_mmsegmentation_has():
    datasets = pytest.importorskip("mmseg.datasets")
    kinds = {"ade20k": "ADE20KDataset", "cityscapes": "CityscapesDataset", "context": "PascalContextDataset59"}
    for name, kind in kinds.items():
        known = [word.strip() for word in getattr(datasets, kind).METAINFO["classes"]]
        assert list(load_vocabulary(name).names) == known


def test_masks_of_a_set_are_scored_by_its_own_truth_without_background(tmp_path):
    data = ade20k(make_ade(tmp_path / "ade", [[0, 1, 1], [2, 2, 2]]))
    (tmp_path / "run/labels").mkdir(parents=True)
    write_mask(tmp_path / "run/labels/ADE_val_00000001.png", np.array([[7, 1, 0], [2, 2, 1]], np.uint8))
    scores = score_run(tmp_path / "run", data, load_vocabulary("ade20k"))
    assert scores is not None
    # wall: 1 of 1 + a miss + one too many; building: 2 of 3. What is predicted where nothing is known does not count.
    assert scores.scores.iou[1:3].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert np.isnan(scores.scores.iou[[0, 7]]).all()
    assert scores.scores.miou == pytest.approx(1 / 2)
    assert scores.miou_of_all == pytest.approx(1 / 2)


def test_truth_is_written_with_our_values(tmp_path):
    make_ade(tmp_path / "ade", [[0, 1, 150]])
    make_city(tmp_path / "city", [[7, 33, 4]])
    make_context(tmp_path / "context", [[0, 1, 59]])
    assert Truth.of(Ade20kSource(root=tmp_path / "ade"), out=tmp_path / "a").run() == 0
    assert Truth.of(CityscapesSource(root=tmp_path / "city"), out=tmp_path / "b").run() == 0
    assert Truth.of(ContextSource(root=tmp_path / "context", background="class"), out=tmp_path / "c").run() == 0
    assert read_mask(tmp_path / "a/ADE_val_00000001.png").tolist() == [[255, 1, 150]]
    assert read_mask(tmp_path / f"b/{CITY}.png").tolist() == [[1, 19, 255]]
    assert read_mask(tmp_path / "c/2008_000002.png").tolist() == [[0, 1, 59]]
