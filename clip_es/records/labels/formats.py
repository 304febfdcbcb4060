"""Every format that labels may come in, in one table; which one a file has is seen from what it holds.

A new one is one file and a line in `LABEL_FORMATS`. Another installed package brings its own under the entry point
group `clip_es.label_formats`; see `clip_es.joints`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from clip_es.errors import DataError, nearest
from clip_es.joints import Choice, Table
from clip_es.records.labels import (
    arrays,
    coco,
    cvat,
    datumaro,
    fiftyone,
    huggingface,
    label_studio,
    labelme,
    tables,
)
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable

_LOOKED_AT = 8
"""Files of a folder or an archive that are looked at to find its format."""


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
    first object of JSON lines, the first two rows of a CSV file, the outermost element of an XML file."""
    read: Callable[[LabelFiles, tuple[str, ...], Asked], LabelTable]
    """From the files of the format to their labels. Raises DataError: a file as a whole is not usable."""
    in_folders: bool = True
    """Whether it may be found in a folder or an archive."""


def _always(_: Any) -> bool:
    return True


LABEL_FORMATS: Table[LabelFormat] = Table(
    "format of labels",
    "clip_es.label_formats",
    [
        LabelFormat("csv", "a table with the columns image and labels", (".csv",), tables.is_csv, tables.csv),
        LabelFormat(
            "one-hot-csv",
            "a table with a column of 0 and 1 for each class",
            (".csv",),
            tables.is_one_hot,
            tables.one_hot,
        ),
        LabelFormat(
            "jsonl",
            "JSON lines with the keys image and labels",
            (".jsonl", ".ndjson"),
            tables.is_jsonl,
            tables.jsonl,
        ),
        LabelFormat(
            "text",
            "lines of a picture and its labels with blanks between",
            (".txt", ".lst"),
            _always,
            tables.text,
            False,
        ),
        LabelFormat(
            "npy", "a one-hot array, or a dictionary of its rows", (".npy",), _always, arrays.npy, in_folders=False
        ),
        LabelFormat(
            "huggingface",
            "the metadata file of a Hugging Face folder",
            (".jsonl", ".csv"),
            lambda head: huggingface.is_csv(head) if isinstance(head, list) else huggingface.is_jsonl(head),
            huggingface.huggingface,
        ),
        LabelFormat(
            "labelme", "labelme's or X-AnyLabeling's JSON of each picture", (".json",), labelme.fits, labelme.labelme
        ),
        LabelFormat(
            "label-studio", "Label Studio's JSON or JSON-MIN", (".json",), label_studio.fits, label_studio.label_studio
        ),
        LabelFormat("cvat", "CVAT for images in XML, its tags and shapes", (".xml",), cvat.fits, cvat.cvat),
        LabelFormat("datumaro", "Datumaro's JSON", (".json",), datumaro.fits, datumaro.datumaro),
        LabelFormat("coco", "COCO's instances JSON, with any categories", (".json",), coco.fits, coco.coco),
        LabelFormat("fiftyone", "FiftyOne's labels or samples in JSON", (".json",), fiftyone.fits, fiftyone.fiftyone),
    ],
    LabelFormat,
)
"""The one place where a format's name stands."""

LabelFormatName = Annotated[str, Choice(LABEL_FORMATS)]
"""A format that labels can be read from."""


def open_labels(path: Path, asked: Asked, format: str | None = None) -> LabelTable:
    """The reader of a file, a folder or a zip archive of labels; the format is seen from what it holds, or named.

    Raises DataError: no such file, no known format, or a file that as a whole is not what it says. ConfigError: there
    is no format of that name.
    """
    if not path.exists():
        raise DataError(
            "does not exist",
            where=path,
            expected="a file or a folder of labels, or one of the words subfolders, auto, none",
            next_step=nearest(str(path), ("subfolders", "auto", "none")) or "Check the path.",
        )
    rows = [LABEL_FORMATS.find(format)] if format else list(LABEL_FORMATS.values())
    files = LabelFiles(path, tuple(suffix for row in rows for suffix in row.suffixes))
    single = files.names == (path.name,)
    suffix = path.suffix.lower()
    if single:
        rows = [row for row in rows if suffix in row.suffixes] or ([] if not format else rows)
    else:
        rows = [row for row in rows if row.in_folders]
    row, names = _recognised(files, rows, format is not None or (single and suffix != ".json"))
    return row.read(files, names, asked)


def _recognised(files: LabelFiles, rows: list[LabelFormat], certain: bool) -> tuple[LabelFormat, tuple[str, ...]]:
    """The format, and the files that have it. `certain`: the only format that comes into question is the right one."""
    names = [name for name in files.nearest() if any(name.lower().endswith(row.suffixes) for row in rows)]
    looked_at = names[:_LOOKED_AT]
    kinds: dict[str, list[LabelFormat]] = {}
    errors: list[DataError] = []
    for name in looked_at:
        try:
            kinds[name] = _fitting(files, name, rows)
        except DataError as error:
            errors.append(error)
    found = next((fitting[0] for fitting in kinds.values() if fitting), None)
    if found is None and certain and rows and names:
        found = rows[0]  # Its own error says best what is wrong with the file.
    if found is None:
        if errors and len(names) == len(errors):
            raise errors[0]
        raise DataError(
            "is not a file of labels in any known format" if names else "holds no file of labels",
            where=files.path,
            expected=", ".join(f"{row.name} ({', '.join(row.suffixes)})" for row in LABEL_FORMATS.values()),
            next_step="Rename or export it again; data/README.md shows what each format contains."
            if not names
            else "Where you know which it is, pass --labels-format.",
        )
    if len(names) > len(looked_at):
        return found, tuple(sorted(name for name in names if name.lower().endswith(found.suffixes)))
    fitting = [name for name in names if found in kinds.get(name, ())]
    return found, tuple(sorted(fitting or [name for name in names if name.lower().endswith(found.suffixes)]))


def _fitting(files: LabelFiles, name: str, rows: list[LabelFormat]) -> list[LabelFormat]:
    """The formats that a file may have. Raises DataError: it cannot be read."""
    suffix = Path(name).suffix.lower()
    looks: dict[str, Callable[[], Any]] = {
        ".json": lambda: files.tree(name),
        ".xml": lambda: cvat.root_of(files, name),
        ".csv": lambda: files.rows(name),
        ".jsonl": lambda: _first_object(files, name),
        ".ndjson": lambda: _first_object(files, name),
    }
    head = looks.get(suffix, lambda: None)()
    return [row for row in rows if suffix in row.suffixes and row.fits(head)]


def _first_object(files: LabelFiles, name: str) -> object:
    for _, line in files.lines(name):
        item = tables.json_object(line) if isinstance(line, str) else None
        if isinstance(item, dict):
            return item
    return None
