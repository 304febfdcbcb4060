"""FiftyOne's exports: `labels.json` of FiftyOneImageClassificationDataset, `samples.json` of FiftyOneDataset.

    {"classes": ["cat", "dog"], "labels": {"a": 1, "b": ["cat", "dog"]}}     numbers of the classes, or names
    {"samples": [{"filepath": "data/a.jpg", "ground_truth": {"_cls": "Classification", "label": "cat"}}]}

A sample may have several fields with labels: `ground_truth` counts, or the only one, or the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Lines, bad_entry, labelled, text_of
from clip_es.records.text_files import printable

_LISTS = {"Classifications": "classifications", "Detections": "detections", "Polylines": "polylines"}
_ONE = {"Classification", "Detection", "Polyline"}
_DEFAULT = "ground_truth"


def fits(tree: Any) -> bool:
    """Whether this is one of the two files."""
    return isinstance(tree, dict) and (isinstance(tree.get("samples"), list) or isinstance(tree.get("labels"), dict))


def fiftyone(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every sample of the files."""
    classes = tuple(dict.fromkeys(known for name in names for known in _classes(files.tree(name))))
    lines = _lines(files, names, asked.field)
    return LabelTable(lines, asked.class_id, files.at(names, "sample"), classes, anywhere=True)


def _classes(tree: Any) -> list[str]:
    found = tree.get("classes") if fits(tree) else None
    return [name for name in found if isinstance(name, str) and name] if isinstance(found, list) else []


def _lines(files: LabelFiles, names: tuple[str, ...], field: str | None) -> Lines:
    number = 0
    for name in names:
        tree = files.tree(name)
        if not fits(tree):
            raise bad_entry("is not a file of FiftyOne", name, "`labels` or `samples`", tree)
        samples = tree.get("samples")
        fields = _fields(samples, field, name) if isinstance(samples, list) else ()
        entries = [("", sample) for sample in samples] if isinstance(samples, list) else tree["labels"].items()
        classes = tree.get("classes")
        for key, entry in entries:
            number += 1
            where = f"{PurePosixPath(name).name} sample {number}"
            try:
                if isinstance(samples, list):
                    yield number, _sample(entry, fields, where)
                else:
                    yield number, labelled(key, _targets(entry, classes if isinstance(classes, list) else [], where))
            except DataError as error:
                yield number, error


def _targets(value: Any, classes: list[Any], where: str) -> Iterator[str]:
    """Labels of labels.json: a number, a name, an object with one of them, or a list of these."""
    for item in value if isinstance(value, list) else [value]:
        label = item.get("label") if isinstance(item, dict) else item
        if label is None:
            continue
        number = isinstance(label, int) and not isinstance(label, bool)
        if number and classes:
            label = classes[label] if 0 <= label < len(classes) else None
        text = text_of(label)
        if text is None:
            raise bad_entry("has a label that is none of its classes", where, "a name or the number of a class", item)
        yield text


def _fields(samples: list[Any], asked: str | None, where: str) -> tuple[str, ...]:
    """The field that holds the labels. Raises DataError: it is not there, or cannot be told."""
    known = dict.fromkeys(
        key for sample in samples if isinstance(sample, dict) for key, value in sample.items() if _kind(value)
    )
    wanted = asked or (_DEFAULT if _DEFAULT in known else None)
    if wanted is None and len(known) < 2:
        return tuple(known)
    if wanted not in known:
        raise DataError(
            f"has no field {wanted!r} with labels" if wanted else "has several fields with labels",
            where=where,
            expected=f"one of {', '.join(printable(key, 40) for key in list(known)[:8]) or 'none that has labels'}",
            next_step="Name it with --label-field.",
        )
    return (str(wanted),)


def _kind(value: Any) -> str | None:
    """The class of a field with labels; None for other fields."""
    kind = value.get("_cls") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) and (kind in _ONE or kind in _LISTS) else None


def _sample(sample: Any, fields: tuple[str, ...], where: str) -> Any:
    image = sample.get("filepath") if isinstance(sample, dict) else None
    if not isinstance(image, str) or not image:
        raise bad_entry("has no filepath", where, '{"filepath": "data/a.jpg", ...}', sample)
    found = []
    for field in fields:
        value = sample.get(field) or {}
        kind = _kind(value)
        items = [value] if kind in _ONE else value.get(_LISTS[kind]) if kind in _LISTS else []
        for item in items if isinstance(items, list) else [items]:
            told = item.get("label") if isinstance(item, dict) else item
            if told is None and isinstance(item, dict):
                continue  # An object that nobody named.
            label = text_of(told) if isinstance(item, dict) else None
            if label is None:
                raise bad_entry(f"has no label in {field}", where, '{"_cls": "Classification", "label": "cat"}', value)
            found.append(label)
    return labelled(image, found)
