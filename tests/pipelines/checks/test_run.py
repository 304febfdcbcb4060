"""`clip-es check RUN`: every file that would stop or spoil a training is named, all at once, with the remedy."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.masks import write_mask
from clip_es.pipelines.checks.run import check_run
from clip_es.pipelines.cli import main
from clip_es.store.run import RunStore
from clip_es.types import ImageRecord, PseudoMask

LABELS = np.array([[0, 0, 1, 1], [0, 0, 1, 2]], dtype=np.uint8)
SURE = np.array([[1, 1, 0.96, 0.5], [1, 1, 0.5, 1]], dtype=np.float32)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sound run of three 2x4 pictures with the classes cat and dog; the pixels of confidence 0.5 are undecided."""
    images = tmp_path / "pictures"
    images.mkdir()
    about = {"classes": ["cat", "dog"], "images": [str(images)]}
    with RunStore.open(tmp_path / "run", {"method": "by hand"}, about=about) as store:
        for name in ("a", "b", "c"):
            Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(images / f"{name}.png")
            labels = np.where(SURE < 0.9, np.uint8(255), LABELS)
            mask = PseudoMask(labels=labels, confidence=SURE, class_ids=(0, 1), decided=LABELS)
            store.save(ImageRecord(name, images / f"{name}.png", (0, 1)), mask)
        store.finish()
    return tmp_path / "run"


def kinds(run: Path, **options) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for trouble in check_run(run, **options).troubles:
        found.setdefault(trouble.kind, set()).add(trouble.file)
    return found


def put(path: Path, labels: np.ndarray) -> None:
    write_mask(path, labels.astype(np.uint8))


def test_a_sound_run_has_no_problem_and_its_balance_is_that_of_its_pixels(run):
    result = check_run(run)
    assert result.troubles == ()
    assert result.notes == ()
    assert result.pictures == 3
    assert [(c.name, c.pictures, c.share) for c in result.classes] == [
        ("background", 3, 4 / 8),
        ("cat", 3, 3 / 8),
        ("dog", 3, 1 / 8),
    ]
    assert [c.sure for c in result.classes] == pytest.approx([1, 1 / 3, 1]), "of three pixels of cat one has 0.96"
    assert result.undecided == 2 / 8
    result.refuse()


@pytest.mark.slow
def test_several_processes_find_the_same(run):
    put(run / "labels" / "b.png", np.full((2, 4), 7))
    one, many = check_run(run), check_run(run, workers=2)
    assert one.troubles == many.troubles
    assert one.classes[0] == many.classes[0]
    assert len(one.troubles) == 2, "7 is no class, and masks/ differs from labels/"


def test_a_label_that_is_no_class_is_found_with_its_file(run):
    put(run / "labels" / "b.png", np.where(LABELS == 2, 3, LABELS))
    put(run / "masks" / "b.png", np.where(LABELS == 2, 3, LABELS))
    result = check_run(run)
    assert {(t.kind, t.file) for t in result.troubles} == {("label", "masks/b.png"), ("label", "labels/b.png")}
    assert "label 3; expected 0..2" in result.troubles[0].detail
    with pytest.raises(DataError, match="not a class of the vocabulary") as caught:
        result.refuse()
    assert "b.png" in str(caught.value)
    assert "clip-es check" in str(caught.value)


def test_255_may_stand_in_masks_but_not_in_labels(run):
    put(run / "labels" / "a.png", np.where(SURE < 0.9, 255, LABELS))
    assert kinds(run) == {"undecided": {"labels/a.png"}}


def test_masks_and_labels_must_agree_where_the_mask_is_decided(run):
    put(run / "masks" / "a.png", np.where(LABELS == 2, 1, LABELS))
    assert kinds(run) == {"differs": {"masks/a.png"}}


@pytest.mark.parametrize("part", ["masks", "labels", "confidence"])
def test_a_missing_file_is_found(run, part):
    (run / part / "b.png").unlink()
    assert kinds(run) == {"missing": {f"{part}/b.png"}}


def test_a_missing_folder_is_one_problem_and_not_one_for_each_picture(run):
    shutil.rmtree(run / "confidence")
    result = check_run(run)
    assert [(t.kind, t.file) for t in result.troubles] == [("missing", "confidence/")]
    assert result.classes[1].share == 3 / 8, "the rest is still looked at"


@pytest.mark.parametrize("part", ["masks", "labels", "confidence"])
def test_sizes_within_the_run_must_agree(run, part):
    path = run / part / "c.png"
    grown = np.zeros((3, 4), np.uint8)
    if part == "confidence":
        Image.fromarray(grown).save(path)
    else:
        put(path, grown)
    assert set(kinds(run)) == {"size"}


def test_a_mask_of_another_size_than_its_picture_is_found_from_headers_alone(run, tmp_path):
    Image.fromarray(np.zeros((4, 2, 3), np.uint8)).save(tmp_path / "pictures" / "b.png")
    for depth in ("headers", "pixels"):
        (trouble,) = check_run(run, depth=depth).troubles
        assert (trouble.kind, trouble.file) == ("size", "masks/b.png")
        assert "2 x 4" in trouble.detail
        assert "4 x 2" in trouble.detail


def test_a_picture_is_measured_as_it_is_seen_after_its_exif_orientation(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "pictures" / "a.png").unlink()
    Image.fromarray(np.zeros((4, 2, 3), np.uint8)).save(tmp_path / "pictures" / "a.jpg", exif=exif)
    assert kinds(run) == {}, "4 x 2 turned is 2 x 4"
    (tmp_path / "pictures" / "b.png").unlink()
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "pictures" / "b.jpg", exif=exif)
    (trouble,) = check_run(run).troubles
    assert "turned by its EXIF" in trouble.detail


def test_masks_without_a_picture_and_unreadable_pictures_are_found(run, tmp_path):
    (tmp_path / "pictures" / "a.png").unlink()
    (tmp_path / "pictures" / "b.png").write_bytes(b"no picture")
    shutil.copy(tmp_path / "pictures" / "c.png", tmp_path / "pictures" / "c.jpg")
    assert kinds(run) == {"picture": {"masks/a.png", "masks/b.png", "masks/c.png"}}
    (tmp_path / "elsewhere").mkdir()
    assert len(kinds(run, images=tmp_path / "elsewhere")["picture"]) == 3


def test_pictures_in_sub_folders_have_the_ids_that_their_masks_have(run, tmp_path):
    (tmp_path / "pictures" / "x").mkdir()
    (tmp_path / "pictures" / "a.png").rename(tmp_path / "pictures" / "x" / "a.png")
    for part in ("masks", "labels", "confidence"):
        (run / part / "a.png").rename(run / part / "x__a.png")
    assert kinds(run) == {}


def test_damaged_files_are_found_even_where_pillow_reads_them(run):
    path = run / "masks" / "a.png"
    data = bytearray(path.read_bytes())
    place = data.index(b"PLTE") + 5
    data[place] ^= 1  # A colour of the palette: the pixels decode, the checksum does not fit.
    path.write_bytes(data)
    (run / "labels" / "b.png").write_bytes((run / "labels" / "b.png").read_bytes()[:-20])
    (run / "confidence" / "c.png").write_bytes(b"")
    assert kinds(run) == {"damaged": {"masks/a.png", "labels/b.png", "confidence/c.png"}}
    assert kinds(run, depth="headers") == {"damaged": {"confidence/c.png"}}


def test_a_png_that_holds_no_labels_is_found(run):
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(run / "masks" / "a.png")
    put(run / "confidence" / "b.png", LABELS)
    assert kinds(run) == {"kind": {"masks/a.png", "confidence/b.png"}}


def test_what_is_no_mistake_but_worth_knowing_is_a_note(run):
    for name in "abc":
        put(run / "masks" / f"{name}.png", np.full((2, 4), 255))
        put(run / "labels" / f"{name}.png", np.zeros((2, 4)))
    (run / "failures.csv").write_text("image_id,stage,error,reason\nd,read,DataError,damaged\n")
    result = check_run(run)
    assert result.troubles == ()
    notes = " ".join(result.notes)
    assert "no pixel of cat, dog" in notes
    assert "3 masks are 255 throughout" in notes
    assert "1 rows in failures.csv" in notes


def test_a_run_that_does_not_name_classes_or_pictures_says_what_was_not_looked_at(run, tmp_path):
    (run / "run.yaml").write_text("method: by hand\nabout: {vocabulary: mine}\n")
    put(run / "labels" / "b.png", np.where(LABELS == 2, 90, LABELS))
    put(run / "masks" / "b.png", np.where(LABELS == 2, 90, LABELS))
    result = check_run(run)
    assert result.troubles == ()
    assert "--images" in result.notes[0]
    assert "--vocabulary" in result.notes[1]
    assert result.classes[90].share == pytest.approx(1 / 24)
    vocabulary = tmp_path / "mine.yaml"
    vocabulary.write_text("classes: [cat, dog]\n")
    assert set(kinds(run, vocabulary=vocabulary)) == {"label"}


def test_a_packaged_vocabulary_is_known_by_name(run):
    (run / "run.yaml").write_text("about: {vocabulary: scenes}\n")
    assert len(check_run(run).classes) == 33


def test_no_run_and_an_empty_run_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="is not the folder of a run"):
        check_run(tmp_path / "nowhere")
    for path in (run / "masks").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="nothing to train on"):
        check_run(run)
    (run / "run.yaml").write_text("about: {images: [/nowhere/at/all]}\n")
    put(run / "masks" / "a.png", LABELS)
    with pytest.raises(ConfigError, match="no longer where"):
        check_run(run)


def test_the_command_lists_everything_at_once_with_the_remedy(run, tmp_path, capsys):
    put(run / "labels" / "a.png", np.full((2, 4), 255))
    (run / "confidence" / "b.png").unlink()
    assert main(["check", str(run), "--out", str(tmp_path / "all.csv")]) == 1
    out = capsys.readouterr().out
    assert "labels/a.png: 255 at 8 of 8 pixels" in out
    assert "confidence/b.png: no such file" in out
    assert "with the same --out" in out
    assert "2 problems" in out
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["confidence/b.png", "labels/a.png"]


def test_the_command_is_content_with_a_sound_run(run, capsys):
    assert main(["check", str(run)]) == 0
    out = capsys.readouterr().out
    assert "no problems" in out
    assert "dog" in out
    assert main(["check", str(run), "--headers-only"]) == 0
    assert "dog" not in capsys.readouterr().out


def test_a_folder_may_have_the_name_of_a_command(run, monkeypatch, capsys):
    shutil.copytree(run, run.parent / "voc12")
    monkeypatch.chdir(run.parent)
    assert main(["check", "./voc12"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_check_without_a_run_says_that_it_wants_one(capsys):
    with pytest.raises(SystemExit):
        main(["check"])
    assert "RUN" in capsys.readouterr().err
    assert main(["check", "nowhere"]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


def test_repair_takes_back_what_is_broken_and_spares_what_a_person_edited(run, capsys):
    for name in ("a", "b"):
        path = run / "labels" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-20])
    (run / "imported.csv").write_text(
        "image_id,format,compared_with,edited_pixels,reviewed,mask_sha256\nb,voc,masks,3,False,x\n"
    )
    assert main(["check", str(run), "--repair"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Taken back: 1. Call the `clip-es masks` that made the run again" in said
    assert "b was edited by a person and stays" in said
    assert sorted(path.stem for path in (run / "masks").iterdir()) == ["b", "c"]
    (run / "imported.csv").unlink()
    assert main(["check", str(run), "--repair"]) == 0
    assert sorted(path.stem for path in (run / "masks").iterdir()) == ["c"]
