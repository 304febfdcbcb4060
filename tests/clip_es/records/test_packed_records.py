"""Records in a few bytes each: what goes in comes out, slices are views, and nothing depends on how it is kept."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from clip_es.records.dataset import Dataset
from clip_es.records.file_listing import MASKS, PICTURES, Listing, Place, Tree, picture_names
from clip_es.records.packed_records import Records, Row
from clip_es.types import ImageRecord

ROWS = [
    Row("a", 0, ()),
    Row("b é", 1, (3, 0, 2**15 - 1), (480, 640)),
    Row("x__c", 0, (1,), None, "x/c"),
    Row("last", 0, (7,), (1, 1)),
]
WANTED = (
    ImageRecord("a", Path("top/a.jpg"), ()),
    ImageRecord("b é", Path("other/b é.PNG"), (3, 0, 2**15 - 1), (480, 640)),
    ImageRecord("x__c", Path("top/x/c.jpg"), (1,)),
    ImageRecord("last", Path("top/last.jpg"), (7,), (1, 1)),
)


def filled() -> Records:
    records = Records([Place(Path("top"), ".jpg"), Place(Path("other"), ".PNG")])
    for row in ROWS:
        records.add(row)
    return records


def test_what_goes_in_comes_out():
    records = filled()
    assert tuple(records) == WANTED
    assert [records.row(i) for i in range(4)] == ROWS
    assert (records[-1], records[1], len(records)) == (WANTED[3], WANTED[1], 4)
    assert list(records.ids()) == [record.image_id for record in WANTED]
    with pytest.raises(IndexError):
        records[4]
    with pytest.raises(IndexError):
        records[-5]


def test_a_slice_is_what_the_slice_of_a_tuple_is():
    records = filled()
    for part in (slice(None), slice(1, None, 2), slice(None, None, -1), slice(2, 1), slice(-3, 3), slice(3, None, -2)):
        assert tuple(records[part]) == WANTED[part]
        for inner in (slice(1, None), slice(None, None, -1), slice(0, 2), slice(5, 9)):
            assert tuple(records[part][inner]) == WANTED[part][inner]
            assert list(records[part][inner].ids()) == [record.image_id for record in WANTED[part][inner]]
    picked = records.pick(np.array([2, 0]))
    assert tuple(picked) == (WANTED[2], WANTED[0])
    assert tuple(picked[::-1]) == (WANTED[0], WANTED[2])
    assert tuple(records[1:].pick(np.array([1, 0]))) == (WANTED[2], WANTED[1])


def test_records_are_equal_to_what_holds_the_same():
    assert filled() == WANTED
    assert filled().__eq__(WANTED)
    assert filled() == filled()[:]
    assert filled() != WANTED[:3]
    assert filled() != "abcd"
    assert pickle.loads(pickle.dumps(filled())) == WANTED
    assert Dataset("x", filled()).fingerprint() == Dataset("x", WANTED).fingerprint()


def test_labels_can_be_taken_away():
    for records in (filled(), WANTED, filled()[::2]):
        bare = Dataset("x", records).without_labels().records
        assert [record.class_ids for record in bare] == [()] * len(records)
        assert [(r.image_id, r.path, r.size_hw) for r in bare] == [(r.image_id, r.path, r.size_hw) for r in records]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_the_first_folder_and_then_the_first_suffix_counts(tmp_path):
    touch(tmp_path, "one/a.png", "two/a.jpg", "two/b.png", "two/b.JPG", "two/b.jpeg", "one/.jpg", "one/c.txt", "one/d")
    listing = Listing(tmp_path / "one", tmp_path / "two", tmp_path / "none", suffixes=PICTURES)
    assert listing.find("a") == tmp_path / "one/a.png"
    assert listing.find("b") == tmp_path / "two/b.JPG"
    assert [listing.find(name) for name in ("c", "d", "", "B")] == [None] * 4
    assert (listing.ids(), len(listing)) == (["a", "b"], 2)


def test_masks_of_sub_folders_have_the_names_of_their_folders(tmp_path):
    touch(tmp_path, "a.png", "x/y/b.png", "x__a.png", "x/a.png", ".git/c.png")
    listing = Listing(tmp_path, suffixes=MASKS, nested=True)
    assert listing.ids() == ["a", "x__a", "x__y__b"]
    assert listing.find("x__y__b") == tmp_path / "x/y/b.png"
    assert listing.find("x__a") == tmp_path / "x__a.png"


def test_a_tree_knows_its_files(tmp_path):
    touch(tmp_path, "a.jpg", "x/b.jpg")
    tree = Tree(tmp_path)
    known = {name: tree.has(name) for name in ("a.jpg", "x/b.jpg", "b.jpg", "x", "x/a.jpg", "none/a.jpg", "")}
    assert known == {
        "a.jpg": True,
        "x/b.jpg": True,
        **dict.fromkeys(("b.jpg", "x", "x/a.jpg", "none/a.jpg", ""), False),
    }


def test_pictures_below_a_folder_come_in_order_and_links_to_folders_do_not_lead_in_circles(tmp_path):
    touch(tmp_path, "b.jpg", "a.JPG", "x/2.png", "x/1.png", "x/.2.png", "w/x/1.png", "n.txt")
    (tmp_path / "x/again").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert list(picture_names(tmp_path)) == ["a.JPG", "b.jpg", "w/x/1.png", "x/1.png", "x/2.png"]
