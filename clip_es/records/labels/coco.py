"""Any instances file in COCO's format, with whatever categories: the labels of a picture are those of its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_es.records.coco.file import CocoFile, checked
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Lines, bad_entry, beside, labelled, merged

_LISTS = ("images", "annotations", "categories")


def fits(tree: Any) -> bool:
    """Whether an object has the three lists."""
    return isinstance(tree, dict) and all(isinstance(tree.get(key), list) for key in _LISTS)


def coco(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every picture of the files; one that several files list, as COCO's own do, has the labels of all."""
    found = [checked(files.tree(name), Path(name)) for name in names]
    classes = tuple(dict.fromkeys(name for file in found for name in file.names.values()))
    return LabelTable(
        merged(_lines(found)) if len(found) > 1 else _lines(found),
        asked.class_id,
        files.at(names, "image"),
        classes,
        anywhere=True,
    )


def _lines(files: list[CocoFile]) -> Lines:
    for file in files:
        for _, error in file.problems:
            yield 0, error
        for image in file.images:
            name, number = image.get("file_name"), image["id"]
            if not isinstance(name, str) or not name:
                yield number, bad_entry("has no file_name", f"{file.path.name} image {number}", "a name", image)
            else:
                labels = (file.names[thing["category_id"]] for thing in file.objects(image))
                yield number, labelled(beside(file.path.as_posix(), name), labels)
