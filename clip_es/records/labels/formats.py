"""Every format that labels may come in, in one table; which one a file has is seen from what it holds.

A new one is one file and a line in `LABEL_FORMATS`. Another installed package brings its own under the entry point
group `clip_es.label_formats`; see `clip_es.joints`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from clip_es.errors import ConfigError, DataError, nearest
from clip_es.joints import Choice, Table
from clip_es.records.labels import (
    arrays,
    coco,
    cvat,
    datumaro,
    fiftyone,
    huggingface,
    json_lists,
    label_studio,
    labelme,
    pascal_voc,
    tables,
    yolo,
)
from clip_es.records.labels.cells import head_of, kind_of
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable
from clip_es.records.text_files import printable

_LOOKED_AT = 8
"""Files of a folder or an archive that are looked at to find its format, empty ones not counted."""

_MOST_EMPTY = 1000

_CELLS = (".csv", ".tsv")
_NO_FILES_OF_LABELS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), ("is a spreadsheet", "Save it as CSV.")),
    ".parquet": ("is a table with pictures", "clip-es masks shards --shards reads it; `huggingface` a folder of them."),
    ".pkl": ("is a pickle, which is a program and is never run", "Write it as CSV or JSON lines."),
}
"""What people have besides, and what to do with it."""


@dataclass(frozen=True)
class LabelFormat:
    """How labels of one format are recognised and read."""

    name: str
    about: str
    """One sentence for help, errors and docs, without a full stop."""
    suffixes: tuple[str, ...]
    """How its files end, in lower case."""
    fits: Callable[[Any], bool]
    """Whether a file with this suffix is of the format, judging by what stands in it: the whole of a JSON file, the
    first object of JSON lines, the first two rows of a table, the first line of a text, the outermost element of
    XML; None where the file is empty."""
    read: Callable[[LabelFiles, tuple[str, ...], Asked], LabelTable]
    """From the files of the format to their labels. Raises DataError: a file as a whole is not usable."""
    in_folders: bool = True
    """Whether it may be found in a folder or an archive."""
    has_fields: bool = False
    """Whether a column or field with the labels can be named."""


def _always(_: Any) -> bool:
    return True


def _is_table(name: str) -> Callable[[Any], bool]:
    """Whether the first two lines of a table are those of a format."""
    return lambda head: isinstance(head, tuple) and kind_of(head) == name


LABEL_FORMATS: Table[LabelFormat] = Table(
    "format of labels",
    "clip_es.label_formats",
    [
        LabelFormat(
            "csv", "a table with the columns image and labels", _CELLS, _is_table("csv"), tables.csv, has_fields=True
        ),
        LabelFormat(
            "csv-rows",
            "a table with a column of pictures and one of labels, a row for each label or object",
            _CELLS,
            _is_table("csv-rows"),
            tables.csv_rows,
            has_fields=True,
        ),
        LabelFormat(
            "one-hot-csv",
            "a table with a column of 0 and 1 for each class",
            _CELLS,
            _is_table("one-hot-csv"),
            tables.one_hot,
        ),
        LabelFormat(
            "jsonl",
            "JSON lines with the keys image and labels",
            (".jsonl", ".ndjson"),
            tables.is_jsonl,
            tables.jsonl,
            has_fields=True,
        ),
        LabelFormat(
            "text",
            "lines of a picture and its labels with blanks between",
            (".txt", ".lst"),
            lambda line: not yolo.fits(line),
            tables.text,
            in_folders=False,
        ),
        LabelFormat(
            "npy", "a one-hot array, or a dictionary of its rows", (".npy",), _always, arrays.npy, in_folders=False
        ),
        LabelFormat(
            "json",
            "JSON with pictures as keys, or a list of objects with a picture and labels",
            (".json",),
            json_lists.is_json,
            json_lists.json,
            has_fields=True,
        ),
        LabelFormat(
            "huggingface",
            "the metadata file of a Hugging Face folder",
            (".jsonl", *_CELLS),
            lambda head: _is_table("huggingface")(head) or huggingface.is_jsonl(head),
            huggingface.huggingface,
            has_fields=True,
        ),
        LabelFormat(
            "labelme", "labelme's or X-AnyLabeling's JSON of each picture", (".json",), labelme.fits, labelme.labelme
        ),
        LabelFormat(
            "label-studio",
            "Label Studio's JSON, JSON-MIN, CSV or TSV",
            (".json", *_CELLS),
            lambda head: _is_table("label-studio")(head) or label_studio.fits(head),
            label_studio.label_studio,
            has_fields=True,
        ),
        LabelFormat(
            "pascal-voc", "Pascal VOC's XML of each picture", (".xml",), pascal_voc.fits, pascal_voc.pascal_voc
        ),
        LabelFormat(
            "yolo",
            "YOLO's text file of each picture, with data.yaml, classes.txt or obj.names",
            (".txt", ".names", *yolo.YAML),
            yolo.fits,
            yolo.yolo,
        ),
        LabelFormat(
            "createml",
            "CreateML's JSON of pictures with annotations",
            (".json",),
            json_lists.is_createml,
            json_lists.createml,
        ),
        LabelFormat(
            "cvat", "CVAT's XML of images or a video, its tags, shapes and tracks", (".xml",), cvat.fits, cvat.cvat
        ),
        LabelFormat("datumaro", "Datumaro's JSON", (".json",), datumaro.fits, datumaro.datumaro),
        LabelFormat("coco", "COCO's instances JSON, with any categories", (".json",), coco.fits, coco.coco),
        LabelFormat(
            "fiftyone",
            "FiftyOne's labels or samples in JSON",
            (".json",),
            fiftyone.fits,
            fiftyone.fiftyone,
            has_fields=True,
        ),
    ],
    LabelFormat,
)
"""The one place where a format's name stands."""

LabelFormatName = Annotated[str, Choice(LABEL_FORMATS)]
"""A format that labels can be read from."""


def open_labels(path: Path, asked: Asked, format: str | None = None) -> LabelTable:
    """The reader of a file, a folder or a zip archive of labels; the format is seen from what it holds, or named.

    Raises DataError: no such file, no known format, or a file that as a whole is not what it says. ConfigError: there
    is no format of that name, or it has no fields and one is asked for.
    """
    if not path.exists():
        raise DataError(
            "does not exist",
            where=path,
            expected="a file or a folder of labels, or one of the words subfolders, auto, none",
            next_step=nearest(str(path), ("subfolders", "auto", "none")) or "Check the path.",
        )
    if path.suffix.lower() in _NO_FILES_OF_LABELS:
        what, step = _NO_FILES_OF_LABELS[path.suffix.lower()]
        raise DataError(what, where=path, expected="a file of labels", next_step=step)
    rows = [LABEL_FORMATS.find(format)] if format else list(LABEL_FORMATS.values())
    if path.suffix.lower() in yolo.YAML and path.is_file():  # data.yaml says where its labels are: beside it.
        path, rows = path.parent, [LABEL_FORMATS.find("yolo")]
    files = LabelFiles(path, tuple(suffix for row in rows for suffix in row.suffixes))
    single = files.names == (path.name,)
    suffix = path.suffix.lower()
    if single:
        rows = [row for row in rows if suffix in row.suffixes] or ([] if not format else rows)
    else:
        rows = [row for row in rows if row.in_folders]
    row, names = _recognised(files, rows, format is not None or (single and suffix not in (".json", ".xml")))
    if asked.field and not row.has_fields:
        raise ConfigError(
            f"labels of the format {row.name} stand in no field that could be named",
            where=path,
            found=f"--label-field {asked.field}",
            next_step="Leave --label-field out.",
        )
    return row.read(files, names, asked)


def _recognised(files: LabelFiles, rows: list[LabelFormat], certain: bool) -> tuple[LabelFormat, tuple[str, ...]]:
    """The format, and the files that have it. `certain`: the only format that comes into question is the right one."""
    names = [name for name in files.nearest() if any(name.lower().endswith(row.suffixes) for row in rows)]
    kinds: dict[str, list[LabelFormat]] = {}
    errors: list[DataError] = []
    looked_at, filled = 0, 0
    for name in names[:_MOST_EMPTY]:
        looked_at += 1
        try:
            head = _head(files, name)
            kinds[name] = _fitting(name, head, rows)
            filled += head is not None
        except DataError as error:
            errors.append(error)
            filled += 1
        if filled == _LOOKED_AT:
            break
    found = next((fitting[0] for fitting in kinds.values() if fitting), None)
    other = next((name for name, fitting in kinds.items() if fitting and found not in fitting), None)
    if found is not None and other is not None:
        first = next(name for name, fitting in kinds.items() if found in fitting)
        raise DataError(
            "holds labels in several formats",
            where=files.path,
            found=f"{found.name} in {printable(first, 60)}, {kinds[other][0].name} in {printable(other, 60)}",
            next_step="Pass the file that is meant, or --labels-format.",
        )
    if found is None and errors and not kinds:
        raise errors[0]
    if found is None and certain and rows and names:
        found = rows[0]  # Its own error says best what is wrong with the file.
    if found is None:
        raise DataError(
            "is not a file of labels in any known format" if names else "holds no file of labels",
            where=files.path,
            expected=", ".join(f"{row.name} ({', '.join(row.suffixes)})" for row in rows or LABEL_FORMATS.values()),
            next_step="Rename or export it again; data/README.md shows what each format contains."
            if not names
            else "Where you know which it is, pass --labels-format.",
        )
    if len(names) > looked_at:
        return found, tuple(sorted(name for name in names if name.lower().endswith(found.suffixes)))
    # What could not be read stays, so that it is said.
    own = [name for name in names if name.lower().endswith(found.suffixes)]
    return found, tuple(sorted([name for name in own if name not in kinds or found in kinds[name]] or own))


def formats_of(files: LabelFiles, name: str) -> list[str]:
    """Names of the formats that claim a file by what it holds: one, or none. Raises DataError: it cannot be read."""
    return [row.name for row in _fitting(name, _head(files, name), list(LABEL_FORMATS.values()))]


def _fitting(name: str, head: Any, rows: list[LabelFormat]) -> list[LabelFormat]:
    return [row for row in rows if Path(name).suffix.lower() in row.suffixes and row.fits(head)]


def _head(files: LabelFiles, name: str) -> Any:
    """What stands in a file at its beginning; None where that is nothing. Raises DataError: it cannot be read."""
    looks: dict[str, Callable[[], Any]] = {
        ".json": lambda: files.tree(name),
        ".xml": lambda: cvat.root_of(files, name),
        ".csv": lambda: head_of(files, name),
        ".tsv": lambda: head_of(files, name),
        ".jsonl": lambda: _first_object(files, name),
        ".ndjson": lambda: _first_object(files, name),
        ".txt": lambda: next((line for _, line in files.lines(name)), None),
        ".lst": lambda: next((line for _, line in files.lines(name)), None),
    }
    return looks.get(Path(name).suffix.lower(), lambda: None)()


def _first_object(files: LabelFiles, name: str) -> object:
    for _, line in files.lines(name):
        item = tables.json_object(line) if isinstance(line, str) else None
        if isinstance(item, dict):
            return item
    return None
