"""Label Studio's exports "JSON" and "JSON-MIN": choices, taxonomies, and the labels of boxes, polygons and brushes.

Pictures are addresses (`/data/upload/1/9b1deb4d-a.jpg`, `/data/local-files/?d=photos/a.jpg`, `s3://photos/a.jpg`); they
are looked for by their last parts. All annotations of a task count that were not cancelled, or those marked as ground
truth where there are such.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from clip_es.errors import DataError
from clip_es.records.file_listing import PICTURES
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Line, Lines, bad_entry, labelled, texts_of
from clip_es.records.text_files import printable

_OF_LABELS = ("choices", "labels", "taxonomy", "brushlabels", "rectanglelabels", "polygonlabels", "ellipselabels")
_KINDS = (*_OF_LABELS, "keypointlabels", "bitmasklabels", "vectorlabels", "ellipsevectorlabels")
_NOT_LABELS = {"id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement"}


def fits(tree: Any) -> bool:
    """Whether this is a list of tasks, in full or in short."""
    first = tree[0] if isinstance(tree, list) and tree else None
    return isinstance(first, dict) and (
        (isinstance(first.get("data"), dict) and ("annotations" in first or "completions" in first))
        or ("annotation_id" in first and _picture(first) is not None)
    )


def label_studio(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every task of the files."""
    lines = _lines(files, names, asked.field)
    return LabelTable(lines, asked.class_id, files.at(names, "task"), anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...], field: str | None) -> Lines:
    number = 0
    for name in names:
        tasks = files.tree(name)
        if not isinstance(tasks, list):
            raise bad_entry("is not an export of Label Studio", name, "a list of tasks", tasks)
        for task in tasks:
            number += 1
            try:
                yield number, _line(task, field, f"{PurePosixPath(name).name} task {number}")
            except DataError as error:
                yield number, error


def _line(task: Any, field: str | None, where: str) -> Line:
    if not isinstance(task, dict):
        raise bad_entry("is not a task", where, "an object", task)
    data = task.get("data")
    image = _picture(data if isinstance(data, dict) else task)
    if image is None:
        raise bad_entry("names no picture", where, '{"data": {"image": "/data/upload/1/a.jpg"}}', data)
    if not isinstance(data, dict):
        return labelled(image, _short(task, image, field, where))
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise bad_entry("has no list of annotations", where, "a list of objects", annotations)
    used = _that_count(annotations)
    if not used:
        return Line(image, (), "no annotation yet")
    return labelled(image, (label for one in used for label in _results(one.get("result"), field, where)))


def labels_of_task(task: Any) -> tuple[str, ...]:
    """The labels of a task that somebody has annotated; none where nobody has, or where they cannot be read."""
    annotations = task.get("annotations") if isinstance(task, dict) else None
    used = _that_count([one for one in annotations if isinstance(one, dict)] if isinstance(annotations, list) else [])
    try:
        found = [label for one in used for label in _results(one.get("result"), None, "the task")]
    except DataError:
        return ()
    return tuple(dict.fromkeys(found))


def _that_count(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    used = [one for one in annotations if one.get("was_cancelled") is not True]
    return [one for one in used if one.get("ground_truth") is True] or used


def _results(results: Any, field: str | None, where: str) -> Iterator[str]:
    if not isinstance(results, list):
        raise bad_entry("has an annotation without results", where, "a list", results)
    for result in results:
        if not isinstance(result, dict):
            raise bad_entry("has a result that is none", where, "an object", result)
        if field is not None and result.get("from_name") != field:
            continue
        value = result.get("value")
        for kind in _KINDS:
            if isinstance(value, dict) and kind in value:
                yield from _named(value[kind], kind, where)


def _named(value: Any, kind: str, where: str) -> tuple[str, ...]:
    if kind == "taxonomy" and isinstance(value, list):  # Paths from the root of the tree; the last part is the label.
        value = [path[-1] if isinstance(path, list) and path else path for path in value]
    found = texts_of(value)
    if found is None:
        raise bad_entry(f"has {kind} that are no text", where, '["cat", "dog"]', value)
    return found


def _short(task: dict[str, Any], image: str, field: str | None, where: str) -> list[str]:
    """Labels of JSON-MIN: a key for each control; a choice is text, several are an object, regions a list of them.

    The task's own data stand beside them; of several texts it must be said which is the choice.
    """
    found: list[str] = []
    texts: dict[str, str] = {}
    for key, value in task.items():
        if key in _NOT_LABELS or value == image or (field is not None and key != field):
            continue
        if isinstance(value, dict) and "choices" in value:
            found += _named(value["choices"], "choices", where)
        elif isinstance(value, list):
            regions = [item for item in value if isinstance(item, dict)]
            found += [name for item in regions for k in _KINDS if k in item for name in _named(item[k], k, where)]
        elif isinstance(value, str) and value.strip():
            texts[key] = value.strip()
    choice = next((key for key in (field, "choice", "label") if key in texts), None)
    if choice is None and len(texts) > 1 and not found:
        raise DataError(
            "has several texts, any of which may be the choice",
            where=where,
            expected=f"one of {printable(', '.join(texts), 100)}",
            next_step="Name it with --label-field.",
        )
    if choice is None and not found:
        choice = next(iter(texts), None)
    return [*found, *([texts[choice]] if choice is not None else [])]


def _picture(data: dict[str, Any]) -> str | None:
    """The address of the picture among the data of a task."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    for value in texts.values():
        try:
            parts = urlsplit(value)
        except ValueError:
            continue
        if parts.path.lower().endswith(PICTURES) or parts.query.lower().endswith(PICTURES):
            return value
    return texts.get("image")
