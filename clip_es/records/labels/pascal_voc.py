"""Pascal VOC's XML for each picture, as labelImg, Roboflow, CVAT and Label Studio write it: the labels of its objects.

For VOC 2012 itself there is the source `voc12`, which reads its lists and its ground truth too.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from clip_es.errors import DataError
from clip_es.records.labels.lines import Asked, LabelFiles, LabelTable, Line, Lines, bad_entry, beside, labelled
from clip_es.records.xml_files import parse_xml

LARGEST = 2**24
"""Bytes of one file."""


def fits(root: Any) -> bool:
    """Whether the name of the outermost element is that of VOC."""
    return root == "annotation"


def pascal_voc(files: LabelFiles, names: tuple[str, ...], asked: Asked) -> LabelTable:
    """One picture for each file."""
    return LabelTable(_lines(files, names), asked.class_id, files.at(names, "file"), anywhere=True)


def _lines(files: LabelFiles, names: tuple[str, ...]) -> Lines:
    for number, name in enumerate(names, start=1):
        try:
            yield number, _line(files, name)
        except DataError as error:
            yield number, error


def _line(files: LabelFiles, name: str) -> Line:
    where = PurePosixPath(name).name
    tree = parse_xml(files.bytes(name, LARGEST), where)
    if not fits(tree.tag):
        raise bad_entry("is not an annotation of VOC", where, "<annotation>", tree.tag)
    labels = [(element.findtext("name") or "").strip() for element in tree.findall("object")]
    if "" in labels:
        raise bad_entry("has an object without a name", where, "<object><name>cat</name></object>", labels)
    # Without the name of the picture it is the one that is called like the file.
    image = (tree.findtext("filename") or "").strip() or PurePosixPath(name).stem
    return labelled(beside(name, image), labels)
