"""YOLO's label files: a text file for each picture, a line for each object, `0 0.5 0.5 0.2 0.3`; its class counts.

The names of the classes stand in `data.yaml` (ultralytics, Roboflow), `classes.txt` (labelImg, Label Studio) or
`obj.names` (darknet, CVAT). The picture of `labels/train/a.txt` is `images/train/a.jpg`, as ultralytics has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

import yaml

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Line, Lines, bad_entry, labelled, text_of
from clip_es.records.text_files import printable
from clip_es.safe_yaml import load_yaml

NAMES = ("classes.txt", "obj.names")
YAML = (".yaml", ".yml")
_LARGEST_NAMES = 2**20
_FEWEST = 5
"""Numbers of a line: the class and a box; more of them are a polygon or key points."""


def fits(line: object) -> bool:
    """Whether the first line of a text file is an object: a class number and at least a box in shares of the sides."""
    words = line.split() if isinstance(line, str) else []
    return len(words) >= _FEWEST and words[0].isdecimal() and all(_is_share(word) for word in words[1:])


def _is_share(word: str) -> bool:
    try:
        return -1.0 <= float(word) <= 2.0
    except ValueError:
        return False


def yolo(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every label file that is listed; an empty one says that its picture has no object."""
    classes = _classes(files)
    labels = tuple(name for name in files.names if name.lower().endswith(".txt") and _is_of_picture(name))
    lines = _lines(files, labels, classes)
    class_id = asked.name_or_id if classes is None else asked.class_id
    declared = tuple(classes.values()) if classes else ()
    return LabelTable(lines, class_id, files.at(labels, "file"), declared, numbers=classes is None, anywhere=True)


def _is_of_picture(name: str) -> bool:
    last = PurePosixPath(name).name.lower()
    return last not in NAMES and not last.startswith("readme")


def _classes(files: LabelFiles) -> dict[int, str] | None:
    """The names by number; None where no file has them. Raises DataError: the file that has them is not usable."""
    for name in sorted(files.names, key=lambda known: (known.count("/"), known)):
        last = PurePosixPath(name).name.lower()
        if last in NAMES:
            lines = [line for _, line in files.lines(name)]
            return {k: line.strip() for k, line in enumerate(lines) if isinstance(line, str)}
        if last.endswith(YAML):
            try:
                tree = load_yaml(files.bytes(name, _LARGEST_NAMES))
            except yaml.YAMLError as error:
                raise DataError("is not valid YAML", where=name, found=printable(str(error))) from error
            found = _names(tree.get("names")) if isinstance(tree, dict) else None
            if found is not None:
                return found
    return None


def _names(value: object) -> dict[int, str] | None:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    found = {number: text for number, name in pairs if isinstance(number, int) and (text := text_of(name))}
    return found or None


def _lines(files: LabelFiles, names: tuple[str, ...], classes: dict[int, str] | None) -> Lines:
    for number, name in enumerate(names, start=1):
        try:
            line = _line(files, name, classes)
            if line is not None:
                yield number, line
        except DataError as error:
            yield number, error


def _line(files: LabelFiles, name: str, classes: dict[int, str] | None) -> Line | None:
    """The labels of a picture; None for a list of pictures, which darknet's tools put beside them."""
    labels = []
    for row, line in files.lines(name):
        if isinstance(line, DataError):
            raise line
        where = f"{PurePosixPath(name).name} line {row}"
        if not labels and line.rstrip().lower().endswith(PICTURES):
            return None
        if not fits(line):
            raise bad_entry("is not an object of YOLO", where, "a class number and at least four shares", line)
        number = line.split()[0].lstrip("0") or "0"
        if classes is None:
            labels.append(number)
        elif len(number) < 6 and int(number) in classes:
            labels.append(classes[int(number)])
        else:
            raise bad_entry("has a class that has no name", where, f"one of {len(classes)} numbers", line)
    # The last folder called labels is that of the pictures, called images.
    parts = list(PurePosixPath(name).with_suffix("").parts)
    folders = [k for k, part in enumerate(parts[:-1]) if part == "labels"]
    if folders:
        parts[folders[-1]] = "images"
    return labelled("/".join(parts), labels)
