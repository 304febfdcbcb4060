"""Labels of every kind: tables, arrays, pickled dictionaries that are read and never run, sub-folders, none at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from clip_es.errors import DataError
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, folder

WORDS = load_vocabulary("voc12")
CAT, DOG, SOFA = (WORDS.class_id(name) for name in ("cat", "dog", "sofa"))


def pictures(root: Path, *names: str) -> Path:
    for name in names or ("a.jpg", "b.PNG", "x/c.webp"):
        (root / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "pictures" / name).touch()
    return root / "pictures"


def read(root: Path, labels: str | Path, **options) -> Dataset:
    return folder(root / "pictures", labels, class_id=WORDS.class_id, class_count=20, **options)


def found(data: Dataset) -> dict[str, tuple[int, ...]]:
    return {record.image_id: record.class_ids for record in data.records}


WANTED = {"a": (CAT, DOG), "b": (SOFA,), "x__c": (DOG,)}


def one_hot(*ids: int, dtype: str = "float32") -> np.ndarray:
    row = np.zeros(20, dtype)
    row[list(ids)] = 1
    return row


def test_every_kind_of_table_says_the_same(tmp_path):
    top = pictures(tmp_path)
    texts = {
        "l.csv": "image,labels\na.jpg,cat;dog\nb.PNG,sofa\nx/c.webp,dog\n",
        "l.jsonl": '{"image": "a.jpg", "labels": ["cat", 11], "split": 1}\n\n{"image": "b", "labels": "sofa"}\n'
        '{"image": "x/c.webp", "labels": [11]}\n',
        "l.txt": "a 7 11\nb.PNG sofa\nx__c dog\n",
        "l.lst": "a.jpg cat Dog\nb sofa\nx/c 11 11\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        data = read(tmp_path, tmp_path / name)
        assert (found(data), data.problems) == (WANTED, ()), name
    hot = np.stack([one_hot(CAT, DOG), one_hot(SOFA), one_hot(DOG)])
    for kind in ("float32", "uint8", "bool", "int64", ">f4"):
        for order in "CF":
            np.save(tmp_path / "rows.npy", np.array(hot.astype(kind), order=order))
            # No rows.txt: the pictures of the folder by name.
            assert found(read(tmp_path, tmp_path / "rows.npy")) == WANTED
    (tmp_path / "rows.txt").write_text("b\na.jpg 3 4\nx/c.webp\n")
    np.save(tmp_path / "rows.npy", hot[[1, 0, 2]])
    records = read(tmp_path, tmp_path / "rows.npy").records
    assert [(r.image_id, r.class_ids) for r in records] == [("b", (SOFA,)), ("a", (CAT, DOG)), ("x__c", (DOG,))]
    assert [r.path for r in records] == [top / "b.PNG", top / "a.jpg", top / "x/c.webp"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_pickled_dictionary_of_the_papers_is_read_without_being_run(tmp_path, protocol):
    pictures(tmp_path)
    table = {"a": one_hot(CAT, DOG), "b": one_hot(SOFA, dtype="uint8"), "x__c": [0] * DOG + [1] + [0] * (19 - DOG)}
    save(tmp_path / "cls_labels.npy", table, protocol)
    data = read(tmp_path, tmp_path / "cls_labels.npy")
    assert (found(data), data.problems) == (WANTED, ())


def test_numpys_own_file_of_a_dictionary_is_read(tmp_path):
    pictures(tmp_path)
    table = {"a": one_hot(CAT, DOG), "b": one_hot(SOFA), "x__c": one_hot(DOG)}
    np.save(tmp_path / "cls_labels.npy", np.array(table, object))
    assert found(read(tmp_path, tmp_path / "cls_labels.npy")) == WANTED


def test_numbers_of_coco_are_found_whatever_the_folder(tmp_path):
    pictures(tmp_path, "COCO_train2014_000000000009.jpg", "val2014/COCO_val2014_000000000042.jpg")
    save(tmp_path / "l.npy", {9: one_hot(CAT), np.int64(42): one_hot(DOG)}, 4)
    assert found(read(tmp_path, tmp_path / "l.npy")) == {
        "COCO_train2014_000000000009": (CAT,),
        "val2014__COCO_val2014_000000000042": (DOG,),
    }


def save(path: Path, value: object, protocol: int = 4) -> None:
    """As numpy.save does for an object: its header, then a pickle of the array that holds it."""
    box = np.empty((), object)
    box[()] = value
    raw(path, pickle.dumps(box, protocol))


def raw(path: Path, program: bytes) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(content.getvalue() + program)


class _Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


class _Quiet:
    """As a list that asks for a class of its own, which numpy's files never need."""


@pytest.mark.parametrize(
    "value",
    [_Harm(), {"a": _Harm()}, {"a": _Quiet()}, {"a": np.zeros(20), "b": os.system}, {"a": {1, 2}}, {(1, 2): 3}],
    ids=["harm", "harm inside", "a class", "a function", "a set", "a tuple as key"],
)
def test_a_pickle_that_is_more_than_arrays_is_refused_and_nothing_of_it_happens(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path)
    for protocol in (2, 4):
        save(tmp_path / "l.npy", value, protocol)
        with pytest.raises(DataError, match="Write the labels as CSV or JSON lines instead"):
            read(tmp_path, tmp_path / "l.npy")
    assert not (tmp_path / "harm").exists()
    np.load(tmp_path / "l.npy", allow_pickle=True) if value.__class__ is _Harm else None
    assert (tmp_path / "harm").exists() is (value.__class__ is _Harm)  # so the file would have done it


@pytest.mark.parametrize(
    "program",
    [b"", b".", b"(.", b"\x80\x04", b"cos\nsystem\n(S'true'\ntR.", b"}(K\x01K\x02u.", b"]." * 5,
     b"\x80\x04" + b"N" * 100, b"N0N.", b"\x8e" + struct.pack("<Q", 2**62) + b"x.", b"(" * 1000 + b"t" * 1000 + b"."],
)  # fmt: skip
def test_bytes_that_are_no_such_pickle_are_refused(tmp_path, program):
    pictures(tmp_path)
    raw(tmp_path / "l.npy", program)
    with pytest.raises(DataError):
        read(tmp_path, tmp_path / "l.npy")


def test_tuples_that_hold_each_other_take_no_time(tmp_path):
    pictures(tmp_path)
    # t = (); t = (t, t), sixty times over: 2**60 tuples if anybody looked at them, as a key, a value or a shape.
    nest = b")" + b"q\x00h\x00\x86" * 60
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    for program in (nest + b".", b"}" + nest + b"K\x01s."):
        raw(tmp_path / "l.npy", program)
        with pytest.raises(DataError):
            read(tmp_path, tmp_path / "l.npy")
    raw(tmp_path / "l.npy", array + b"(K\x01)N\x89](}" + b"X\x01\x00\x00\x00a" + nest + b"setb.")
    assert "is not an array of numbers" in read(tmp_path, tmp_path / "l.npy").problems[0].reason


def test_a_row_of_a_dictionary_that_is_no_array_is_a_problem(tmp_path):
    pictures(tmp_path)
    save(tmp_path / "l.npy", {"a": one_hot(CAT), "b": "sofa", "x__c": np.zeros((2, 20)), "d": one_hot(DOG)})
    data = read(tmp_path, tmp_path / "l.npy")
    assert found(data) == {"a": (CAT,)}
    says = [problem.reason for problem in data.problems]
    assert "is not an array of numbers" in says[0]
    assert "is not a row of 0 and 1" in says[1]
    assert "lists 'd', which is not there" in says[2]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 19), "u1"), "another number of columns than the vocabulary has classes"),
        (np.eye(4, 20, dtype="u1"), "has more rows than there are pictures"),
        (np.eye(2, 20, dtype="u1"), "has fewer rows than there are pictures"),
        (np.zeros(20), "is not a one-hot array"),
        (np.zeros((0, 20)), "is not a one-hot array"),
        (np.array([["cat"] * 20] * 3), "is not a one-hot array"),
        (np.zeros((3, 20), [("a", "f4")]), "is not a one-hot array"),
        (np.zeros((3, 20), "c8"), "is not a one-hot array"),
    ],
)
def test_an_array_of_another_shape_or_kind_is_refused(tmp_path, array, says):
    pictures(tmp_path)
    np.save(tmp_path / "l.npy", array)
    with pytest.raises(DataError, match=says):
        read(tmp_path, tmp_path / "l.npy")


def test_a_row_of_other_numbers_is_a_problem(tmp_path):
    pictures(tmp_path)
    hot = np.stack([one_hot(CAT), one_hot(DOG) * 0.5, one_hot(DOG) * np.nan])
    np.save(tmp_path / "l.npy", hot)
    data = read(tmp_path, tmp_path / "l.npy")
    assert found(data) == {"a": (CAT,)}
    assert ["is not a row of 0 and 1" in problem.reason for problem in data.problems] == [True, True]
    assert "l.npy row 2" in data.problems[0].reason


def test_a_damaged_array_file_is_refused(tmp_path):
    pictures(tmp_path)
    np.save(tmp_path / "l.npy", np.eye(3, 20))
    whole = (tmp_path / "l.npy").read_bytes()
    for data in (b"", b"\x93NUMPY", whole[:60], whole[:-1], b"PK\x03\x04", whole.replace(b"(3, 20)", b"(3, -2)"),
                 whole.replace(b"\x01\x00", b"\x07\x00", 1), whole.replace(b"'<f8'", b"'<f\xff")):  # fmt: skip
        (tmp_path / "l.npy").write_bytes(data)
        with pytest.raises(DataError):
            read(tmp_path, tmp_path / "l.npy")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not an object with a picture"),
        ("[]", "is not an object with a picture"),
        ("{}", "is not an object with a picture"),
        ('{"image": 1, "labels": []}', "is not an object with a picture"),
        ('{"image": "a.jpg", "labels": [1.5]}', "is not an object with a picture"),
        ('{"image": "a.jpg", "labels": [true]}', "is not an object with a picture"),
        ('{"image": "a.jpg", "labels": {"cat": 1}}', "is not an object with a picture"),
        ('{"image": "a.jpg", "labels": []}', "lists no object"),
        ('{"image": "a.jpg", "labels": ["catt"]}', "Nearest: 'cat'"),
        ('{"image": "a.jpg", "labels": [20]}', "lists the class id 20. Expected 0..19"),
        ('{"image": "a.jpg", "labels": [-1]}', "'-1' is not one of the 20 names"),
        ('{"image": "../a.jpg", "labels": ["cat"]}', "without '..'"),
        ('{"image": "a\\u0000.jpg", "labels": ["cat"]}', "without '..'"),
        ('{"image": "a\\ud800.jpg", "labels": ["cat"]}', "plain file name"),
        ("[" * 100_000, "is not an object with a picture"),
        ("9" * 5_000, "is not an object with a picture"),
    ],
)
def test_a_bad_line_of_json_is_a_problem_and_the_others_are_read(tmp_path, line, says):
    pictures(tmp_path)
    (tmp_path / "l.jsonl").write_text(f'{line}\n{{"image": "b.PNG", "labels": ["sofa"]}}\n')
    data = read(tmp_path, tmp_path / "l.jsonl")
    assert found(data) == {"b": (SOFA,)}
    assert says in data.problems[0].reason
    assert "l.jsonl line 1" in data.problems[0].reason


def test_a_table_of_an_unknown_kind_names_the_known_ones(tmp_path):
    pictures(tmp_path)
    (tmp_path / "l.html").touch()
    with pytest.raises(DataError, match=r"jsonl \(\.jsonl, \.ndjson\)"):
        read(tmp_path, tmp_path / "l.html")
    (tmp_path / "l.xlsx").touch()
    with pytest.raises(DataError, match="Save it as CSV"):
        read(tmp_path, tmp_path / "l.xlsx")
    with pytest.raises(DataError, match="Nearest: 'subfolders'"):
        read(tmp_path, "subfolder")


def test_sub_folders_are_labels(tmp_path):
    top = pictures(tmp_path, "cat/1.jpg", "cat/deep/2.gif", "dining table/1.tif", "cat/.hidden.jpg", "cat/notes.md")
    data = read(tmp_path, "subfolders")
    table = WORDS.class_id("diningtable")
    assert found(data) == {"cat__1": (CAT,), "cat__deep__2": (CAT,), "dining table__1": (table,)}
    assert [r.path for r in data.records] == [top / "cat/1.jpg", top / "cat/deep/2.gif", top / "dining table/1.tif"]
    pictures(tmp_path, "stray.jpg", "unicorn/1.jpg")
    says = [problem.reason for problem in read(tmp_path, "subfolders").problems]
    assert "'stray.jpg' lies in no sub-folder" in says[0]
    assert "'unicorn' is not one of the 20 names" in says[1]


@pytest.mark.parametrize("word", ["auto", "none"])
def test_without_labels_every_picture_of_every_kind_comes(tmp_path, word):
    ends = ("jpg", "JPEG", "png", "webp", "tif", "tiff", "bmp", "gif")
    pictures(tmp_path, *(f"p{i}.{end}" for i, end in enumerate(ends)), "deep/er/q.jpg", "readme.txt")
    data = read(tmp_path, word)
    assert found(data) == {**{f"p{i}": () for i in range(8)}, "deep__er__q": ()}
    assert data.problems == ()


def test_the_pictures_of_a_table_without_its_labels(tmp_path):
    pictures(tmp_path)
    (tmp_path / "l.csv").write_text("image,labels\na.jpg,unicorn\nb.PNG,\n")
    assert found(read(tmp_path, tmp_path / "l.csv", labelled=False)) == {"a": (), "b": ()}


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="lists no picture"):
        read(tmp_path, "auto")


def test_a_line_that_does_not_end_is_one_problem(tmp_path):
    pictures(tmp_path)
    (tmp_path / "l.txt").write_bytes(b"a cat\n" + b"x" * 3_000_000 + b"\r\nb sofa\n" + b"y" * 2_000_000)
    data = read(tmp_path, tmp_path / "l.txt")
    assert found(data) == {"a": (CAT,), "b": (SOFA,)}
    assert [p.image_id for p in data.problems] == ["l.txt line 2", "l.txt line 4"]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_lines_are_the_same_wherever_the_file_is_cut_into_pieces(tmp_path, monkeypatch, ending):
    from clip_es.records import text_files as lines

    text = ending.join([b"first", b"", b"  ", b"second \xc3\xa9", b"third"])
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbf" + text)
    for size in (4, 5, 6, 7, 8, 11, 100):
        monkeypatch.setattr(lines, "_CHUNK", size)
        assert list(lines.read_lines(tmp_path / "l.txt")) == [(1, "first"), (4, "second é"), (5, "third")]


def test_a_million_lines_would_fit_into_a_tenth_of_a_gigabyte(tmp_path):
    import tracemalloc

    names = [f"COCO_train2014_{number:012d}" for number in range(8_000)]
    top = pictures(tmp_path, "a.jpg")
    for name in names:
        (top / f"{name}.jpg").touch()
    (tmp_path / "l.csv").write_text("image,labels\n" + "".join(f"{name}.jpg,cat;dog;sofa\n" for name in names))
    read(tmp_path, tmp_path / "l.csv")
    tracemalloc.start()
    data = read(tmp_path, tmp_path / "l.csv")
    kept, peak = tracemalloc.get_traced_memory()
    for record in data.records[::50]:
        assert record.class_ids == (CAT, DOG, SOFA)
    walked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Beside a piece of the file, in bytes for each row:
    assert kept / len(names) < 80
    assert (peak - 2**20) / len(names) < 100
    assert walked == peak


def test_one_row_of_json_is_what_the_readme_shows(tmp_path):
    pictures(tmp_path, "a.jpg")
    (tmp_path / "l.jsonl").write_text(json.dumps({"image": "a.jpg", "labels": ["cat", "dog"]}))
    assert found(read(tmp_path, tmp_path / "l.jsonl")) == {"a": (CAT, DOG)}


def test_the_labels_that_a_run_found_can_be_given_back_with_pictures_that_have_none(tmp_path):
    pictures(tmp_path)
    (tmp_path / "labels.csv").write_text("image,labels,confidence,sure\na,cat,0.900,0.800\nb,,,0.700\n")
    data = read(tmp_path, tmp_path / "labels.csv")
    assert (found(data), data.problems) == ({"a": (CAT,)}, ())
    assert data.notes == ("1 picture left out: the run that wrote labels.csv found no label.",)
