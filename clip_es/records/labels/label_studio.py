"""Label Studio's exports JSON, JSON-MIN, CSV and TSV: choices, taxonomies, the labels of boxes, polygons and brushes.

Pictures are addresses (`/data/upload/1/9b1deb4d-a.jpg`, `/data/local-files/?d=photos/a.jpg`, `s3://photos/a.jpg`); they
are looked for by their last parts. All annotations of a task count that were not cancelled, or those marked as ground
truth where there are such.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.labels.cells import header_of, rows_of
from clip_es.records.labels.lines import (
    Asked,
    LabelFiles,
    LabelTable,
    Line,
    Lines,
    bad_entry,
    labelled,
    merged,
    texts_of,
)
from clip_es.records.text_files import printable

_OF_LABELS = ("choices", "labels", "taxonomy", "brushlabels", "rectanglelabels", "polygonlabels", "ellipselabels")
_KINDS = (*_OF_LABELS, "keypointlabels", "bitmasklabels", "vectorlabels", "ellipsevectorlabels")
_NOT_LABELS = {"id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement", "history"}
"""What the short forms say of a task besides its data and its labels."""

_DATA = "_data_"
"""Before the name of data that is called like a control, in a table."""

_UNSAID = ("completions", "predictions")
"""Keys of a task that nobody annotated, or that an old Label Studio wrote."""


def fits(tree: Any) -> bool:
    """Whether this is a list of tasks, in full or in short."""
    first = tree[0] if isinstance(tree, list) and tree else None
    return isinstance(first, dict) and (
        (isinstance(first.get("data"), dict) and any(key in first for key in ("annotations", *_UNSAID)))
        or ("annotation_id" in first and _picture(first) is not None)
    )


def label_studio(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every task of the files."""
    lines = merged(_lines(files, names, asked.field))
    return LabelTable(lines, asked.class_id, files.at(names, "task"), anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...], field: str | None) -> Lines:
    number = 0
    for name in names:
        tasks = files.tree(name) if name.lower().endswith(".json") else list(_rows(files, name))
        if not isinstance(tasks, list):
            raise bad_entry("is not an export of Label Studio", name, "a list of tasks", tasks)
        short = [task for task in tasks if isinstance(task, dict) and not isinstance(task.get("data"), dict)]
        controls = _controls(short, field, name) if short else ()
        if field is not None:
            _check_control(tasks, field, name)
        for task in tasks:
            number += 1
            where = f"{PurePosixPath(name).name} task {number}"
            try:
                if isinstance(task, DataError):
                    raise task
                yield number, _line(task, field, controls, where)
            except DataError as error:
                yield number, error


def _check_control(tasks: list[Any], field: str, where: str) -> None:
    """Raises DataError: the tasks have results, of other controls alone."""
    known: set[str] = set()
    for task in tasks:
        annotations = task.get("annotations") if isinstance(task, dict) else None
        for one in annotations if isinstance(annotations, list) else ():
            results = _items(one.get("result")) if isinstance(one, dict) else []
            names = [result.get("from_name") for result in results if isinstance(result, dict)]
            known.update(name for name in names if isinstance(name, str))
    if known and field not in known:
        raise _no_control(field, known, where)


def _no_control(field: str, known: Iterable[str], where: str) -> DataError:
    return DataError(
        f"has no control {field!r}",
        where=where,
        expected=printable(", ".join(known), 100) or "a control with labels",
        next_step="Correct --label-field.",
    )


def _line(task: Any, field: str | None, controls: tuple[str, ...], where: str) -> Line:
    if not isinstance(task, dict):
        raise bad_entry("is not a task", where, "an object", task)
    data = task.get("data")
    image = _picture(data if isinstance(data, dict) else task)
    if image is None:
        raise bad_entry("names no picture", where, '{"data": {"image": "/data/upload/1/a.jpg"}}', data)
    if not isinstance(data, dict):
        return labelled(image, (label for key in controls for label in _short(task.get(key), where)))
    annotations = task.get("annotations", task.get("completions", [] if "predictions" in task else None))
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


def _rows(files: LabelFiles, name: str) -> Iterator[dict[str, Any] | DataError]:
    """The tasks of a table, as in JSON-MIN."""
    header = header_of(files, name).cells
    for _, _, cells in rows_of(files, name):
        yield cells if isinstance(cells, DataError) else dict(zip(header, map(_value, cells), strict=True))


def _value(cell: str) -> Any:
    """A cell: what its JSON says, where it is an object or a list."""
    try:
        return json.loads(cell) if cell.startswith(("{", "[")) else cell
    except (ValueError, RecursionError):
        return cell


def _controls(tasks: list[dict[str, Any]], field: str | None, where: str) -> tuple[str, ...]:
    """The keys of the short forms that hold labels.

    The data of a task stand beside them. JSON-MIN has the controls between `id` and `annotator`; in a table every
    column may be one. What is an object or a list of regions anywhere is one; of several texts it must be said.
    Raises DataError: it cannot be told, or the field is not there.
    """
    structured: dict[str, None] = {}
    texts: dict[str, None] = {}
    told = True
    for task in tasks:
        picture, between = _picture(task), _between(task)
        told &= between is not None
        for key in task if between is None else between:
            value = task[key]
            if key in _NOT_LABELS or key.startswith(_DATA) or value == picture:
                continue
            if any(isinstance(one, dict) and any(k in one for k in _KINDS) for one in _items(value)):
                structured[key] = None
            elif any(isinstance(one, str) and one.strip() for one in _items(value)):
                texts[key] = None
    if field is not None:
        if not any(field in task for task in tasks):
            raise _no_control(field, {**structured, **texts}, where)
        return (field,)
    only_texts = [key for key in texts if key not in structured]
    usual = [key for key in ("choice", "label") if key in only_texts]
    if not usual and (len(only_texts) > 1 or (only_texts and structured and not told)):
        raise DataError(
            "has several texts, any of which may be the choice",
            where=where,
            expected=f"one of {printable(', '.join([*structured, *only_texts]), 100)}",
            next_step="Name it with --label-field.",
        )
    return (*structured, *(usual[:1] or only_texts))


def _between(task: dict[str, Any]) -> list[str] | None:
    """The keys between `id` and `annotator`; None where they are in another order, as in a table."""
    keys = list(task)
    places = [keys.index(key) for key in ("id", "annotator", "annotation_id") if key in task]
    return keys[places[0] + 1 : places[1]] if len(places) == 3 and places == sorted(places) else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _short(value: Any, where: str) -> Iterator[str]:
    """The labels of a control: a text is a single choice, an object several, a list those of each region."""
    for item in _items(value):
        if isinstance(item, dict):
            yield from (name for kind in _KINDS if kind in item for name in _named(item[kind], kind, where))
        elif isinstance(item, str) and item.strip():
            yield item.strip()


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
