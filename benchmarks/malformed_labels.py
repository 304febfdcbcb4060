"""Files of labels for the campaign in malformed.py, small and sound: at least one of each format that we read.

Pictures are those of `PICTURES`. Rows of READERS are made of it, and
`tests/clip_es/records/test_label_formats.py` asks that each is claimed by the reader of its format and by no other.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import Any, NamedTuple

import numpy as np


class Sample(NamedTuple):
    """Sound files of one format under one name."""

    format: str
    file: str
    contents: tuple[bytes, ...]
    beside: tuple[tuple[str, bytes], ...] = ()
    """Further files of the folder, by name, which are not spoilt."""

    @property
    def name(self) -> str:
        """That of the reader in the campaign."""
        return f"labels {self.format} {self.file}"


def _json(*trees: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(tree).encode() for tree in trees)


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _npy(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def _zip(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


PICTURES = ("a.jpg", "b.png", "in/c.jpg", "frame_000000.png")

_ROWS = np.zeros((4, 20), np.float32)
_ROWS[0, 1] = _ROWS[1, 2] = _ROWS[3, 5] = _ROWS[2, [3, 4]] = 1

_SHAPE = {"label": "dog", "points": [[1, 1], [4, 4]], "shape_type": "rectangle", "flags": {}}
_LABELME = {
    "version": "5.5.0",
    "flags": {"cat": True, "car": False},
    "shapes": [_SHAPE],
    "imagePath": "..\\in\\c.jpg",
    "imageData": None,
    "imageHeight": 9,
    "imageWidth": 11,
    "tags": ["car"],
}

_RESULTS = [
    {"type": "choices", "from_name": "c", "to_name": "i", "value": {"choices": ["cat", "dog"]}},
    {"type": "taxonomy", "from_name": "t", "to_name": "i", "value": {"taxonomy": [["animal", "cat"]]}},
    {"type": "rectanglelabels", "from_name": "r", "to_name": "i", "value": {"x": 1, "rectanglelabels": ["car"]}},
]
_PLACES = ["/data/upload/1/9b1deb4d-a.jpg", "/data/local-files/?d=x%2Fb.png", "s3://bucket/in/c.jpg"]
_TASKS = [
    {"id": n, "data": {"image": place}, "annotations": [{"result": _RESULTS[:n], "was_cancelled": n == 3}]}
    for n, place in enumerate(_PLACES, start=1)
]
_SHORT = [
    {"image": _PLACES[0], "about": "x", "id": 1, "c": "cat", "annotator": 1, "annotation_id": 1, "lead_time": 2.5},
    {"image": _PLACES[1], "id": 2, "c": {"choices": ["cat", "dog"]}, "annotator": 1, "annotation_id": 2},
    {"image": _PLACES[2], "id": 3, "r": [{"rectanglelabels": ["dog"]}], "annotator": 1, "annotation_id": 3},
]
_TASK_ROWS = [
    ["annotation_id", "annotator", "created_at", "c", "id", "image", "lead_time"],
    [1, "a@b.c", "2024", "cat", 1, "/data/upload/1/9b1deb4d-a.jpg", 3.2],
    [2, "a@b.c", "2024", '{"choices":["cat","dog"]}', 2, "s3://bucket/b.png", 1],
]


def _table(rows: list[list], delimiter: str) -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return file.getvalue().encode()


_ONE = {"_cls": "Classification", "label": "cat"}
_MANY = {"_cls": "Classifications", "classifications": [_ONE, {"_cls": "Classification", "label": "dog"}]}

_CVAT = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><job/></meta>'
_BOX = '<box label="dog" xtl="1" ytl="1" xbr="4" ybr="4" occluded="0"><attribute name="a">b</attribute></box>'
_VIDEO = '<track id="0" label="cat"><box frame="0" outside="0" xtl="1"/><box frame="1" outside="1" xtl="1"/></track>'

_MARKS = [{"id": 0, "type": "label", "label_id": 0}, {"type": "bbox", "label_id": 1, "bbox": [1, 1, 2, 2]}]
_ITEMS = [
    {"id": "a", "annotations": _MARKS, "image": {"path": "a.jpg", "size": [9, 11]}},
    {"id": "in/c", "annotations": _MARKS[:1], "media": {"path": ""}},
]

_IMAGES = [{"id": 1, "file_name": "photos/a.jpg"}, {"id": 2, "file_name": "in/c.jpg"}]
_THINGS = [{"id": n, "image_id": 1 + n % 2, "category_id": 7, "bbox": [1, 1, 2, 2]} for n in range(3)]

_VOC = (
    b"<annotation><folder>x</folder><filename>%s</filename><size><width>11</width><height>9</height></size>"
    b"<object><name>cat</name><difficult>0</difficult></object><object><name> dog </name></object></annotation>"
)
_YOLO = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.2 0.3 0.25 0.9 1\n"
_COORDINATES = {"x": 1, "y": 2, "width": 3, "height": 4}

LABEL_SAMPLES = (
    Sample(
        "csv",
        "labels.csv",
        (
            b'image,labels\na.jpg,cat;dog\nb.png,"car"\nin/c.jpg,cat\n',
            b'\xef\xbb\xbflabels,other,image\r\ncat; dog,x,"a.jpg"\r\ncar,y,b.png\r\n',
            b"image;labels\na.jpg;cat|dog\nb.png;['car', \"dog\"]\n",
            'image\tlabels\na.jpg\t["cat"]\n'.encode("utf-16"),
        ),
    ),
    Sample(
        "csv-rows",
        "labels.csv",
        (
            b"filename,width,height,class,xmin\na.jpg,11,9,cat,1\na.jpg,11,9,dog,2\nb.png,11,9,car,3\n",
            b",id,label\n0,a,cat\n1,b,6\n",
        ),
    ),
    Sample(
        "one-hot-csv",
        "labels.csv",
        (b"image,cat,dog,car\na.jpg,1,1,0\nb.png,0,0,1\n", b'file;"cat";dog\r\na;True;\r\nin/c.jpg;0.0;1.0\r\n'),
    ),
    Sample(
        "jsonl",
        "labels.jsonl",
        (_lines({"image": "a.jpg", "labels": ["cat", 11]}, {"image": "b.png", "labels": "car", "more": {"x": [1]}}),),
    ),
    Sample("text", "labels.txt", (b"a.jpg cat dog\nb.png car\nin/c.jpg 3 4\n", b"a 15 9\nb 0\n")),
    Sample(
        "npy",
        "labels.npy",
        (_npy(_ROWS), _npy(np.array({"a": _ROWS[0], "b": _ROWS[1]}, dtype=object))),
    ),
    Sample(
        "json",
        "labels.json",
        _json(
            {"a.jpg": ["cat", "dog"], "in/c.jpg": "car", "b.png": 6},
            [{"image": "a.jpg", "labels": ["cat"]}, {"image": "b.png", "labels": []}],
        ),
    ),
    Sample(
        "huggingface",
        "metadata.jsonl",
        (
            _lines(
                {"file_name": "a.jpg", "label": "cat"},
                {"file_name": "b.png", "labels": ["dog", 6]},
                {"file_name": "in/c.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}},
            ),
        ),
    ),
    Sample("huggingface", "metadata.csv", (b"file_name,label,x\na.jpg,cat,1\nb.png,dog;car,2\nin/c.jpg,6,3\n",)),
    Sample("labelme", "a.json", _json(_LABELME, {"flags": {"cat": True}, "shapes": [], "imagePath": "b.png"})),
    Sample("label-studio", "export.json", _json(_TASKS, _SHORT)),
    Sample("label-studio", "export.csv", (_table(_TASK_ROWS, ","),)),
    Sample("label-studio", "export.tsv", (_table(_TASK_ROWS, "\t"),)),
    Sample("pascal-voc", "a.xml", (_VOC % b"a.jpg", (_VOC % b"b.png").replace(b" dog ", b"car"))),
    Sample("yolo", "a.txt", (_YOLO,)),
    Sample(
        "yolo",
        "data.yaml",
        (b"path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n", b"nc: 2\nnames: ['cat', 'dog']\n"),
        (("labels/a.txt", _YOLO), ("labels/b.txt", b""), ("train.txt", b"images/a.jpg\n")),
    ),
    Sample(
        "yolo",
        "labels.zip",
        (
            _zip(**{"classes.txt": b"cat\ndog\n", "labels/a.txt": _YOLO}),
            _zip(**{"obj.names": b"cat\ndog", "x/b.txt": _YOLO}),
        ),
    ),
    Sample(
        "createml",
        "createml.json",
        _json(
            [
                {"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": _COORDINATES}]},
                {"image": "b.png", "annotations": []},
            ]
        ),
    ),
    Sample(
        "cvat",
        "annotations.xml",
        (
            f'{_CVAT}<image id="0" name="a.jpg" width="11" height="9"><tag label="cat" source="manual"/>{_BOX}</image>'
            '<image id="1" name="in/c.jpg"><tag label="car"/></image></annotations>'.encode(),
            f"{_CVAT}{_VIDEO}</annotations>".encode(),
        ),
    ),
    Sample(
        "datumaro",
        "default.json",
        _json(
            {
                "info": {},
                "categories": {"label": {"labels": [{"name": "cat", "parent": ""}, {"name": "dog"}], "attributes": []}},
                "items": _ITEMS,
            }
        ),
    ),
    Sample(
        "coco",
        "labels.json",
        _json({"images": _IMAGES, "annotations": _THINGS, "categories": [{"id": 7, "name": "cat"}]}),
    ),
    Sample(
        "fiftyone",
        "labels.json",
        _json({"classes": ["cat", "dog"], "labels": {"a": 0, "b": [1, 0], "in/c": {"label": 1, "confidence": 0.5}}}),
    ),
    Sample(
        "fiftyone",
        "samples.json",
        _json(
            {
                "samples": [
                    {"filepath": "/x/a.jpg", "ground_truth": _ONE, "guess": _MANY},
                    {"filepath": "b.png", "ground_truth": _MANY},
                ]
            }
        ),
    ),
    Sample(
        "labelme",
        "labels.zip",
        (
            _zip(
                **{
                    "set/a.json": json.dumps(_LABELME).encode(),
                    "set/b.json": b'{"flags": {"cat": true}, "shapes": [], "imagePath": "b.png"}',
                }
            ),
        ),
    ),
)
