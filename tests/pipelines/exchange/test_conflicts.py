"""Several people mend one run: no import undoes another person's work, and every import can be undone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from clip_es.formats import FORMATS, readable
from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.pipelines.exchange.import_masks import imported_ids

ONE, TWO = "000.plain", "001.plain"


@pytest.fixture
def run(made_up_run, tmp_path) -> Path:
    return made_up_run(tmp_path).run


def exported(run: Path, name: str) -> Path:
    out = run.parent / name
    assert main(["export", str(run), "--format", "voc", "--out", str(out), "--pictures", "none"]) == 0
    return out


def edit(source: Path, image_id: str, label: int, corner: int = 0) -> None:
    path = source / "SegmentationClass" / f"{image_id}.png"
    labels = read_mask(path).copy()
    labels[corner : corner + 9, :9] = label
    write_mask(path, labels)


def take(run: Path, source: Path, *flags: str) -> int:
    return main(["import", str(run), "--format", "voc", "--from", str(source), *flags])


def mask(run: Path, image_id: str) -> np.ndarray:
    return read_mask(run / "masks" / f"{image_id}.png")


def files(run: Path) -> dict[str, bytes]:
    return {
        f"{part}/{p.name}": p.read_bytes() for part in ("masks", "labels", "confidence") for p in (run / part).iterdir()
    }


def test_a_picture_nobody_edited_in_an_older_export_leaves_what_another_mended(run, capsys):
    mine, theirs = exported(run, "mine"), exported(run, "theirs")
    edit(mine, ONE, 3)
    edit(theirs, TWO, 2)
    assert take(run, mine) == 0
    assert take(run, theirs) == 0
    assert (mask(run, ONE)[:9, :9] == 3).all()
    assert (mask(run, TWO)[:9, :9] == 2).all()
    assert "1 pictures edited" in capsys.readouterr().out


@pytest.mark.parametrize("archive", [False, True])
def test_a_picture_that_two_people_edited_is_refused_by_name_and_nothing_else_is_lost(run, capsys, archive):
    mine, theirs = exported(run, "mine"), exported(run, "theirs")
    edit(mine, ONE, 3)
    edit(theirs, ONE, 2, corner=9)
    edit(theirs, TWO, 2)
    if archive:
        theirs = Path(shutil.make_archive(str(theirs), "zip", theirs))
    assert take(run, mine) == 0
    assert take(run, theirs) == 1
    out = capsys.readouterr().out
    assert f"refused {ONE}" in out
    assert "--on-conflict theirs" in out
    assert (mask(run, ONE)[:9, :9] == 3).all()
    assert (mask(run, TWO)[:9, :9] == 2).all()
    assert take(run, theirs, "--on-conflict", "ours") == 0
    assert (mask(run, ONE)[:9, :9] == 3).all()
    assert take(run, theirs, "--on-conflict", "theirs") == 0
    assert (mask(run, ONE)[9:18, :9] == 2).all()


def test_one_person_may_go_on_in_the_same_export(run):
    mine = exported(run, "mine")
    for label in (3, 2, 1):
        edit(mine, ONE, label)
        assert take(run, mine) == 0
        assert (mask(run, ONE)[:9, :9] == label).all()


def test_a_newer_export_is_a_new_beginning_and_may_go_back_to_what_was_there_before(run):
    before = mask(run, ONE)
    mine = exported(run, "mine")
    edit(mine, ONE, 3)
    assert take(run, mine) == 0
    newer = exported(run, "newer")
    write_mask(newer / "SegmentationClass" / f"{ONE}.png", before)
    assert take(run, newer) == 0
    assert np.array_equal(mask(run, ONE), before)


def test_an_export_whose_mark_is_lost_is_still_told_from_an_edit(run):
    mine, theirs = exported(run, "mine"), exported(run, "theirs")
    (theirs / "clip-es-export.json").unlink()
    edit(mine, ONE, 3)
    edit(theirs, TWO, 2)
    assert take(run, mine) == 0
    assert take(run, theirs) == 0
    assert (mask(run, ONE)[:9, :9] == 3).all()
    assert (mask(run, TWO)[:9, :9] == 2).all()
    edit(theirs, ONE, 2)
    assert take(run, theirs) == 1


def test_every_import_can_be_undone_and_the_undoing_too(run, capsys):
    before = files(run)
    mine = exported(run, "mine")
    edit(mine, ONE, 3)
    edit(mine, TWO, 3)
    assert take(run, mine) == 0
    first = files(run)
    edit(mine, ONE, 2)
    assert take(run, mine) == 0
    assert "clip-es restore" in capsys.readouterr().out
    assert main(["restore", str(run)]) == 0
    assert files(run) == first
    assert imported_ids(run) == {ONE, TWO}
    assert main(["restore", str(run), "--number", "1"]) == 0
    assert files(run) == before
    assert imported_ids(run) == set()
    assert main(["restore", str(run)]) == 0
    assert files(run) == first
    assert main(["restore", str(run), "--number", "1", "--pictures", ONE]) == 0
    assert imported_ids(run) == {TWO}
    assert np.array_equal(mask(run, TWO)[:9, :9], np.full((9, 9), 3))


def test_an_import_that_does_not_exist_is_named(run, capsys):
    assert main(["restore", str(run), "--number", "7"]) == 2
    assert "there is no such import" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="for root every folder can be written")
def test_a_run_that_cannot_be_written_is_exported_all_the_same(run, capsys):
    run.chmod(0o500)
    exported(run, "mine")
    run.chmod(0o700)
    assert "The run cannot be written" in capsys.readouterr().out


def test_an_export_that_import_does_not_read_says_so(run, capsys):
    for name in FORMATS:
        assert main(["export", str(run), "--format", name, "--out", str(run.parent / name)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        refused = f"`clip-es import` does not read {name} back; it reads voc, coco-rle" in said
        assert refused == (name not in readable())
