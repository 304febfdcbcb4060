"""Datumaro's own JSON: items with annotations of any type; those that have a label count."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Lines, bad_entry, labelled


def fits(tree: Any) -> bool:
    """Whether this is one of its `annotations/<subset>.json`."""
    return isinstance(tree, dict) and isinstance(tree.get("items"), list) and isinstance(tree.get("categories"), dict)


def datumaro(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every item of the files."""
    classes = tuple(dict.fromkeys(known for name in names for known in _classes(files.tree(name), name)))
    return LabelTable(_lines(files, names), asked.class_id, files.at(names, "item"), classes, anywhere=True)


def _classes(tree: Any, name: str) -> list[str]:
    if not fits(tree):
        raise bad_entry("is not Datumaro's JSON", name, "the keys categories and items", tree)
    label = tree["categories"].get("label")
    rows = label.get("labels") if isinstance(label, dict) else None
    names = [row.get("name") if isinstance(row, dict) else None for row in rows] if isinstance(rows, list) else [None]
    if not all(isinstance(known, str) and known for known in names):
        raise bad_entry("does not name its labels", name, '{"label": {"labels": [{"name": "cat"}]}}', label)
    return [str(known) for known in names]


def _lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    number = 0
    for name in names:
        tree = files.tree(name)
        classes = _classes(tree, name)
        for item in tree["items"]:
            number += 1
            where = f"{PurePosixPath(name).name} item {number}"
            try:
                yield number, labelled(_image(item, where), _labels(item, classes, where))
            except DataError as error:
                yield number, error


def _image(item: Any, where: str) -> str:
    media = (
        next((item[key] for key in ("image", "media") if isinstance(item.get(key), dict)), {})
        if isinstance(item, dict)
        else None
    )
    image = None if media is None else media.get("path") or item.get("id")
    if not isinstance(image, str) or not image:
        raise bad_entry("has neither a picture nor an id", where, '{"id": "a", "image": {"path": "a.jpg"}}', item)
    return image


def _labels(item: dict[str, Any], classes: list[str], where: str) -> list[str]:
    annotations = item.get("annotations")
    if not isinstance(annotations, list):
        raise bad_entry("has no list of annotations", where, "a list", annotations)
    found = []
    for entry in annotations:
        number = entry.get("label_id") if isinstance(entry, dict) else entry
        if number is None and isinstance(entry, dict):
            continue  # A caption, or a shape that nobody named.
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(classes):
            raise bad_entry("has an annotation of no known label", where, f"label_id 0..{len(classes) - 1}", entry)
        found.append(classes[number])
    return found
