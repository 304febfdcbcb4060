"""Exports as people have them: YOLO and VOC folders, Roboflow's, spreadsheets, Label Studio's tables, FiftyOne's own.

What a tool's library writes is written by it; FiftyOne's files were recorded from its exporters, see tests/golden.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_es.errors import ConfigError, DataError
from clip_es.prompts import load_vocabulary
from clip_es.records import Dataset, folder
from clip_es.records.labels.names import label_names

WORDS = load_vocabulary(["cat", "dog", "sofa", "traffic light", "001"])
TRUTH = {"a.jpg": ("cat", "dog"), "b.png": ("sofa",), "x/c.JPG": ("001", "traffic light")}
GOLDEN = Path(__file__).parents[2] / "golden" / "fiftyone"


@pytest.fixture
def root(tmp_path):
    """Three pictures below `pictures`, one of them in a sub-folder."""
    for name in TRUTH:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path)
    return tmp_path


def read(root: Path, labels: Path, **options) -> Dataset:
    return folder(root / "pictures", labels, class_id=WORDS.class_id, class_count=len(WORDS.names), **options)


def found(root: Path, data: Dataset) -> dict[str, tuple[str, ...]]:
    top = root / "pictures"
    return {
        r.path.relative_to(top).as_posix(): tuple(sorted(WORDS.names[k] for k in r.class_ids)) for r in data.records
    }


def told(name: str, root: Path, data: Dataset, truth: dict[str, tuple[str, ...]] = TRUTH) -> None:
    """Print what was read, and compare it with what was written."""
    labels = sum(map(len, truth.values()))
    differ = len({*found(root, data).items()} ^ {*truth.items()})
    sys.stdout.write(f"{name}: {len(data.records)} pictures, {labels} labels, {differ} differ\n")
    assert found(root, data) == truth
    assert data.problems == ()


def write(path: Path, content: object, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
    return path


# Folders with a file for each picture


@pytest.mark.parametrize(("kind", "form"), [("voc", "pascal-voc"), ("label_me", "pascal-voc"), ("yolo", "yolo")])
def test_folders_written_by_datumaro(root, kind, form):
    tool = pytest.importorskip("datumaro", exc_type=ImportError)
    items = []
    for file, names in TRUTH.items():
        boxes = [tool.Bbox(1, 1, 3, 3, label=WORDS.names.index(name), group=n) for n, name in enumerate(names, 1)]
        image = tool.Image.from_file(path=str(root / "pictures" / file), size=(6, 8))
        items.append(
            tool.DatasetItem(id=str(Path(file).with_suffix("")), subset="train", media=image, annotations=boxes)
        )
    data = tool.Dataset.from_iterable(items, categories=list(WORDS.names), media_type=tool.Image)
    data.export(str(root / "out"), kind, save_media=False)
    told(f"{kind} by datumaro", root, read(root, root / "out"))
    told(f"{kind} by datumaro, named", root, read(root, root / "out", labels_format=form))


def detections(root: Path):
    """The pictures with a box for each label, as `supervision` holds them."""
    sv = pytest.importorskip("supervision", exc_type=ImportError)
    images, annotations = [], {}
    for file, names in TRUTH.items():
        path = str(root / "pictures" / file)
        images.append(path)
        count = len(names)
        annotations[path] = sv.Detections(
            xyxy=np.tile(np.array([[1.0, 1.0, 4.0, 4.0]], np.float32), (count, 1)),
            class_id=np.array([WORDS.names.index(name) for name in names]),
        )
    return sv.DetectionDataset(classes=list(WORDS.names), images=images, annotations=annotations)


def test_yolo_written_by_supervision_is_read_from_its_folder_and_from_data_yaml(root):
    out = root / "out"
    detections(root).as_yolo(annotations_directory_path=str(out / "labels"), data_yaml_path=str(out / "data.yaml"))
    told("yolo by supervision", root, read(root, out))
    told("yolo by supervision, data.yaml", root, read(root, out / "data.yaml"))
    assert label_names(out) == set(WORDS.names)
    (out / "data.yaml").unlink()
    told("yolo without names", root, read(root, out))
    with pytest.raises(DataError, match="numbers its classes and does not name them"):
        label_names(out)


def test_voc_written_by_supervision(root):
    detections(root).as_pascal_voc(annotations_directory_path=str(root / "out"))
    told("pascal-voc by supervision", root, read(root, root / "out"))


def test_coco_written_by_supervision(root):
    detections(root).as_coco(annotations_path=str(root / "out.json"))
    told("coco by supervision", root, read(root, root / "out.json"))


def test_yolo_says_which_line_has_a_class_without_a_name(root):
    write(root / "out/classes.txt", "cat\ndog\n")
    write(root / "out/labels/a.txt", "1 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n")
    write(root / "out/labels/b.txt", "")
    write(root / "out/train.txt", "images/a.jpg\nimages/b.png\n")
    data = read(root, root / "out")
    assert ["a.txt line 2: has a class that has no name" in problem.reason for problem in data.problems] == [True]
    assert data.notes == ("1 picture left out: no label in the file.",)


def test_the_frames_of_a_video_are_the_pictures_that_datumaro_finds_in_it(root):
    tool = pytest.importorskip("datumaro", exc_type=ImportError)
    box = '<box frame="{}" outside="{}" xtl="1" ytl="1" xbr="3" ybr="3" occluded="0" keyframe="1" z_order="0"/>'
    shown = {"cat": [(0, 0), (1, 0), (2, 1)], "dog": [(1, 0), (12, 0), (13, 1)]}
    tracks = "".join(
        f'<track id="{n}" label="{label}" source="manual">{"".join(box.format(*at) for at in frames)}</track>'
        for n, (label, frames) in enumerate(shown.items())
    )
    labels = "".join(f"<label><name>{name}</name><attributes/></label>" for name in shown)
    head = "<version>1.1</version><meta><task><size>14</size><mode>interpolation</mode><original_size><width>8</width>"
    head += f"<height>6</height></original_size><labels>{labels}</labels></task></meta>"
    file = write(root / "video" / "annotations.xml", f"<annotations>{head}{tracks}</annotations>")
    theirs = {}
    for item in tool.Dataset.import_from(str(file), "cvat"):
        names = {WORDS.names[mark.label] for mark in item.annotations if not mark.attributes.get("outside")}
        if names:
            theirs[item.id] = tuple(sorted(names))
    assert theirs == {"frame_000000": ("cat",), "frame_000001": ("cat", "dog"), "frame_000012": ("dog",)}
    for name in theirs:
        Image.new("RGB", (8, 6)).save(root / "pictures" / f"{name}.png")
    told("cvat, a video", root, read(root, file), {f"{name}.png": names for name, names in theirs.items()})


# Files of several splits


def test_pictures_of_one_name_in_several_splits_keep_their_own_labels(tmp_path):
    top, truth = tmp_path / "pictures", {}
    for split, label in (("train", "cat"), ("valid", "dog")):
        (top / split).mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(top / split / "a_jpg.rf.12ab.jpg")
        truth[f"{split}/a_jpg.rf.12ab.jpg"] = (label,)
        categories = [{"id": 0, "name": "animals"}, {"id": 1, "name": label, "supercategory": "animals"}]
        things = [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}]
        images = [{"id": 0, "file_name": "a_jpg.rf.12ab.jpg"}]
        write(
            top / split / "_annotations.coco.json", {"images": images, "annotations": things, "categories": categories}
        )
    told("roboflow, coco", tmp_path, read(tmp_path, top), truth)
    own = {"valid/a_jpg.rf.12ab.jpg": ("dog",)}
    told("roboflow, coco of one split", tmp_path, read(tmp_path, top / "valid" / "_annotations.coco.json"), own)
    for file in top.rglob("*.json"):
        label = truth[f"{file.parent.name}/a_jpg.rf.12ab.jpg"][0]
        marks = [{"label": label, "coordinates": {"x": 1, "y": 1, "width": 2, "height": 2}}]
        file.write_text(json.dumps([{"image": "a_jpg.rf.12ab.jpg", "annotations": marks}]))
    told("roboflow, createml", tmp_path, read(tmp_path, top), truth)
    for file in list(top.rglob("*.json")):
        file.unlink()
        label = truth[f"{file.parent.name}/a_jpg.rf.12ab.jpg"][0]
        write(
            file.parent / "_classes.csv",
            f"filename, cat, dog\na_jpg.rf.12ab.jpg, {label == 'cat':d}, {label == 'dog':d}",
        )
    told("roboflow, one-hot", tmp_path, read(tmp_path, top), truth)
    for file in list(top.rglob("*.csv")):
        file.unlink()
        label = truth[f"{file.parent.name}/a_jpg.rf.12ab.jpg"][0]
        write(file.parent / "_annotations.csv", f"filename,width,height,class,xmin\na_jpg.rf.12ab.jpg,8,6,{label},1")
    told("roboflow, csv of objects", tmp_path, read(tmp_path, top), truth)
    images = "".join(
        f'<image id="{n}" name="a_jpg.rf.12ab.jpg" subset="{Path(name).parent}"><tag label="{label}"/></image>'
        for n, (name, (label,)) in enumerate(truth.items())
    )
    file = write(tmp_path / "annotations.xml", f"<annotations>{images}</annotations>")
    told("cvat, subsets of a project", tmp_path, read(tmp_path, file), truth)


def test_a_picture_that_several_files_of_coco_list_has_the_labels_of_all(root):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.png"}]
    base = {"images": images, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    things = [{"id": 1, "image_id": 1, "category_id": 1}]
    write(root / "annotations/image_info.json", {**base, "annotations": []})
    write(root / "annotations/instances.json", {**base, "annotations": things})
    write(root / "annotations/stuff.json", {**base, "annotations": [{**things[0], "category_id": 2}]})
    data = read(root, root / "annotations")
    assert found(root, data) == {"a.jpg": ("cat", "dog")}
    assert (data.problems, data.notes) == ((), ("1 picture left out: no label in the file.",))


# Tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("between", [";", "|", "json", "python"])
def test_tables_as_spreadsheets_and_scripts_write_them(root, encoding, delimiter, between):
    how = {"json": json.dumps, "python": lambda names: str(list(names))}.get(between, between.join)
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    with (root / "labels.csv").open("w", newline="", encoding=encoding) as file:
        file.write(mark)
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["image", "labels"])
        rows.writerows((name, how(names)) for name, names in TRUTH.items())
    assert found(root, read(root, root / "labels.csv")) == TRUTH


def test_a_row_for_each_object_gives_a_picture_the_labels_of_all_its_rows(root):
    rows = [f"{name},8,6,{label},1,1,3,3" for name, names in TRUTH.items() for label in names]
    file = write(root / "_annotations.csv", "\n".join(["filename,width,height,class,xmin,ymin,xmax,ymax", *rows[::-1]]))
    told("roboflow, csv of objects", root, read(root, file))
    assert label_names(file) == {"cat", "dog", "sofa", "traffic light", "001"}
    file = write(
        root / "train.csv",
        ",id,kind\n"
        + "".join(
            f"{n},{Path(k).stem},{v[0]}\n" for n, (k, v) in enumerate([("a.jpg", ("cat",)), ("b.png", ("sofa",))])
        ),
    )
    told("ids of pictures", root, read(root, file, label_field="kind"), {"a.jpg": ("cat",), "b.png": ("sofa",)})
    with pytest.raises(DataError, match=r"has no labels\. Expected a column labels or label .*Found 'id,kind'"):
        read(root, file)
    with pytest.raises(DataError, match="has no column 'what'"):
        read(root, file, label_field="what")


def test_one_hot_tables_with_an_index_or_semicolons(root):
    for delimiter in ",;\t":
        lines = [["", "Image Name", *WORDS.names]]
        lines += [
            [str(n), name, *(str(int(k in has)) for k in WORDS.names)] for n, (name, has) in enumerate(TRUTH.items())
        ]
        told("one-hot", root, read(root, write(root / "hot.csv", "\n".join(map(delimiter.join, lines)))))


def test_a_column_of_class_numbers_is_no_one_hot_table(root):
    told("numbers", root, read(root, write(root / "l.csv", "filename,label\na.jpg,1\n")), {"a.jpg": ("dog",)})


def test_a_label_with_a_leading_zero_is_a_name_and_not_a_number(root):
    file = write(
        root / "metadata.jsonl", '{"file_name": "a.jpg", "label": "001"}\n{"file_name": "b.png", "label": "01"}\n'
    )
    data = read(root, file)
    assert found(root, data) == {"a.jpg": ("001",)}
    assert "'01' is not one of the 5 names" in data.problems[0].reason
    assert label_names(file) == {"001", "01"}


def test_commas_between_labels_must_be_said(root):
    file = write(root / "labels.csv", 'image,labels\na.jpg,"cat,dog"\nb.png,sofa\nx/c.JPG,"001, traffic light"\n')
    data = read(root, file)
    assert "Several labels in one cell? Pass --label-separator ','" in data.problems[0].reason
    told("commas", root, read(root, file, label_separator=","))
    assert label_names(file, separator=",") == {"cat", "dog", "sofa", "001", "traffic light"}
    file = write(root / "labels.csv", 'image,labels\na.jpg,"cat,dog"\nb.png,cat\nx/c.JPG,dog\n')
    with pytest.raises(DataError, match="has the label 'cat,dog', whose parts are labels too"):
        label_names(file)
    assert label_names(file, separator=";") == {"cat", "dog", "cat,dog"}


# Pictures that lie elsewhere


def test_a_picture_is_found_by_its_name_alone_where_there_is_one(root):
    told(
        "by name",
        root,
        read(root, write(root / "l.json", {"c.JPG": ["001", "traffic light"]})),
        {"x/c.JPG": TRUTH["x/c.JPG"]},
    )
    (root / "pictures/y").mkdir()
    shutil.copy(root / "pictures/x/c.JPG", root / "pictures/y/c.JPG")
    data = read(root, root / "l.json")
    assert "lies in several folders. Found x, y" in data.problems[0].reason
    # What names a folder that is there means that folder.
    (root / "pictures/y/c.JPG").rename(root / "pictures/y/d.JPG")
    data = read(root, write(root / "l.json", {"y/c.JPG": ["001"]}))
    assert "which is not there" in data.problems[0].reason


# Label Studio's short forms

CONFIG = """<View><Image name="img" value="$image"/><Choices name="what" toName="img" choice="{}"><Choice value="cat"/>
<Choice value="dog"/></Choices></View>"""


def tasks(annotators: int = 1, **data: str) -> list[dict]:
    """Each annotator has a part of the labels; the last picture has none."""
    made = []
    for number, (image, names) in enumerate([*TRUTH.items(), ("none.jpg", ())], start=1):
        parts = [names[k::annotators] for k in range(annotators)]
        annotations = [
            {
                "id": number * 10 + k,
                "completed_by": {"id": k, "email": f"{k}@b.c"},
                "result": [
                    {
                        "id": "r",
                        "type": "choices",
                        "from_name": "what",
                        "to_name": "img",
                        "value": {"choices": list(part)},
                    }
                ]
                if part
                else [],
                "was_cancelled": False,
                "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z",
                "lead_time": 2.5,
            }
            for k, part in enumerate(parts)
        ]
        made.append({"id": number, "data": {"image": f"s3://bucket/{image}", **data}, "annotations": annotations})
    return made


def converted(root: Path, content: list[dict], form: str, choice: str = "multiple") -> Path:
    converter = pytest.importorskip("label_studio_sdk.converter", exc_type=ImportError)
    write(root / "in" / "tasks.json", content)
    made = converter.Converter(config=CONFIG.format(choice), project_dir=str(root), download_resources=False)
    out = root / f"out-{form}"
    if form == "json":
        made.convert_to_json_min(str(root / "in"), str(out))
        return out / "result.json"
    made.convert_to_csv(str(root / "in"), str(out), sep={"csv": ",", "tsv": "\t"}[form], header=True)
    return (out / "result.csv").rename(out / f"result.{form}")


@pytest.mark.parametrize("annotators", [1, 2])
@pytest.mark.parametrize("form", ["json", "csv", "tsv"])
def test_short_exports_of_label_studio_with_several_annotators(root, form, annotators):
    file = converted(root, tasks(annotators), form)
    told(f"label-studio, {form}, {annotators} annotators", root, read(root, file))


def test_a_text_of_the_task_is_not_taken_for_a_choice(root):
    file = converted(root, tasks(about="cat"), "json")
    told("label-studio, a task with a text", root, read(root, file))
    assert label_names(file) == {"cat", "dog", "sofa", "001", "traffic light"}
    file = converted(root, tasks(about="cat"), "csv")  # In alphabetical order nothing says what is data.
    with pytest.raises(DataError, match=r"several texts, any of which may be the choice.*what, about"):
        read(root, file)
    told("label-studio, csv, the control named", root, read(root, file, label_field="what"))
    with pytest.raises(DataError, match="has no control 'which'"):
        read(root, file, label_field="which")


def test_a_field_that_is_not_there_is_refused_whatever_the_format(root):
    file = write(root / "tasks.json", tasks())
    told("label-studio, the control named", root, read(root, file, label_field="what"))
    with pytest.raises(DataError, match=r"has no control 'which'\. Expected what"):
        read(root, file, label_field="which")
    file = write(root / "labels.jsonl", '{"image": "a.jpg", "labels": [], "mine": ["cat", "dog"]}\n')
    told("jsonl, the key named", root, read(root, file, label_field="mine"), {"a.jpg": ("cat", "dog")})
    file = write(root / "a.json", {"imagePath": "a.jpg", "flags": {"cat": True}, "shapes": []})
    with pytest.raises(ConfigError, match="of the format labelme stand in no field that could be named"):
        read(root, file, label_field="flags")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("l.json", '{"images": [{"id": 1, "file_na', "is not a JSON file, or ends in the middle"),
        ("l.json", "<html>404</html>", r"Export or download it again\."),
        ("l.zip", "PK\x03\x04 half of it", "is a damaged zip archive"),
        ("l.xml", "<annotations><image name='a", "is not well-formed XML"),
        ("l.parquet", "PAR1", "clip-es masks shards"),
        ("l.json", {"a": 1}, r"Expected json \(\.json\), labelme \(\.json\), label-studio"),
        ("l.csv", "name,what\na.jpg,cat\n", "name the one of the labels with --label-field"),
    ],
)
def test_files_that_are_something_else_say_what_to_do(root, name, content, says):
    with pytest.raises(DataError, match=says):
        read(root, write(root / name, content))


def test_tasks_with_predictions_alone_have_no_label_yet(root):
    content = [{"data": {"image": "a.jpg"}, "predictions": [{"result": [{"value": {"choices": ["cat"]}}]}]}]
    data = read(root, write(root / "tasks.json", content))
    assert (len(data.records), data.notes) == (0, ("1 picture left out: no annotation yet.",))


def test_an_address_that_label_studio_packs_names_its_picture(root):
    import base64

    packed = base64.b64encode(b"s3://bucket/x/c.JPG").decode()
    content = tasks()[2:3]
    content[0]["data"]["image"] = f"/tasks/3/resolve/?fileuri={packed}"
    told("label-studio, fileuri", root, read(root, write(root / "t.json", content)), {"x/c.JPG": TRUTH["x/c.JPG"]})


# FiftyOne's own files


RECORDED = {"a.jpg": ("cat", "dog"), "b.png": ("sofa",), "x/c.JPG": ("dog",)}


@pytest.mark.parametrize(
    ("file", "field", "labels"),
    [
        ("classification.json", None, "first"),
        ("classification-numbers.json", None, "first"),
        ("classifications.json", None, "all"),
        *((f"{kind}.json", field, "all") for kind in ("dataset", "legacy-dataset") for field in (None, "boxes")),
        *((f"{kind}.json", "single", "first") for kind in ("dataset", "legacy-dataset")),
        *((f"{kind}.json", "unnamed", "none") for kind in ("dataset", "legacy-dataset")),
    ],
)
def test_files_recorded_from_the_exporters_of_fiftyone(root, file, field, labels):
    (root / "pictures/x/c.JPG").rename(root / "pictures/x/c.jpg")
    recorded = {name.lower(): names for name, names in RECORDED.items()}
    truth = {
        "all": recorded,
        "first": {name: names[:1] for name, names in recorded.items()},
        "none": {},
    }[labels]
    data = read(root, GOLDEN / file, label_field=field)
    told(f"fiftyone, {file}, {field or 'the default field'}", root, data, truth)
    assert data.notes == (f"{4 - len(truth)} picture{'s' * (len(truth) < 3)} left out: no label in the file.",)
