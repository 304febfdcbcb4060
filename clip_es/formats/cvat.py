"""CVAT's "Segmentation mask 1.1": the VOC tree with a label map, in which 255 is a label of its own.

CVAT looks at colours, so 255 must be declared or its import stops. The project in CVAT needs a label `undecided` beside
the classes. `annotations.zip` is what CVAT's "Upload annotations" takes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from clip_es.errors import DataError
from clip_es.file_source import Source
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming, decode_png, no_pngs
from clip_es.formats.voc import VocWriter, by_colour, labelmap, read_labelmap
from clip_es.store.disk import StoreError, make_folder

_ZIP = "annotations.zip"


class CvatWriter(VocWriter):
    """Masks lie in the folder and in annotations.zip; pictures only in the folder."""

    default_split = "default"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._part = self.folder.path / f"{_ZIP}.part"
        make_folder(self._part.parent)
        try:
            self._zip = zipfile.ZipFile(self._part, "w")
        except OSError as error:
            raise StoreError.of(self._part, error) from error
        self.folder.unfinished.callback(self._give_up)

    def keep(self, name: str, data: bytes) -> None:
        """Write a mask into both."""
        super().keep(name, data)
        self._pack(name, data)

    def finish(self) -> None:
        """List, label map and archive."""
        super().finish()
        name = f"ImageSets/Segmentation/{self.split}.txt"
        self._pack(name, (self.folder.path / name).read_bytes())
        self._pack("labelmap.txt", labelmap(self.names).encode())
        try:
            self._zip.close()
            self._part.replace(self.folder.path / _ZIP)
        except OSError as error:
            raise StoreError.of(self.folder.path / _ZIP, error) from error

    def _give_up(self) -> None:
        self._zip.close()
        self._part.unlink(missing_ok=True)

    def _pack(self, name: str, data: bytes) -> None:
        try:  # Every member is dated 1980, so equal masks give equal bytes.
            self._zip.writestr(zipfile.ZipInfo(name), data)
        except OSError as error:
            raise StoreError.of(self._part, error) from error


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """Every PNG of SegmentationClass by the colours of labelmap.txt. Raises DataError: there is no labelmap.txt."""
    found = source.find("labelmap.txt")
    if found is None:
        raise DataError(
            "has no labelmap.txt, so its colours mean nothing",
            where=source.path,
            next_step='Export the task from CVAT as "Segmentation mask 1.1", and pass the zip or its folder.',
        )
    colours = read_labelmap(source, found, names)
    for name in source.below("SegmentationClass", ".png"):
        yield Incoming(
            name,
            PurePosixPath(name).name,
            partial(
                lambda name, size_hw: by_colour(decode_png(source.bytes(name), name, size_hw), colours, name), name
            ),
        )
    yield from no_pngs(source, "SegmentationClass")
