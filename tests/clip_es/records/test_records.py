"""What every reader promises: bad entries become rows, the good ones stay, nothing leaves the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_es.errors import DataError, nearest
from clip_es.records import Dataset, Problem, coco14, folder, voc
from clip_es.records.text_files import read_lines
from clip_es.records.voc import read_annotation

NAMES = ("aeroplane", "bicycle", "bird", "boat", "person")


def class_id(name: str) -> int:
    if name not in NAMES:
        raise DataError(f"lists {name!r}, which is not one of the 5 names", next_step=nearest(name, NAMES))
    return NAMES.index(name)


def xml(*names: str, size: str = "<size><height>3</height><width>5</width></size>") -> str:
    objects = "".join(f"<object><name>{name}</name><difficult>1</difficult></object>" for name in names)
    return f"<annotation><filename>/etc/passwd</filename>{size}{objects}</annotation>"


def make_voc(root: Path, annotations: dict[str, str], train: str | None = None) -> Path:
    for part in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "SegmentationClass", "SegmentationClassAug"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name, text in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
        (root / "JPEGImages" / f"{name}.jpg").touch()
    lines = "".join(f"{name}\n" for name in annotations) if train is None else train
    (root / "ImageSets/Segmentation/train.txt").write_bytes(lines.encode())
    return root


def ids(data: Dataset) -> list[str]:
    return [record.image_id for record in data.records]


def reason(data: Dataset) -> str:
    (problem,) = data.problems
    assert (problem.stage, problem.error) == ("records", "DataError")
    return problem.reason


def test_labels_stand_in_the_order_of_the_file_and_once(tmp_path):
    data = voc(make_voc(tmp_path, {"a": xml("person", "bird", "person")}), class_id=class_id)
    assert data.records[0].class_ids == (4, 2)
    assert data.records[0].size_hw == (3, 5)
    assert data.records[0].path == tmp_path / "JPEGImages" / "a.jpg"
    assert data.problems == ()


@pytest.mark.parametrize(
    "text", ["\ufeffa\nb\n", "a\r\n\r\nb", "  a  \n\n\nb 1 -1\n", "a\rb\r"], ids=["mark", "crlf", "blanks", "mac"]
)
def test_a_list_is_read_however_it_was_saved(tmp_path, text):
    assert ids(voc(make_voc(tmp_path, {"a": xml("bird"), "b": xml("boat")}, text), class_id=class_id)) == ["a", "b"]


def test_a_list_of_one_line_is_a_list(tmp_path):
    assert ids(voc(make_voc(tmp_path, {"a": xml("bird")}, "a"), class_id=class_id)) == ["a"]


def test_an_empty_list_stops_everything(tmp_path):
    with pytest.raises(DataError, match="lists no picture"):
        voc(make_voc(tmp_path, {"a": xml("bird")}, "\n \n"), class_id=class_id)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (xml("aeroplan"), "Nearest: 'aeroplane'. Fix the file, or pass --on-bad-label skip."),
        (xml(), "lists no object"),
        (xml(" "), "object 1 has no name"),
        ("<annotation><object>", "not well-formed XML"),
        ("", "not well-formed XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "not well-formed XML"),
        ('<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation>&d;</annotation>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "document type"),
        ("<annotation><object><name>&nbsp;</name></object></annotation>", "not well-formed XML"),
        ("<a>" * 100_000, "not well-formed XML"),
    ],
)
def test_a_bad_annotation_is_a_row_and_the_others_are_read(tmp_path, bad, says):
    data = voc(make_voc(tmp_path, {"a": xml("bird"), "b": bad, "c": xml("boat")}), class_id=class_id)
    assert ids(data) == ["a", "c"]
    assert data.problems[0].image_id == "b"
    assert says in reason(data)
    assert "b.xml" in reason(data)


def test_bytes_that_are_no_text_in_an_annotation_are_a_row(tmp_path):
    make_voc(tmp_path, {"a": xml("bird"), "b": ""})
    (tmp_path / "Annotations/b.xml").write_bytes(b"\x00\xff\xd8\xff" * 100)
    assert "not well-formed XML" in reason(voc(tmp_path, class_id=class_id))


def test_a_huge_annotation_is_refused_unread(tmp_path):
    make_voc(tmp_path, {"a": xml("bird"), "b": ""})
    with (tmp_path / "Annotations/b.xml").open("wb") as file:
        file.truncate(2**40)
    assert "too large" in reason(voc(tmp_path, class_id=class_id))


def test_a_missing_annotation_or_picture_is_a_row(tmp_path):
    make_voc(tmp_path, {"a": xml("bird"), "b": xml("bird"), "c": xml("bird")})
    (tmp_path / "Annotations/a.xml").unlink()
    (tmp_path / "JPEGImages/b.jpg").unlink()
    data = voc(tmp_path, class_id=class_id)
    assert ids(data) == ["c"]
    assert "a.xml: does not exist" in data.problems[0].reason
    assert "'b', which has no picture" in data.problems[1].reason


def test_an_annotation_that_is_a_folder_is_a_row(tmp_path):
    make_voc(tmp_path, {"a": xml("bird"), "b": xml("bird")})
    (tmp_path / "Annotations/b.xml").unlink()
    (tmp_path / "Annotations/b.xml").mkdir()
    assert "cannot be read" in reason(voc(tmp_path, class_id=class_id))


@pytest.mark.parametrize("bad", ["../a", "/etc/passwd", "..", "x\x00y", "b\\c", "x" * 201, "sub/a"])
def test_an_id_that_could_leave_the_folder_is_a_row(tmp_path, bad):
    (tmp_path / "Annotations").mkdir()
    data = voc(make_voc(tmp_path / "root", {"a": xml("bird")}, f"a\n{bad}\n"), class_id=class_id)
    assert ids(data) == ["a"]
    assert "plain file name" in reason(data) or "zero byte" in reason(data)


def test_a_line_that_is_no_text_is_a_row(tmp_path):
    make_voc(tmp_path, {"a": xml("bird")})
    (tmp_path / "ImageSets/Segmentation/train.txt").write_bytes(b"a\n\xe9\xe8\n")
    data = voc(tmp_path, class_id=class_id)
    assert ids(data) == ["a"]
    assert "not UTF-8" in reason(data)
    assert data.problems[0].image_id == "train.txt line 2"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_list_with_a_byte_order_mark_is_read(tmp_path, encoding):
    make_voc(tmp_path, {"a": xml("bird"), "b": xml("bird")})
    mark = "" if encoding in ("utf-16", "utf-8-sig") else "\ufeff"
    (tmp_path / "ImageSets/Segmentation/train.txt").write_bytes(f"{mark}a\r\nb\r\n".encode(encoding))
    assert ids(voc(tmp_path, class_id=class_id)) == ["a", "b"]


def test_the_first_of_two_equal_ids_is_kept(tmp_path):
    data = voc(make_voc(tmp_path, {"a": xml("bird")}, "a\na\n"), class_id=class_id)
    assert ids(data) == ["a"]
    assert "train.txt line 2" in reason(data)
    assert "train.txt line 1" in reason(data)


def test_skipping_a_bad_label_keeps_the_others_and_counts_it(tmp_path):
    make_voc(tmp_path, {"a": xml("aeroplan", "bird"), "b": xml("aeroplan")})
    data = voc(tmp_path, class_id=class_id, on_bad_label="skip")
    assert data.records[0].class_ids == (2,)
    assert dict(data.left_out) == {"aeroplan": 2}
    assert "lists no object" in reason(data)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [("338.0", "500", (338, 500)), ("0", "0", None), ("", "5", None), ("nan", "5", None), ("1e9", "5", None)],
)
def test_a_size_is_whole_pixels_or_unknown(tmp_path, height, width, size):
    text = xml("bird", size=f"<size><height>{height}</height><width>{width}</width></size>")
    make_voc(tmp_path, {"a": text})
    assert voc(tmp_path, class_id=class_id).records[0].size_hw == size
    needed = voc(tmp_path, class_id=class_id, need_size=True)
    assert len(needed.problems) == (size is None)


def test_train_aug_is_what_has_an_augmented_mask_and_is_not_in_val(tmp_path):
    make_voc(tmp_path, {name: xml("bird") for name in "abcd"}, "a\n")
    for name in "abc":
        (tmp_path / f"SegmentationClassAug/{name}.png").touch()
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("b\n")
    assert ids(voc(tmp_path, "train_aug", class_id=class_id)) == ["a", "c"]
    (tmp_path / "ImageSets/Segmentation/train_aug.txt").write_text("d\n")
    assert ids(voc(tmp_path, "train_aug", class_id=class_id)) == ["d"]


def test_a_list_elsewhere_is_a_split_too(tmp_path):
    make_voc(tmp_path / "root", {"a": xml("bird"), "b": xml("bird")})
    (tmp_path / "mine.txt").write_text("b\n")
    data = voc(tmp_path / "root", class_id=class_id, list_file=tmp_path / "mine.txt")
    assert (ids(data), data.name) == (["b"], "voc12 mine.txt")


def test_an_unknown_split_names_those_that_exist(tmp_path):
    make_voc(tmp_path, {"a": xml("bird")})
    for split in ("test", "../train"):
        with pytest.raises(DataError, match="the splits train"):
            voc(tmp_path, split, class_id=class_id)


def test_the_folder_above_is_met_with_the_right_path(tmp_path):
    make_voc(tmp_path / "VOCdevkit/VOC2012", {"a": xml("bird")})
    with pytest.raises(DataError, match=r"Pass .*VOCdevkit/VOC2012\."):
        voc(tmp_path, class_id=class_id)


def test_ground_truth_is_the_augmented_mask_then_the_plain_one_then_none(tmp_path):
    make_voc(tmp_path, {name: xml("bird") for name in "abc"})
    for part, name in (("SegmentationClass", "a"), ("SegmentationClassAug", "a"), ("SegmentationClass", "b")):
        (tmp_path / part / f"{name}.png").touch()
    truth = voc(tmp_path, class_id=class_id).truth
    assert truth == {"a": tmp_path / "SegmentationClassAug/a.png", "b": tmp_path / "SegmentationClass/b.png"}


@pytest.mark.parametrize("name", ["a.jpeg", "a.png", "a.JPG"])
def test_pictures_may_have_other_suffixes(tmp_path, name):
    make_voc(tmp_path, {"a": xml("bird")})
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "JPEGImages" / name)
    assert voc(tmp_path, class_id=class_id).records[0].path.name == name


def from_a_tool(*objects: tuple[str, str, str]) -> str:
    """An annotation as labelling tools write it: empty elements, one within another of its name, boxes in fractions."""
    size = "<size>\n<height>338</height>\n<width>500</width>\n<depth>3</depth>\n</size>"
    head = f"<folder/>\n<filename>a.jpg</filename>\n<database/>\n<annotation/>\n<image/>\n{size}\n<segmented/>\n"
    box = "<bndbox><xmin>191.0</xmin><ymin>107.36900369003689</ymin><xmax>313.0</xmax><ymax>329.4</ymax></bndbox>"
    body = "".join(
        f"<object>\n<name>{name}</name>\n<pose/>\n{element('truncated', truncated)}\n"
        f"{element('difficult', difficult)}\n{box}\n</object>\n"
        for name, truncated, difficult in objects
    )
    return f"<annotation>\n{head}{body}</annotation>\n"


def element(name: str, text: str) -> str:
    return f"<{name}>{text}</{name}>" if text else f"<{name}/>"


def test_annotations_of_labelling_tools_are_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(from_a_tool(("person", "", ""), ("person", "", "")))
    assert read_annotation(path) == (["person", "person"], (338, 500))


def flagged(*objects: tuple[str, str, str]) -> str:
    things = "".join(
        f"<object><name>{n}</name><difficult>{d}</difficult><truncated>{t}</truncated></object>" for n, d, t in objects
    )
    return f"<annotation>{things}</annotation>"


def test_difficult_and_truncated_objects_are_labels_unless_dropped(tmp_path):
    make_voc(tmp_path, {"a": flagged(("bird", "1", "0"), ("boat", "0", "1"), ("person", "0", ""), ("bird", "", ""))})
    read = {
        (difficult, truncated): voc(tmp_path, class_id=class_id, difficult=difficult, truncated=truncated)
        for difficult in ("keep", "drop")
        for truncated in ("keep", "drop")
    }
    assert {flags: data.records[0].class_ids for flags, data in read.items()} == {
        ("keep", "keep"): (2, 3, 4),
        ("drop", "keep"): (3, 4, 2),
        ("keep", "drop"): (2, 4),
        ("drop", "drop"): (4, 2),
    }


def test_a_picture_of_difficult_objects_alone_is_left_out_and_told(tmp_path):
    make_voc(tmp_path, {"a": flagged(("bird", "1", "0")), "b": flagged(("boat", "0", "0")), "c": xml()})
    data = voc(tmp_path, class_id=class_id, difficult="drop")
    assert (ids(data), data.notes) == (["b"], ("1 picture left out: only difficult or truncated objects.",))
    assert "lists no object" in reason(data)


def test_without_labels_no_annotation_is_opened(tmp_path):
    make_voc(tmp_path, {"a": "no XML", "b": xml("unicorn")})
    data = voc(tmp_path, class_id=class_id, labelled=False)
    assert ([r.class_ids for r in data.records], data.problems) == ([(), ()], ())
    assert [r.size_hw for r in voc(tmp_path, class_id=class_id, labelled=False, need_size=True).records] == [(3, 5)]


def test_truncated_objects_of_annotations_of_labelling_tools_can_be_dropped(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(from_a_tool(("bus", "", ""), ("train", "1", "0"), ("car", "0", "1")))
    assert read_annotation(path, truncated="drop")[0] == ["bus", "car"]
    assert read_annotation(path, difficult="drop")[0] == ["bus", "train"]
    assert read_annotation(path)[0] == ["bus", "train", "car"]


def test_the_fingerprint_follows_the_labels_and_not_the_place(tmp_path):
    prints = [
        voc(make_voc(tmp_path / place, {"a": xml(label)}), class_id=class_id).fingerprint()
        for place, label in (("one", "bird"), ("two", "bird"), ("three", "boat"))
    ]
    assert prints[0] == prints[1] != prints[2]


def table(tmp_path: Path, text: str | bytes, *pictures: str) -> Dataset:
    for name in pictures or ("a.jpg", "b.jpg"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "labels.csv").write_bytes(data)
    return folder(tmp_path / "pictures", tmp_path / "labels.csv", class_id=class_id)


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na.jpg,bird;boat\n",
        "\ufeffimage,labels\r\na.jpg,bird;boat\r\n",
        'Image , "labels"\n"a.jpg"," bird ; boat ;"\n\n',
        "number,labels,image\n1,bird;bird;boat,a.jpg",
    ],
    ids=["plain", "mark and crlf", "quotes, spaces, blank line", "more columns, a label twice"],
)
def test_a_table_is_read_however_it_was_saved(tmp_path, text):
    data = table(tmp_path, text)
    assert data.problems == ()
    assert [(r.image_id, r.class_ids) for r in data.records] == [("a", (2, 3))]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a.jpg,aeroplan", "Nearest: 'aeroplane'"),
        ("a.jpg,", "lists no object"),
        ("a.jpg, ; ", "lists no object"),
        ("a.jpg", "has 1 columns"),
        ("a.jpg,bird,boat", "has 3 columns"),
        (",bird", "names the picture ''"),
        ("c.jpg,bird", "which is not there"),
        ("../pictures/a.jpg,bird", "without '..'"),
        ("/etc/passwd,bird", "without '..'"),
        ("sub\\a.jpg,bird", "with / for sub-folders"),
        ('"a.jpg,bird', "Close the quotes"),
        ("a\x00.jpg,bird", "zero byte"),
        ("a.jpg," + "x" * 200_000, "field larger than field limit"),
        ("b.jpg,boat", "listed twice"),
        ("b.png,boat", "listed twice"),
    ],
)
def test_a_bad_row_is_a_problem_and_the_others_are_read(tmp_path, row, says):
    data = table(tmp_path, f"image,labels\nb.jpg,bird\n{row}\nlast.jpg,person\n", "a.jpg", "b.jpg", "b.png", "last.jpg")
    assert ids(data) == ["b", "last"]
    assert says in reason(data)
    assert "labels.csv line 3" in reason(data)
    assert len(reason(data)) < 1000


def test_a_row_that_is_no_text_is_a_problem(tmp_path):
    data = table(tmp_path, b"image,labels\nb.jpg,bird\n\xff\xfe\xfd,bird\n")
    assert ids(data) == ["b"]
    assert "not UTF-8" in reason(data)


@pytest.mark.parametrize("text", ["a.jpg,bird\n", "image,labels,labels\n", ""])
def test_a_table_without_its_header_says_what_it_should_be(tmp_path, text):
    with pytest.raises(DataError, match="a first line `image,labels`"):
        table(tmp_path, text)


def test_a_table_without_rows_or_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="lists no picture"):
        table(tmp_path, "image,labels\n")
    with pytest.raises(DataError, match="does not exist"):
        folder(tmp_path / "pictures", tmp_path / "none.csv", class_id=class_id)
    with pytest.raises(DataError, match="is not a folder"):
        folder(tmp_path / "none", tmp_path / "labels.csv", class_id=class_id)


def test_sub_folders_become_part_of_the_id(tmp_path):
    data = table(
        tmp_path, "image,labels\nx/a.jpg,bird\ny/a.jpg,boat\nx__a.jpg,bird\n", "x/a.jpg", "y/a.jpg", "x__a.jpg"
    )
    assert ids(data) == ["x__a", "y__a"]
    assert "listed twice" in reason(data)


def test_masks_of_a_folder_are_found_by_id_or_in_the_same_sub_folder(tmp_path):
    table(tmp_path, "image,labels\na.jpg,bird\nx/b.jpg,boat\nc.jpg,boat\n", "a.jpg", "x/b.jpg", "c.jpg")
    (tmp_path / "truth/x").mkdir(parents=True)
    (tmp_path / "truth/a.png").touch()
    (tmp_path / "truth/x/b.png").touch()
    data = folder(tmp_path / "pictures", tmp_path / "labels.csv", class_id=class_id, truth=tmp_path / "truth")
    assert data.truth == {"a": tmp_path / "truth/a.png", "x__b": tmp_path / "truth/x/b.png"}


def coco(tmp_path: Path, text: str, **options) -> Dataset:
    for name in ("train2014/COCO_train2014_000000000009", "val2014/COCO_val2014_000000000042"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "train.txt").write_text(text)
    return coco14(tmp_path, **options)


def test_a_line_of_coco_is_an_id_and_class_ids(tmp_path):
    data = coco(tmp_path, "COCO_train2014_000000000009 45 49 50\nCOCO_val2014_000000000042 0\n")
    assert [(r.image_id[-2:], r.class_ids) for r in data.records] == [("09", (45, 49, 50)), ("42", (0,))]
    assert data.records[1].path == tmp_path / "val2014/COCO_val2014_000000000042.jpg"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("COCO_val2014_000000000042 80", "whole numbers 0..79"),
        ("COCO_val2014_000000000042 -1", "whole numbers 0..79"),
        ("COCO_val2014_000000000042 dog", "not a class id"),
        ("COCO_val2014_000000000042", "lists no object"),
        ("COCO_train2014_000000000009 1", "listed twice"),
        ("COCO_train2014_000000000010 1", "has no picture"),
        ("../../etc/passwd 1", "plain file name"),
    ],
)
def test_a_bad_line_of_coco_is_a_problem_and_the_others_are_read(tmp_path, line, says):
    data = coco(tmp_path, f"COCO_train2014_000000000009 45\n{line}\n")
    assert ids(data) == ["COCO_train2014_000000000009"]
    assert says in reason(data)


def test_coco_without_a_list_says_where_it_comes_from(tmp_path):
    coco(tmp_path, "COCO_train2014_000000000009 45\n")
    with pytest.raises(DataError, match=r"name it with --list-file"):
        coco14(tmp_path, "val")
    with pytest.raises(DataError, match="layout of COCO 2014"):
        coco14(tmp_path / "none")


def test_coco_masks_are_found_in_the_folder_or_one_below(tmp_path):
    (tmp_path / "masks/val2014").mkdir(parents=True)
    (tmp_path / "masks/val2014/COCO_val2014_000000000042.png").touch()
    data = coco(tmp_path, "COCO_train2014_000000000009 45\nCOCO_val2014_000000000042 1\n", truth=tmp_path / "masks")
    assert list(data.truth) == ["COCO_val2014_000000000042"]


def test_a_problem_is_one_short_printable_line():
    problem = Problem.of("a\nb\0" + "x" * 500, DataError("one\ntwo"), "encode")
    assert (problem.image_id[:8], len(problem.image_id) < 210) == ("a\\nb\\x00", True)
    assert (problem.reason, problem.stage) == ("one\\ntwo.", "encode")


def test_a_list_that_is_endless_is_refused(tmp_path):
    with (tmp_path / "list.txt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="too large"):
        next(read_lines(tmp_path / "list.txt"))
