"""JSON that lists pictures: CreateML's, which Roboflow writes too, and what scripts write.

| format | content |
|---|---|
| createml | `[{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {...}}]}]` |
| json | `{"a.jpg": ["cat", "dog"]}`, or `[{"image": "a.jpg", "labels": ["cat", "dog"]}]` |
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.labels.cells import FIELDS, PICTURE_COLUMNS
from clip_es.records.labels.lines import (
    Asked,
    LabelFiles,
    LabelTable,
    Line,
    Lines,
    bad_entry,
    beside,
    labelled,
    merged,
    texts_of,
)

_LOOKED_AT = 8


def is_createml(tree: Any) -> bool:
    """Whether this is a list of pictures with annotations that have a label and coordinates, or with none."""
    return isinstance(tree, list) and bool(tree) and all(_is_createml(item) for item in tree[:_LOOKED_AT])


def _is_createml(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("annotations"), list) or "data" in item:
        return False
    return isinstance(item.get("image", item.get("imagefilename")), str) and all(
        isinstance(one, dict) and "label" in one for one in item["annotations"][:_LOOKED_AT]
    )


def is_json(tree: Any) -> bool:
    """Whether this is an object whose keys are files of pictures, or a list of objects with a picture and labels."""
    if isinstance(tree, dict):
        first = list(islice(tree.items(), _LOOKED_AT))
        return bool(first) and all(
            key.lower().endswith(PICTURES) and texts_of(value) is not None for key, value in first
        )
    first = tree[:_LOOKED_AT] if isinstance(tree, list) else []
    return bool(first) and all(isinstance(item, dict) and _is_row(item) for item in first)


def _is_row(item: dict[str, Any]) -> bool:
    other = {"annotation_id", "annotations", "completions", "predictions"}  # CreateML's and Label Studio's.
    return _image_of(item) is not None and any(key in item for key in FIELDS) and not other & set(item)


def _image_of(item: dict[str, Any]) -> str | None:
    return next((item[key] for key in PICTURE_COLUMNS if isinstance(item.get(key), str) and item[key]), None)


def createml(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every picture of the files."""
    return LabelTable(_lines(files, names, _of_createml), asked.class_id, files.at(names, "image"), anywhere=True)


def json(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every picture of the files; one that is listed several times has the labels of all its entries."""
    fields = (asked.field,) if asked.field else FIELDS

    def read(item: Any, where: str) -> Line:
        return _of_row(item, fields, where)

    lines = merged(_lines(files, names, read))
    return LabelTable(lines, asked.name_or_id, files.at(names, "entry"), numbers=True, anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...], read: Any) -> Lines:
    number = 0
    for name in names:
        for item in _entries(files.tree(name), name):
            number += 1
            try:
                line = read(item, f"{PurePosixPath(name).name} entry {number}")
                yield number, line._replace(image=beside(name, line.image))
            except DataError as error:
                yield number, error


def _entries(tree: Any, name: str) -> Iterator[Any]:
    if not isinstance(tree, list | dict):
        raise bad_entry("is not a list of pictures", name, '[{"image": "a.jpg", ...}]', tree)
    return iter(tree if isinstance(tree, list) else tree.items())


def _of_createml(item: Any, where: str) -> Line:
    image = item.get("image", item.get("imagefilename")) if isinstance(item, dict) else None
    marks = item.get("annotations") if isinstance(item, dict) else None
    labels = (
        [one.get("label") if isinstance(one, dict) else None for one in marks] if isinstance(marks, list) else [None]
    )
    found = texts_of(labels)
    if not isinstance(image, str) or not image or found is None:
        expected = '{"image": "a.jpg", "annotations": [{"label": "cat"}]}'
        raise bad_entry("has no picture, or an annotation without a label", where, expected, item)
    return labelled(image, found)


def _of_row(item: Any, fields: tuple[str, ...], where: str) -> Line:
    if isinstance(item, tuple):
        image, labels = item
    else:
        image = _image_of(item) if isinstance(item, dict) else None
        labels = next((item[key] for key in fields if key in item), None) if isinstance(item, dict) else None
    found = () if labels is None and isinstance(item, tuple) else texts_of(labels)
    if not image or found is None:
        expected = f'{{"image": "a.jpg", "{fields[0]}": ["cat", "dog"]}}'
        raise bad_entry("has no picture, or no labels", where, expected, item)
    return labelled(image, found)
