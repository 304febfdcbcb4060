"""What an export promises whatever the format: others are left alone, stops do no harm, memory stays small."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError, ShapeError
from clip_es.formats import FORMATS, ExportFolder, Names
from clip_es.formats.folder import MARK
from clip_es.formats.names import coco_category_ids
from clip_es.formats.pictures import place
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.export import export
from clip_es.pipelines.exchange.run_folder import Run


@pytest.fixture
def made(made_up_run, tmp_path):
    return made_up_run(tmp_path)


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its name."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_export_that_was_stopped_begins_again(made, tmp_path, name):
    run = Run.open(made.run)
    export(run, name, tmp_path / "whole")
    left = [0, 1, 2]

    def stop() -> None:
        if not left.pop():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(run, name, tmp_path / "stopped", done=stop)
    assert json.loads((tmp_path / "stopped" / MARK).read_text())["finished"] is False
    export(run, name, tmp_path / "stopped")
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")
    assert not list((tmp_path / "stopped").rglob("*.part"))


def test_a_finished_export_is_never_touched(made, tmp_path, capsys):
    arguments = ["export", str(made.run), "--format", "labelme", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    edited = tmp_path / "out/000.plain.json"
    edited.write_text("edited")
    assert main(arguments) == 2
    assert "somebody may have edited it" in capsys.readouterr().err
    assert edited.read_text() == "edited"


def test_a_folder_of_somebody_else_is_refused(made, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    assert main(["export", str(made.run), "--format", "voc", "--out", str(tmp_path / "out")]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_the_beginning_of_another_export_is_refused(made, tmp_path):
    with ExportFolder.open(tmp_path / "out", {"format": "voc"}) as folder:
        folder.write("a.txt", "a")
    with pytest.raises(ConfigError, match="format = voc"):
        ExportFolder.open(tmp_path / "out", {"format": "labelme"})


def test_two_exports_cannot_write_one_folder(tmp_path):
    with ExportFolder.open(tmp_path / "out", {}), pytest.raises(ConfigError, match="another export is writing"):
        ExportFolder.open(tmp_path / "out", {})


def test_a_picture_that_cannot_be_exported_is_told_and_the_others_are_done(made, tmp_path, capsys):
    (made.images / "000.plain.jpg").unlink()
    Image.new("RGB", (3, 3)).save(made.images / "001.plain.png")
    (made.images / "005.grey.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main(["export", str(made.run), "--format", "voc", "--out", str(out)]) == 1
    text = capsys.readouterr().out
    assert "left out 000.plain: 000.plain: its picture is not there" in text
    assert "left out 001.plain" in text
    assert "5 pictures as voc" in text
    left = {"000.plain", "001.plain", "005.grey"}
    assert set((out / "ImageSets/Segmentation/train.txt").read_text().split()) == made.masks.keys() - left
    assert {path.stem for path in (out / "SegmentationClass").iterdir()} == made.masks.keys() - left


def test_decided_labels_have_no_255(made, tmp_path):
    assert main(["export", str(made.run), "--format", "voc", "--out", str(tmp_path / "o"), "--labels", "decided"]) == 0
    for image_id, decided in made.decided.items():
        assert np.array_equal(np.array(Image.open(tmp_path / f"o/SegmentationClass/{image_id}.png")), decided)


def test_pictures_in_sub_folders_have_two_underscores_in_their_ids(made_up_run, tmp_path):
    made = made_up_run(tmp_path, 2)
    (made.images / "a/b").mkdir(parents=True)
    (made.images / "000.plain.jpg").rename(made.images / "a/b/c.jpg")
    for part in ("masks", "labels", "confidence"):
        (made.run / part / "000.plain.png").rename(made.run / part / "a__b__c.png")
    export(Run.open(made.run), "voc", tmp_path / "out", images=made.images)
    assert (tmp_path / "out/JPEGImages/a__b__c.jpg").read_bytes() == (made.images / "a/b/c.jpg").read_bytes()
    # run.yaml names the folder that all pictures have in common, which may be one of the sub-folders.
    assert Run.open(made.run).pictures(made.images / "a/b") == {"a__b__c": made.images / "a/b/c.jpg"}


def test_a_run_whose_pictures_are_nowhere_asks_for_them(made, tmp_path, capsys):
    made.images.rename(tmp_path / "moved")
    arguments = ["export", str(made.run), "--format", "labelme", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "--images DIR" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--images", str(tmp_path / "moved")]) == 0


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--format", "voc", "--out", str(tmp_path / "out")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_a_mask_with_more_labels_than_the_vocabulary_is_left_out(made, tmp_path):
    (tmp_path / "two.yaml").write_text("classes: [cat, dog]\n")
    run = Run.open(made.run, str(tmp_path / "two.yaml"))
    result = export(run, "voc", tmp_path / "out")
    too_many = {image_id for image_id, labels in made.masks.items() if (labels == 3).any()}
    assert {problem.image_id for problem in result.problems} == too_many
    assert "--vocabulary" in result.problems[0].reason


@pytest.mark.parametrize("name", ["undecided", "Background", "__ignore__", "a\nb", " "])
def test_names_that_mean_something_else_are_refused(name):
    with pytest.raises(ConfigError, match="cannot be called"):
        Names(("cat", name))


def test_a_colon_is_refused_where_it_separates_columns(made, tmp_path):
    (tmp_path / "colon.yaml").write_text("classes: [cat, 'light: red', dog]\n")
    run = Run.open(made.run, str(tmp_path / "colon.yaml"))
    with pytest.raises(ConfigError, match=r"light: red"):
        export(run, "cvat", tmp_path / "out")
    assert export(run, "coco-rle", tmp_path / "other").pictures == len(made.masks)


def test_coco_has_its_own_numbers_and_other_classes_count_from_one():
    eighty = tuple(f"c{k}" for k in range(80))
    ids = coco_category_ids(eighty, eighty)
    # From the annotations of COCO: fire hydrant 11, stop sign 13, toothbrush 90; 12 was never used.
    assert (ids[0], ids[10], ids[11], ids[79]) == (1, 11, 13, 90)
    assert Names(("a", "b"), coco_category_ids(("a", "b"), eighty)).category_ids == (1, 2)


def test_a_picture_of_another_size_is_refused(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    assert place(tmp_path / "a.png", tmp_path / "b", (3, 4), "copy") == "b.png"
    with pytest.raises(ShapeError, match="size of its mask"):
        place(tmp_path / "a.png", tmp_path / "c", (4, 3), "copy")


def test_a_linked_picture_is_not_written_through(tmp_path):
    """The second export replaces the link, never the bytes behind it."""
    Image.new("RGB", (4, 3), "red").save(tmp_path / "red.png")
    Image.new("RGB", (4, 3), "blue").save(tmp_path / "blue.png")
    before = (tmp_path / "red.png").read_bytes()
    place(tmp_path / "red.png", tmp_path / "out", (3, 4), "link")
    place(tmp_path / "blue.png", tmp_path / "out", (3, 4), "copy")
    assert (tmp_path / "red.png").read_bytes() == before
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "blue.png").read_bytes()


def test_lists_grow_on_the_disk_and_not_in_memory(tmp_path):
    with ExportFolder.open(tmp_path, {}) as folder:
        rows = folder.growing_json("big.json", "a", "b")
        rows.add("a", {"text": "x" * 100})
        tracemalloc.start()
        for number in range(6_000):
            rows.add("a" if number % 2 else "b", {"number": number, "text": "y" * 100})
        rows.finish({"head": 1})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (tmp_path / "big.json").stat().st_size > 700_000
    assert peak < 200_000
    tree = json.loads((tmp_path / "big.json").read_text())
    assert (tree["head"], len(tree["a"]), tree["b"][-1]["number"]) == (1, 3_001, 5_998)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.json", MARK]


@pytest.mark.parametrize("name", ["coco-rle", "cvat"])
def test_memory_does_not_grow_with_the_number_of_pictures(made_up_run, tmp_path, name):
    made = made_up_run(tmp_path, 45, side=16)
    run = Run.open(made.run)
    peaks = []
    for number, count in enumerate((15, 45)):
        tracemalloc.start()
        export(run, name, tmp_path / str(number), only=run.image_ids[:count], pictures="none")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A name and an entry of a list for each picture, far below a mask, let alone a picture.
    assert peaks[1] - peaks[0] < 30 * 1500
