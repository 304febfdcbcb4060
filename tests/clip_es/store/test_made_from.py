"""A run knows what its masks were made from, and notices what has changed or broken since."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.masks import read_mask, write_mask
from clip_es.pipelines.cli import main
from clip_es.store.made_from import Changed
from clip_es.store.run import RunStore
from clip_es.store.whole import looks_whole
from clip_es.types import ImageRecord, PseudoMask

SETTINGS = {"made": "up"}


def record(folder: Path, name: str, labels: tuple[int, ...] = (0, 2), content: bytes = b"12345") -> ImageRecord:
    path = folder / f"{name}.jpg"
    if not path.exists():
        path.write_bytes(content)
    return ImageRecord(name, path, labels)


def made(run: Path, *records: ImageRecord) -> None:
    mask = np.zeros((3, 4), np.uint8)
    with RunStore.open(run, SETTINGS) as store:
        for one in store.unfinished(records):
            store.save(one, PseudoMask(mask, np.ones((3, 4), np.float32), one.class_ids, mask))


def changed(run: Path, *records: ImageRecord) -> Changed:
    with RunStore.open(run, SETTINGS) as store:
        return store.changed(records)


@pytest.fixture
def run(tmp_path) -> Path:
    made(tmp_path / "run", record(tmp_path, "a"), record(tmp_path, "b"))
    return tmp_path / "run"


def test_nothing_has_changed_where_nothing_has(run, tmp_path):
    assert changed(run, record(tmp_path, "b"), record(tmp_path, "a", (2, 0))) == Changed()


def test_other_labels_and_another_picture_are_told_apart(run, tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"54321")
    found = changed(run, record(tmp_path, "a", (0,)), record(tmp_path, "b"))
    assert found == Changed(("a",), ("b",))
    assert str(found) == "1 mask was made with other labels, 1 mask was made from another picture file"


def test_a_file_that_was_only_touched_is_the_same(run, tmp_path):
    os.utime(tmp_path / "a.jpg", (1e9, 1e9))
    assert changed(run, record(tmp_path, "a")) == Changed()


def test_a_picture_that_is_gone_and_masks_of_earlier_versions_are_not_asked_about(run, tmp_path):
    one = record(tmp_path, "a")
    (tmp_path / "a.jpg").unlink()
    assert changed(run, one) == Changed()
    (run / "made_from.csv").unlink()
    assert changed(run, record(tmp_path, "b", (1,))) == Changed()


def test_what_is_taken_back_is_done_again_and_then_fits(run, tmp_path):
    new = record(tmp_path, "a", (1,))
    with RunStore.open(run, SETTINGS) as store:
        store.redo(["a"])
        assert store.unfinished([new, record(tmp_path, "b")]) == [new]
    made(run, new)
    assert changed(run, new, record(tmp_path, "b")) == Changed()
    assert len((run / "made_from.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("part", ["masks", "labels", "confidence"])
@pytest.mark.parametrize("keep", [0, 20, -1])
def test_empty_and_torn_files_are_done_again(run, tmp_path, part, keep):
    path = run / part / "a.png"
    path.write_bytes(path.read_bytes()[:keep])
    one, other = record(tmp_path, "a"), record(tmp_path, "b")
    with RunStore.open(run, SETTINGS) as store:
        assert store.unfinished([one, other]) == [one]
        assert store.damaged == {"a"}
    made(run, one, other)
    assert looks_whole(path)
    assert read_mask(run / "masks" / "a.png").shape == (3, 4)


def test_files_are_told_whole_by_their_ends(tmp_path):
    write_mask(tmp_path / "a.png", np.zeros((3, 4), np.uint8))
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    for name in ("a.png", "a.npz"):
        assert looks_whole(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
        assert not looks_whole(tmp_path / name)
    assert not looks_whole(tmp_path / "none.png")


def test_the_next_call_says_which_masks_no_longer_fit_and_makes_them_again_when_asked(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "labels.csv"
    table.write_text("image,labels\na.png,cat\nb.png,car\nc.png,cat\n")
    call = ["masks", "folder", "--images", str(tmp_path), "--labels", str(table), "--vocabulary", "cat,car"]
    call += ["--weights", "scenes", "--refine", "affinity", "--report-pictures", "0", "--out", str(tmp_path / "run")]
    assert main(call) == 0
    masks = tmp_path / "run" / "masks"
    before = {path.name: path.stat().st_mtime_ns for path in masks.iterdir()}
    table.write_text("image,labels\na.png,car\nb.png,car\nc.png,cat;car\n")
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(tmp_path / "b.png")
    capsys.readouterr()
    assert main(call) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 masks were made with other labels, 1 mask was made from another picture file" in said
    assert "--redo changed | all | none" in said
    assert {path.name: path.stat().st_mtime_ns for path in masks.iterdir()} == before
    assert main([*call, "--redo", "none"]) == 0
    assert "other labels" not in capsys.readouterr().out
    assert main([*call, "--redo", "changed"]) == 0
    assert "To be made again: 3" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns != before[path.name] for path in masks.iterdir())
    assert main([*call, "--redo", "changed"]) == 0
    assert "To be made again: 0" in capsys.readouterr().out
