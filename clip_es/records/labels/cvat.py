"""CVAT's XML, "CVAT for images 1.1" and "CVAT for video 1.1": tags and shapes of pictures, tracks of frames.

Frame 7 of a video is the picture `frame_000007`, as CVAT itself exports it.

The file is read as a stream, without entities, document types or references to other files.
"""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import iterparse

from clip_es.errors import DataError
from clip_es.records.labels.lines import (
    LARGEST,
    Asked,
    LabelFiles,
    LabelTable,
    Line,
    Lines,
    bad_entry,
    beside,
    labelled,
)
from clip_es.records.xml_files import XML_ERRORS, refused_xml


def fits(root: Any) -> bool:
    """Whether the name of the outermost element is CVAT's."""
    return root == "annotations"


def root_of(files: LabelFiles, name: str) -> str:
    """The name of the outermost element of an XML file. Raises DataError."""
    return next((element.tag for element in _elements(files, name, "start")), "")


def cvat(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """Every `image` of the files."""
    return LabelTable(_lines(files, names), asked.class_id, files.at(names, "image"), anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    number = 0
    for name in names:
        frames: dict[int, dict[str, None]] = {}
        last: Element | None = None
        for element in _elements(files, name, "end"):
            last = element
            if element.tag not in ("image", "track"):
                continue
            number += 1
            where = f"{PurePosixPath(name).name} {element.tag} {number}"
            try:
                if element.tag == "track":
                    _add_track(element, frames, where)
                else:
                    yield number, _image(element, name, where)
            except DataError as error:
                yield number, error
            element.clear()
        if last is None or last.tag != "annotations":
            raise DataError(
                "is not an export of CVAT",
                where=name,
                expected="`annotations` with `image` or `track` elements",
                found=None if last is None else last.tag,
                next_step='Export the task from CVAT as "CVAT for images 1.1".',
            )
        for frame, labels in sorted(frames.items()):
            number += 1
            yield number, labelled(beside(name, f"frame_{frame:06d}"), labels)


def _image(element: Element, name: str, where: str) -> Line:
    picture = element.get("name")
    labels = [inner.get("label", "").strip() for inner in element if inner.get("label") is not None]
    if not picture or "" in labels:
        raise bad_entry("has no name, or a tag without a label", where, '<image name="a.jpg">', picture)
    subset = element.get("subset")  # Of a project; CVAT exports its pictures into a folder of this name.
    return labelled(beside(name, f"{subset}/{picture}" if subset else picture), labels)


def _add_track(track: Element, frames: dict[int, dict[str, None]], where: str) -> None:
    """The label of a track to the frames it is seen in."""
    label = track.get("label", "").strip()
    shown = [shape.get("frame", "") for shape in track if shape.get("outside") != "1"]
    if not label or not all(frame.isascii() and frame.isdigit() and len(frame) < 10 for frame in shown):
        raise bad_entry("has no label, or a shape without its frame", where, '<track label="cat">', label)
    for frame in shown:
        frames.setdefault(int(frame), {})[label] = None


def _elements(files: LabelFiles, name: str, event: str) -> Any:
    data = io.BytesIO(files.bytes(name, LARGEST))
    try:
        for _, element in iterparse(data, events=(event,), forbid_dtd=True):
            yield element
    except XML_ERRORS as error:
        raise refused_xml(error, name) from None
