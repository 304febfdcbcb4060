"""labelme and X-AnyLabeling: a JSON file for each picture; its labels are the flags set and those of its shapes.

X-AnyLabeling's `tags` of a picture count too. labelme's `__ignore__` and `_background_` are no labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Lines, bad_entry, beside, labelled, text_of

NO_LABELS = {"__ignore__", "_background_"}


def fits(tree: Any) -> bool:
    """Whether this is the file of a picture."""
    return isinstance(tree, dict) and "imagePath" in tree and ("shapes" in tree or "flags" in tree)


def labelme(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """One picture for each file."""
    return LabelTable(_lines(files, names), asked.class_id, files.at(names, "file"), anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for number, name in enumerate(names, start=1):
        where = PurePosixPath(name).name
        try:
            tree = files.tree(name)
            if not fits(tree) or not isinstance(tree["imagePath"], str):
                raise bad_entry("is not a labelme file", where, "imagePath, flags and shapes", tree)
            yield number, labelled(beside(name, tree["imagePath"]), _labels(tree, where))
        except DataError as error:
            yield number, error


def _labels(tree: dict[str, Any], where: str) -> Iterator[str]:
    flags, shapes, tags = tree.get("flags") or {}, tree.get("shapes") or [], tree.get("tags") or []
    if not isinstance(flags, dict) or not isinstance(shapes, list) or not isinstance(tags, list):
        raise bad_entry("has no usable flags or shapes", where, "an object and a list", [flags, shapes, tags])
    yield from (name for name, is_set in flags.items() if is_set is True)
    yield from (tag for tag in map(text_of, tags) if tag)
    for shape in shapes:
        label = text_of(shape.get("label")) if isinstance(shape, dict) else None
        if label is None:
            raise bad_entry("has a shape without a label", where, '{"label": "cat", ...}', shape)
        if label not in NO_LABELS:
            yield label
