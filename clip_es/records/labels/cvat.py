"""CVAT's "CVAT for images 1.1": one XML file whose pictures have tags and shapes; the labels of both count.

The file is read as a stream, without entities, document types or references to other files.
"""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import iterparse

from clip_es.errors import DataError
from clip_es.records.labels.lines import LARGEST, Asked, LabelFiles, LabelTable, Lines, bad_entry, labelled
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
        video = False
        last: Element | None = None
        for element in _elements(files, name, "end"):
            last = element
            video |= element.tag == "track"
            if element.tag == "track":
                element.clear()
            if element.tag != "image":
                continue
            number += 1
            where = f"{PurePosixPath(name).name} image {number}"
            picture = element.get("name")
            labels = [inner.get("label", "").strip() for inner in element if inner.get("label") is not None]
            if not picture or "" in labels:
                yield number, bad_entry("has no name, or a tag without a label", where, '<image name="a.jpg">', picture)
            else:
                yield number, labelled(picture, labels)
            element.clear()
        if video or last is None or last.tag != "annotations":
            raise DataError(
                "is an export of a video, whose frames have no names" if video else "is not an export of CVAT",
                where=name,
                expected="`annotations` with `image` elements",
                found=None if last is None else last.tag,
                next_step='Export the task from CVAT as "CVAT for images 1.1".',
            )


def _elements(files: LabelFiles, name: str, event: str) -> Any:
    data = io.BytesIO(files.bytes(name, LARGEST))
    try:
        for _, element in iterparse(data, events=(event,), forbid_dtd=True):
            yield element
    except XML_ERRORS as error:
        raise refused_xml(error, name) from None
