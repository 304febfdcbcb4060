"""One union of data sources: every command takes each of them; labels and truth are numbered as in the vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.commands import sources
from clip_es.pipelines.commands.data_source import DataSource
from clip_es.pipelines.commands.masks import score_run
from clip_es.pipelines.commands.sources import (
    Ade20kSource,
    Coco14Source,
    FolderSource,
    ScenesSource,
    Voc12Source,
)
from clip_es.pipelines.table import COMMANDS, ON_SOURCES, SOURCES
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset

XML = "<annotation><object><name>{}</name></object></annotation>"


@pytest.fixture
def voc(tmp_path) -> Path:
    """One picture of a cat (label 8) on a sofa (label 18), in the layout and with the numbers of VOC."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "SegmentationClass"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (3, 1)).save(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "Annotations" / "a.xml").write_text(XML.format("cat"))
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    write_mask(tmp_path / "SegmentationClass" / "a.png", np.array([[0, 8, 18]], np.uint8))
    return tmp_path


def truth(data: Dataset) -> list:
    return data.read_truth("a").tolist()


def test_every_command_on_data_takes_every_source():
    assert {name for name in COMMANDS if COMMANDS[name].source} == {f"{c} {s}" for c in ON_SOURCES for s in SOURCES}
    for kind, _ in SOURCES.values():
        assert issubclass(getattr(sources, kind), DataSource)


def test_truth_is_brought_into_the_order_of_the_vocabulary(voc, tmp_path):
    names = load_vocabulary("voc12").names
    (tmp_path / "back.yaml").write_text("classes: [" + ", ".join(reversed(names)) + "]\n")
    words = load_vocabulary(tmp_path / "back.yaml")
    data = Voc12Source(root=voc).dataset(words)
    assert data.records[0].class_ids == (words.class_id("cat"),)
    assert truth(data) == [[0, words.class_id("cat") + 1, words.class_id("sofa") + 1]] == [[0, 13, 3]]


def test_masks_of_a_vocabulary_in_another_order_score_what_they_deserve(voc, tmp_path):
    """The very truth as a mask has an IoU of 1 for each class. Compared by number it had 0."""
    (tmp_path / "two.yaml").write_text("classes: [sofa, cat]\nbackground: []\n")
    words = load_vocabulary(tmp_path / "two.yaml")
    (tmp_path / "run" / "labels").mkdir(parents=True)
    write_mask(tmp_path / "run" / "labels" / "a.png", np.array([[0, 2, 1]], np.uint8))
    scores = score_run(tmp_path / "run", Voc12Source(root=voc).dataset(words), words)
    assert scores is not None
    assert scores.scores.iou.tolist() == [1, 1, 1]


def test_a_class_that_the_vocabulary_lacks_is_background_and_said_to_be(voc):
    data = Voc12Source(root=voc).dataset(load_vocabulary("dog,cat"))
    assert truth(data) == [[0, 2, 0]]
    assert data.notes[0].startswith("Not in names, so background in the ground truth: aeroplane, bicycle,")


def test_own_classes_in_the_layout_of_voc_have_their_own_numbers(voc):
    (voc / "Annotations" / "a.xml").write_text(XML.format("rose"))
    write_mask(voc / "SegmentationClass" / "a.png", np.array([[0, 1, 2]], np.uint8))
    data = Voc12Source(root=voc).dataset(load_vocabulary("rose,tulip"))
    assert (data.truth_table, truth(data)) == (None, [[0, 1, 2]])


def test_where_the_order_of_the_truth_is_not_known_it_is_asked_for(voc, tmp_path):
    words = load_vocabulary("cat,rose")
    with pytest.raises(ConfigError, match=r"cat in both; rose in names alone.* --truth-vocabulary voc12"):
        Voc12Source(root=voc).dataset(words)
    assert truth(Voc12Source(root=voc, truth_vocabulary="voc12").dataset(words)) == [[0, 1, 0]]
    write_mask(voc / "SegmentationClass" / "a.png", np.array([[0, 1, 2]], np.uint8))
    assert truth(Voc12Source(root=voc, truth_vocabulary="cat,rose").dataset(words)) == [[0, 1, 2]]


def test_scenes_have_the_order_of_scenes(voc):
    (voc / "ImageSets/Segmentation/val.txt").write_text("a\n")
    names = load_vocabulary("scenes").names
    write_mask(voc / "SegmentationClass" / "a.png", np.array([[0, 1, 2]], np.uint8))
    data = ScenesSource(root=voc).dataset(load_vocabulary(f"{names[1]},cat,{names[0]}"))
    assert truth(data) == [[0, 3, 1]]


@pytest.mark.parametrize(
    ("source", "name"), [(Ade20kSource(), "ade20k"), (Coco14Source(list_file=Path("x")), "coco14")]
)
def test_sets_that_number_their_labels_refuse_another_order(source, name, tmp_path):
    names = list(load_vocabulary(name).names)
    names[0], names[3] = names[3], names[0]
    (tmp_path / "swapped.yaml").write_text("classes: [" + ", ".join(f"'{word}'" for word in names) + "]\n")
    with pytest.raises(ConfigError, match=f"numbers in the order of {name}; swapped has another one"):
        source.dataset(load_vocabulary(tmp_path / "swapped.yaml"))


def test_truth_of_voc_is_written_with_the_numbers_of_the_vocabulary(voc, tmp_path, capsys):
    out = tmp_path / "truth"
    assert main(["truth", "voc12", "--root", str(voc), "--vocabulary", "sofa,cat", "--out", str(out)]) == 0
    assert read_mask(out / "a.png").tolist() == [[0, 2, 1]]
    assert "1 mask: " in capsys.readouterr().out


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("cat/a.png", "dog/b.png", "dog/c.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / name)
    return tmp_path


def test_the_classes_of_a_folder_are_those_of_its_sub_folders(folder, capsys):
    words = FolderSource(images=folder / "pictures", labels="subfolders").words(None)
    assert (words.names, words.templates) == (("cat", "dog"), ("a photo of a {}.",))
    assert "2 classes from" in capsys.readouterr().out


def test_the_classes_of_a_folder_are_those_of_its_table_each_once(folder):
    table = folder / "labels.csv"
    table.write_text("image,labels\ncat/a.png,traffic light;cat\ndog/b.png,Traffic_Light\ndog/c.png,dog\n")
    words = FolderSource(images=folder / "pictures", labels=str(table)).words(None)
    assert words.names == ("Traffic_Light", "cat", "dog")
    assert words.class_id("traffic light") == 0


def test_without_labels_the_classes_are_asked_for(folder, capsys):
    assert main(["masks", "folder", "--images", str(folder / "pictures"), "--out", str(folder / "run")]) == 2
    error = capsys.readouterr().err
    assert "which classes are to be looked for?" in error
    assert "--labels subfolders" in error


def test_a_table_of_numbers_has_no_names(folder):
    (folder / "labels.txt").write_text("cat/a.png 3\n")
    with pytest.raises(DataError, match=r"numbers its classes.*--vocabulary"):
        FolderSource(images=folder / "pictures", labels=str(folder / "labels.txt")).words(None)


def test_pictures_without_a_row_are_counted(folder, capsys):
    (folder / "labels.csv").write_text("image,labels\ncat/a.png,cat\n")
    call = ["check", "folder", "--images", str(folder / "pictures"), "--labels", str(folder / "labels.csv")]
    assert main([*call, "--no-estimate", "--out", str(folder / "found.csv")]) == 0
    rows = [line.split(",")[1:4] for line in (folder / "found.csv").read_text().splitlines()]
    assert [row for row in rows if row[0] == "no row"] == [["no row", "", "dog/b.png"], ["no row", "", "dog/c.png"]]


def test_a_comma_between_labels_gets_the_right_separator(folder):
    (folder / "labels.csv").write_text('image,labels\ncat/a.png,"cat,cup"\n')
    source = FolderSource(images=folder / "pictures", labels=str(folder / "labels.csv"))
    (problem,) = source.dataset(load_vocabulary("cat,cup")).problems
    assert "Pass --label-separator ','" in problem.reason
    data = replace(source, label_separator=",").dataset(load_vocabulary("cat,cup"))
    assert (data.records[0].class_ids, data.problems) == ((0, 1), ())


def test_links_to_folders_are_followed_once(folder):
    (folder / "pictures" / "again").symlink_to(folder / "pictures")
    (folder / "elsewhere").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "elsewhere" / "d.png")
    (folder / "pictures" / "linked").symlink_to(folder / "elsewhere")
    data = FolderSource(images=folder / "pictures").dataset(load_vocabulary("cat"), labelled=False)
    assert [record.image_id for record in data.records] == ["cat__a", "dog__b", "dog__c", "linked__d"]
