"""`clip-es train` as its user meets it."""

from __future__ import annotations

import pytest

from clip_es.errors import ConfigError, DataError
from clip_es.pipelines.cli import main, parse
from clip_es.pipelines.commands.masks import picture_folder
from clip_es.pipelines.commands.train import Train
from clip_es.records import Dataset
from clip_es.types import ImageRecord

# mmengine and its tools warn of their own old ways.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path, tiny_training):
    return tiny_training.make_run(tmp_path / "data")


def data(*words):
    return parse(Train, "clip-es train", [*map(str, words), "--out", "unused"]).data()


def test_classes_and_pictures_of_a_run_come_from_its_run_yaml(folder):
    found = data(folder / "run")
    assert found.classes == ("background", "left", "right")
    assert (found.run, found.masks, found.images) == (folder / "run", None, None)
    assert found.val is None
    assert data(folder / "run", "--vocabulary", "scenes").classes[1] == "aeroplane"


def test_a_voc_root_gives_the_validation_set(folder):
    found = data(folder / "run", "--val", "root", "--val-split", "some")
    assert found.val == {
        "masks": "root/SegmentationClass",
        "images": "root/JPEGImages",
        "list_file": "root/ImageSets/Segmentation/some.txt",
    }
    folders = data(folder / "run", "--val-masks", folder / "truth", "--val-images", folder / "images")
    assert folders.val == {"masks": str(folder / "truth"), "images": str(folder / "images")}
    with pytest.raises(ConfigError, match="mean the same thing"):
        data(folder / "run", "--val", "root", "--val-masks", folder / "truth")


def test_a_folder_of_masks_needs_a_vocabulary_and_any_other_folder_is_refused(folder):
    found = data(folder / "truth", "--images", folder / "images", "--vocabulary", "voc12")
    assert (found.run, found.masks) == (None, folder / "truth")
    assert len(found.classes) == 21
    with pytest.raises(ConfigError, match=r"the classes of these masks are not known.* --vocabulary"):
        data(folder / "truth")
    with pytest.raises(DataError, match="neither the folder of a run nor one of masks"):
        data(folder)


def test_it_trains_from_the_command_line_and_says_how_far_it_is(folder, tiny_training, tmp_path, capfd):
    config = tiny_training.write_config(folder)
    words = ["train", folder / "run", "--config", config, "--out", tmp_path / "out", "--iterations", 2]
    words += ["--val-masks", folder / "truth", "--val-images", folder / "images"]
    assert main([str(word) for word in words]) == 0
    said = capfd.readouterr()
    assert "iteration 2 of 2: loss" in said.out
    assert "iteration 2 of 2: mIoU" in said.out
    assert "final.pth" in said.out
    # mmengine's own log is in its file.
    assert "mmengine" not in said.out + said.err
    assert "Iter(train)" in next((tmp_path / "out").rglob("*.log")).read_text()
    assert main([str(word) for word in words]) == 0, "the same call continues"
    assert main([*(str(word) for word in words), "--no-resume"]) == 2
    assert "holds a training. Leave --no-resume out" in capfd.readouterr().err


def test_the_folder_of_the_pictures_is_written_into_run_yaml(tmp_path):
    records = tuple(
        ImageRecord(str(i), tmp_path / part / f"{i}.jpg", (0,)) for i, part in enumerate(["a", "a/b", "a/c"])
    )
    assert picture_folder(Dataset("some", records)) == str(tmp_path / "a")
    assert picture_folder(Dataset("none", ())) is None
