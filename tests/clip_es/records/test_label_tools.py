"""Labels of labelling tools, written by the tools' own libraries where they install, and read with nothing lost."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, folder
from clip_es.records.elsewhere import tails
from clip_es.records.labels.formats import LABEL_FORMATS, open_labels
from clip_es.records.labels.lines import Asked
from clip_es.records.labels.names import label_names
from clip_es.records.labels.rows import unpack

WORDS = load_vocabulary("voc12")
TRUTH = {"a": ("cat", "dog"), "b": ("sofa",), "x__c": ("dog",)}
FILES = {"a": "a.jpg", "b": "b.png", "x__c": "x/c.jpg"}
SIZE = (6, 8)


@pytest.fixture
def root(tmp_path):
    """Three pictures below `pictures`, one of them in a sub-folder."""
    rng = np.random.default_rng(0)
    for name in FILES.values():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    return tmp_path


def read(root: Path, labels: Path, **options) -> Dataset:
    return folder(root / "pictures", labels, class_id=WORDS.class_id, class_count=20, **options)


def found(data: Dataset) -> dict[str, tuple[str, ...]]:
    return {record.image_id: tuple(sorted(WORDS.names[k] for k in record.class_ids)) for record in data.records}


def told(name: str, data: Dataset) -> None:
    """Print what was read, and hold it against the truth."""
    same = found(data) == TRUTH
    labels = sum(map(len, TRUTH.values()))
    sys.stdout.write(f"{name}: {len(data.records)} pictures, {labels} labels, {0 if same else 'some'} differ\n")
    assert found(data) == TRUTH
    assert data.problems == ()


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# Each tool's own writer


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_labelme_files_written_by_labelme(root):
    tool = pytest.importorskip("labelme", exc_type=ImportError)
    shape = {"shape_type": "rectangle", "points": [[1, 1], [4, 4]], "flags": {}, "group_id": None, "description": ""}
    for image_id, file in FILES.items():
        first, *others = TRUTH[image_id]
        flags = {"cat": False, "dog": False, "sofa": False, first: True}
        shapes = [{**shape, "label": label, "mask": None} for label in (*others, "__ignore__")]
        out = root / "json" / Path(file).with_suffix(".json")
        out.parent.mkdir(parents=True, exist_ok=True)
        tool.LabelFile().save(
            str(out), shapes=shapes, image_path=Path(file).name, image_height=SIZE[0], image_width=SIZE[1], flags=flags
        )
    told("labelme", read(root, root / "json"))


@pytest.mark.parametrize(("kind", "form"), [("cvat", "cvat"), ("datumaro", "datumaro"), ("coco_instances", "coco")])
def test_files_written_by_datumaro(root, kind, form):
    tool = pytest.importorskip("datumaro", exc_type=ImportError)
    items = []
    for image_id, file in FILES.items():
        labels = [WORDS.names.index(name) for name in TRUTH[image_id]]
        made = [tool.Bbox(1, 1, 3, 3, label=k, group=n) for n, k in enumerate(labels, 1)]
        if form != "coco":
            made[0] = tool.Label(labels[0])
        image = tool.Image.from_file(path=str(root / "pictures" / file), size=SIZE)
        items.append(
            tool.DatasetItem(id=str(Path(file).with_suffix("")), subset="train", media=image, annotations=made)
        )
    data = tool.Dataset.from_iterable(items, categories=list(WORDS.names), media_type=tool.Image)
    data.export(str(root / "out"), kind, save_media=False)
    read_back = read(root, root / "out")
    told(f"{kind} by datumaro", read_back)
    assert label_names(root / "out") >= {"cat", "dog", "sofa"}
    assert {row.name for row in LABEL_FORMATS.values()} >= {form}


def test_a_hugging_face_folder_says_what_datasets_reads_in_it(root):
    datasets = pytest.importorskip("datasets")
    rows = [{"file_name": FILES[k], "labels": list(labels), "id": k} for k, labels in TRUTH.items()]
    write(root / "pictures" / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(root / "pictures"), cache_dir=str(root / "cache"), split="train", streaming=True
    )
    assert {row["id"]: tuple(row["labels"]) for row in theirs} == TRUTH
    told("huggingface", read(root, root / "pictures" / "metadata.jsonl"))
    told("huggingface, the folder", read(root, root / "pictures"))


CONFIG = """<View><Image name="img" value="$image"/>
<Choices name="what" toName="img" choice="multiple"><Choice value="cat"/><Choice value="dog"/><Choice value="sofa"/>
</Choices></View>"""


def tasks() -> list[dict]:
    """As "Export, JSON" writes them: an upload, a file of a local storage, an object of a bucket."""
    places = {
        "a": "/data/upload/3/9b1deb4d-a.jpg",
        "b": "/data/local-files/?d=photos%2Fb.png",
        "x__c": "s3://bucket/photos/x/c.jpg",
    }
    found = []
    for number, (image_id, labels) in enumerate(TRUTH.items(), start=1):
        result = {
            "id": f"r{number}",
            "type": "choices",
            "from_name": "what",
            "to_name": "img",
            "value": {"choices": list(labels)},
        }
        annotation = {"id": number, "result": [result], "was_cancelled": False, "ground_truth": False}
        found.append(
            {"id": number, "data": {"image": places[image_id]}, "annotations": [annotation], "predictions": []}
        )
    return found


def test_an_export_of_label_studio(root):
    told("label-studio", read(root, write(root / "export.json", tasks())))


def test_a_short_export_written_by_the_converter_of_label_studio(root):
    converter = pytest.importorskip("label_studio_sdk.converter", exc_type=ImportError)
    write(root / "in" / "tasks.json", tasks())
    converter.Converter(config=CONFIG, project_dir=str(root), download_resources=False).convert_to_json_min(
        str(root / "in"), str(root / "out")
    )
    told("label-studio, JSON-MIN", read(root, root / "out" / "result.json"))


def test_annotations_of_label_studio_that_do_not_count(root):
    both = tasks()
    cancelled = {"id": 9, "result": [{"from_name": "what", "value": {"choices": ["sofa"]}}], "was_cancelled": True}
    both[0]["annotations"].append(cancelled)
    certain = {"id": 10, "ground_truth": True, "result": [{"from_name": "what", "value": {"choices": ["sofa"]}}]}
    both[1]["annotations"] = [{"id": 8, "result": [{"from_name": "x", "value": {"choices": ["cat"]}}]}, certain]
    both[2]["annotations"] = []
    data = read(root, write(root / "export.json", both))
    assert found(data) == {"a": ("cat", "dog"), "b": ("sofa",)}
    assert data.notes == ("1 picture left out: no annotation yet.",)


# Forms that a tool documents and whose library does not install here


def test_x_anylabeling_files(root):
    for image_id, file in FILES.items():
        first, *others = TRUTH[image_id]
        tree = {"version": "3.2.1", "flags": {first: True, "train": False}, "checked": True, "imageData": None}
        tree |= {
            "imagePath": f"..\\pictures\\{file}".replace("/", "\\"),
            "imageHeight": 6,
            "imageWidth": 8,
            "shapes": [],
        }
        write(root / "json" / f"{image_id}.json", {**tree, "tags": others})
    told("X-AnyLabeling", read(root, root / "json"))


@pytest.mark.parametrize("style", ["numbers", "names", "objects"])
def test_labels_json_of_fiftyone(root, style):
    classes = ["cat", "dog", "sofa"]
    how = {
        "numbers": lambda labels: (
            [classes.index(name) for name in labels] if len(labels) > 1 else classes.index(labels[0])
        ),
        "names": list,
        "objects": lambda labels: [{"label": name, "confidence": 0.9} for name in labels],
    }[style]
    tree = {"classes": classes if style == "numbers" else None}
    tree["labels"] = {str(Path(file).with_suffix("")): how(TRUTH[image_id]) for image_id, file in FILES.items()}
    told(f"fiftyone labels.json, {style}", read(root, write(root / "labels.json", tree)))


def test_samples_json_of_fiftyone(root):
    samples = [
        {
            "filepath": f"/home/other/set/{FILES[image_id]}",
            "ground_truth": {
                "_cls": "Classifications",
                "classifications": [{"_cls": "Classification", "label": name} for name in labels],
            },
            "guess": {"_cls": "Classification", "label": "cat"},
        }
        for image_id, labels in TRUTH.items()
    ]
    write(root / "set" / "metadata.json", {"name": "set", "media_type": "image"})
    write(root / "set" / "samples.json", {"samples": samples})
    told("fiftyone samples.json", read(root, root / "set"))
    guessed = read(root, root / "set", label_field="guess")
    assert set(found(guessed).values()) == {("cat",)}
    for sample in samples:
        sample["mine"] = sample.pop("ground_truth")
    write(root / "set" / "samples.json", {"samples": samples})
    with pytest.raises(DataError, match=r"several fields with labels\. Expected one of .*guess"):
        read(root, root / "set")


def test_a_one_hot_table(root):
    pandas = pytest.importorskip("pandas")
    flat = pandas.DataFrame(
        [(FILES[k], name) for k, labels in TRUTH.items() for name in labels], columns=["image", "l"]
    )
    for kind in (int, bool, float):
        table = pandas.get_dummies(flat, columns=["l"], prefix="", prefix_sep="", dtype=kind).groupby("image").max()
        table.to_csv(root / "hot.csv")
        told(f"one-hot CSV, {kind.__name__}", read(root, root / "hot.csv"))
    assert label_names(root / "hot.csv") == {"cat", "dog", "sofa"}


def test_a_cell_that_is_neither_yes_nor_no_is_a_problem_of_its_row(root):
    (root / "hot.csv").write_text("image,cat,dog\na.jpg,1,0\nb.png,2,0\nx/c.jpg,0,0\n")
    data = read(root, root / "hot.csv")
    assert found(data) == {"a": ("cat",)}
    assert "hot.csv line 3: holds '2' in the column of cat" in data.problems[0].reason
    assert data.notes == ("1 picture left out: no class is 1 in its row.",)


# What all share


def test_a_zip_archive_is_read_like_its_folder(root):
    tree = {"flags": {"cat": True}, "shapes": [], "imagePath": "a.jpg"}
    with zipfile.ZipFile(root / "labels.zip", "w") as archive:
        archive.writestr("set/a.json", json.dumps(tree))
        archive.writestr("__MACOSX/set/._a.json", "no JSON")
    assert found(read(root, root / "labels.zip")) == {"a": ("cat",)}
    with zipfile.ZipFile(root / "labels.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.jsonl", '{"file_name": "b.png", "label": "sofa"}\n')
    assert found(read(root, root / "labels.zip")) == {"b": ("sofa",)}


def test_a_format_may_be_named(root):
    (root / "hot.csv").write_text("image,labels\na.jpg,cat\n")
    assert found(read(root, root / "hot.csv", labels_format="csv")) == {"a": ("cat",)}
    with pytest.raises(DataError, match="is not Datumaro's JSON"):
        read(root, write(root / "x.json", {"flags": {}}), labels_format="datumaro")
    with pytest.raises(ConfigError, match="there is no such format of labels"):
        read(root, root / "hot.csv", labels_format="cvatt")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "is not a JSON file"),
        ("a.json", "[]", "is not a file of labels in any known format"),
        ("a.json", "[" * 100_000, "is not a JSON file"),
        ("a.xml", "<annotations><image", "is not well-formed XML"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY e "x">]><annotations/>', "declares a document type"),
        ("a.xml", "<html/>", "is not a file of labels in any known format"),
        ("a.json", '{"items": [], "categories": {}}', "does not name its labels"),
    ],
)
def test_a_file_that_is_not_what_it_seems_is_refused(root, name, text, says):
    with pytest.raises(DataError, match=says):
        read(root, write(root / name, text))


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ([{"data": {"image": "a.jpg"}, "annotations": 3}], "no list of annotations"),
        ([{"data": {"text": "no picture"}, "annotations": []}], "names no picture"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "has no file_name"),
        ({"labels": {"a": [7]}, "classes": ["cat"]}, "none of its classes"),
        ({"flags": {}, "shapes": [{"label": None}], "imagePath": "a.jpg"}, "a shape without a label"),
        (
            {"items": [{"id": "a", "annotations": [{"label_id": 1}]}], "categories": {"label": {"labels": []}}},
            "known label",
        ),
        ({"flags": {"cat": True}, "shapes": [], "imagePath": "../../etc/passwd"}, "which is not there"),
        ({"flags": {"cta": True}, "shapes": [], "imagePath": "a.jpg"}, "Nearest: 'cat'"),
    ],
)
def test_a_bad_entry_is_a_problem_and_no_crash(root, tree, says):
    data = read(root, write(root / "labels.json", tree))
    assert len(data.records) == 0
    assert [says in problem.reason for problem in data.problems] == [True]


def test_pictures_are_found_by_the_end_of_their_path():
    assert list(tails("C:\\set\\x\\c.jpg")) == ["set/x/c.jpg", "x/c.jpg", "c.jpg"]
    assert list(tails("../up/../x/./c.jpg")) == ["x/c.jpg", "c.jpg"]
    assert list(tails("/data/upload/3/9b1deb4d-a%20b.jpg"))[-1] == "a b.jpg"
    assert list(tails("https://host/p/a.jpg?token=1")) == ["p/a.jpg", "a.jpg"]
    assert "/".join(["photos", "b.png"]) in list(tails("/data/local-files/?d=photos%2Fb.png"))
    for stated in ("", "/", "..", "a/..", "\0", "http://[", "://"):
        assert all(".." not in tail.split("/") and not tail.startswith("/") for tail in tails(stated))


def test_a_picture_in_a_sub_folder_is_told_from_one_of_the_same_name_elsewhere(root):
    Image.new("RGB", (8, 6)).save(root / "pictures" / "c.jpg")
    tree = {"labels": {}, "classes": None}
    tree["labels"] = {"set/x/c": "dog", "set/y/c": "cat"}
    assert found(read(root, write(root / "labels.json", tree))) == {"x__c": ("dog",), "c": ("cat",)}


def test_the_vocabulary_of_a_file_has_the_classes_it_declares(root):
    rows = list(csv.reader(["image,zebra,cat", "a.jpg,0,1"]))
    (root / "hot.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    table = open_labels(root / "hot.csv", Asked(WORDS.class_id, 20, tuple))
    assert table.classes == ("zebra", "cat")
    assert label_names(root / "hot.csv") == {"zebra", "cat"}


# Data sets whose pictures lie in tables


def rows_of(root: Path):
    """A saved data set of three pictures, the labels as numbers of declared classes."""
    datasets = pytest.importorskip("datasets")
    classes = datasets.ClassLabel(names=["sofa", "cat", "dog"])
    features = datasets.Features(
        {"image": datasets.Image(), "labels": datasets.Sequence(classes), "id": datasets.Value("string")}
    )
    rows = {
        "image": [str(root / "pictures" / FILES[k]) for k in TRUTH],
        "labels": [[classes.str2int(name) for name in labels] for labels in TRUTH.values()],
        "id": list(TRUTH),
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("how", ["saved", "splits", "parquet"])
def test_rows_of_datasets_are_streamed_and_each_picture_keeps_its_bytes(root, how):
    made = rows_of(root)
    if how == "saved":
        made.save_to_disk(str(root / "set"))
    elif how == "splits":
        pytest.importorskip("datasets").DatasetDict({"train": made}).save_to_disk(str(root / "set"))
    else:
        (root / "set").mkdir()
        made.to_parquet(str(root / "set" / "train.parquet"))
    found = unpack(str(root / "set"), "train", root / "out")
    assert (found.classes, found.rows) == (("sofa", "cat", "dog"), 3)
    data = read_at(root / "out", found.labels)
    assert [tuple(sorted(WORDS.names[k] for k in r.class_ids)) for r in data.records] == list(TRUTH.values())
    same = [
        r.path.read_bytes() == (root / "pictures" / FILES[k]).read_bytes()
        for r, k in zip(data.records, TRUTH, strict=True)
    ]
    sys.stdout.write(f"datasets, {how}: {len(same)} pictures, {same.count(False)} of other bytes\n")
    assert all(same)
    before = (root / "out" / "metadata.jsonl").stat().st_mtime_ns
    assert unpack(str(root / "set"), "train", root / "out") == found
    assert (root / "out" / "metadata.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="holds another data set"):
        unpack(str(root / "set"), "test", root / "out")


@pytest.mark.parametrize("kind", ["lists", "objects", "one"])
def test_numbers_have_the_names_that_datasets_declares_whatever_order_the_vocabulary_has(root, kind):
    datasets = pytest.importorskip("datasets")
    classes = datasets.ClassLabel(names=["sofa", "cat", "dog"])
    numbers = [[classes.str2int(name) for name in labels] for labels in [*TRUTH.values(), ()]]
    features, rows = {
        "lists": ({"category": datasets.List(classes)}, {"category": numbers}),
        "objects": ([{"category": classes}], [[{"category": k} for k in row] for row in numbers]),
        "one": (classes, [row[0] if row else -1 for row in numbers]),
    }[kind]
    if kind == "objects":
        features = datasets.List(features[0])
    elif kind == "lists":
        rows = [{"category": row} for row in numbers]
    pictures = [str(root / "pictures" / FILES[k]) for k in [*TRUTH, "a"]]
    made = datasets.Dataset.from_dict(
        {"image": pictures, "label" if kind == "one" else "objects": rows},
        features=datasets.Features({"image": datasets.Image(), "label" if kind == "one" else "objects": features}),
    )
    made.save_to_disk(str(root / "set"))
    unpacked = unpack(str(root / "set"), "train", root / "out")
    assert unpacked.classes == ("sofa", "cat", "dog")
    data = read_at(root / "out", unpacked.labels)
    wanted = [labels[:1] if kind == "one" else labels for labels in TRUTH.values()]
    assert [tuple(sorted(WORDS.names[k] for k in r.class_ids)) for r in data.records] == wanted
    assert data.notes == ("1 picture left out: no label in the file.",)


def read_at(images: Path, labels: Path) -> Dataset:
    return folder(images, labels, class_id=WORDS.class_id, class_count=20, labels_format="huggingface")


def test_a_data_set_that_is_not_there_or_has_no_pictures_says_so(root):
    datasets = pytest.importorskip("datasets")
    with pytest.raises(DataError, match="cannot be loaded"):
        unpack(str(root / "none"), "train", root / "out")
    datasets.Dataset.from_dict({"text": ["a"], "label": [1]}).save_to_disk(str(root / "words"))
    with pytest.raises(ConfigError, match="which column holds the pictures"):
        unpack(str(root / "words"), "train", root / "out2")
    (root / "taken").mkdir()
    (root / "taken" / "notes.md").touch()
    with pytest.raises(ConfigError, match="the folder holds other files"):
        unpack(str(root / "words"), "train", root / "taken")
