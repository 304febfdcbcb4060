"""PASCAL VOC: palette PNGs in SegmentationClass, pictures in JPEGImages, ids in ImageSets/Segmentation.

`labelmap.txt` names the colours, 255 included, for tools such as Datumaro that look at colours and not at numbers.
FiftyOne reads the tree as an ImageSegmentationDirectory: data_path JPEGImages, labels_path SegmentationClass.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from clip_es.errors import DataError
from clip_es.file_source import Source
from clip_es.formats.names import Names
from clip_es.formats.source import Incoming, decode_png, no_pngs, packed_rgb, relabelled
from clip_es.formats.writer import Writer, palette_png
from clip_es.masks import palette
from clip_es.types import UNDECIDED

_MASKS = "SegmentationClass"


class VocWriter(Writer):
    """Raises ConfigError when made: a name with `:`, which separates the columns of labelmap.txt."""

    suffixes = (".jpg",)

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.names.refuse_in_names(":#", "labelmap.txt")
        self._list = self.folder.growing(f"ImageSets/Segmentation/{self.split}.txt")

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """JPEGImages/<id>.jpg, SegmentationClass/<id>.png and a line of the list."""
        self.place(picture, f"JPEGImages/{image_id}", labels)
        self.keep(f"SegmentationClass/{image_id}.png", palette_png(labels))
        if (things := self.things(image_id, labels)) is not None:
            self.keep(f"SegmentationObject/{image_id}.png", palette_png(_objects(things, labels)))
        self._list.add(f"{image_id}\n")

    def keep(self, name: str, data: bytes) -> None:
        """Write a mask."""
        self.folder.write(name, data)

    def finish(self) -> None:
        """The list and labelmap.txt."""
        self._list.finish()
        self.folder.write("labelmap.txt", labelmap(self.names))


def _objects(things: Int64[np.ndarray, "h w"], labels: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """VOC's SegmentationObject: 0 in none, 255 undecided, and things counted from 1; after 254 they are left out."""
    numbers = np.unique(things[(things > 0) & (labels != UNDECIDED)])[: UNDECIDED - 1]
    table = np.zeros(int(things.max(initial=0)) + 1, dtype=np.uint8)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return np.where(labels == UNDECIDED, np.uint8(UNDECIDED), table[things])


def labelmap(names: Names) -> str:
    """One line `name:red,green,blue::` for each label."""
    labels = [0, *range(1, len(names.classes) + 1), UNDECIDED]
    rows = [f"{names.name(label)}:{','.join(map(str, names.colour(label)))}::" for label in labels]
    return "\n".join(["# label:color_rgb:parts:actions", *rows, ""])


def read(source: Source, names: Names) -> Iterator[Incoming]:
    """Every PNG of SegmentationClass, or of the folder itself where there is none.

    Numbers count in palette and grey PNGs, the colours of labelmap.txt or of the VOC palette in RGB ones.
    """
    found = source.find("labelmap.txt")
    colours = read_labelmap(source, found, names) if found else voc_colours(names)
    for name in source.below(_MASKS, ".png"):
        yield Incoming(name, PurePosixPath(name).name, partial(labels_of_png, source, name, names, colours))
    yield from no_pngs(source, _MASKS)


def read_labelmap(source: Source, name: str, names: Names) -> dict[int, int]:
    """Packed colour -> label of each line; names this run does not know are left out. Raises DataError."""
    colours: dict[int, int] = {}
    for number, line in enumerate(source.text(name).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        label, *rest = line.split(":")
        parts = rest[0].split(",") if rest else []
        if len(parts) != 3 or not all(p.strip().isascii() and p.strip().isdigit() and int(p) < 256 for p in parts):
            raise DataError(
                "does not name a colour",
                where=f"{name} line {number}",
                expected="name:red,green,blue::",
                found=repr(line[:80]),
            )
        red, green, blue = map(int, parts)
        try:
            colours[red + 256 * green + 65536 * blue] = names.label(label)
        except DataError:
            continue  # A label nobody drew with does no harm; the pixels of one that was used are refused.
    return colours


def voc_colours(names: Names) -> dict[int, int]:
    """Packed colour of the VOC palette -> label."""
    known = [0, *range(1, len(names.classes) + 1), UNDECIDED]
    return {r + 256 * g + 65536 * b: label for label in known for r, g, b in [names.colour(label)]}


def labels_of_png(
    source: Source, name: str, names: Names, colours: dict[int, int], size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """The numbers of a palette or grey PNG, or the labels of its colours. Raises DataError, ShapeError.

    Editors number the colours of a palette anew when they save it; then the colours count.
    """
    image = decode_png(source.bytes(name), name, size_hw)
    if image.mode not in ("P", "L", "1") or (image.mode == "P" and not _numbered_as_labels(image, colours, name)):
        return by_colour(image, colours, name)
    known = {label: label for label in (0, *range(1, len(names.classes) + 1), UNDECIDED)}
    return relabelled(np.asarray(image).astype(np.int32), known, name, lambda value: f"the number {value}")


def _numbered_as_labels(image: Image.Image, colours: dict[int, int], where: str) -> bool:
    """Whether the numbers of a palette PNG are labels, and not its colours. Raises DataError: neither."""
    used = np.unique(np.asarray(image)).tolist()
    held = image.getpalette("RGB") or []
    shown = {k: tuple(held[3 * k : 3 * k + 3]) for k in used}
    ours = palette()
    if all(shown[k] == (k, k, k) for k in used) or all(shown[k] == tuple(ours[k].tolist()) for k in used):
        return True
    packed = [r + 256 * g + 65536 * b for r, g, b in (rgb for rgb in shown.values() if len(rgb) == 3)]
    if len(packed) == len(used) and all(colour in colours for colour in packed):
        return False
    raise DataError(
        "has another palette than the export",
        where=where,
        found=f"{len(used)} numbers that stand for other colours",
        next_step="Save it with the palette of the export, in its colours as RGB, or as a grey PNG of class numbers.",
    )


def by_colour(image, colours: dict[int, int], where: str) -> UInt8[np.ndarray, "h w"]:
    """Labels of a picture by the colours of a label map."""
    return relabelled(
        packed_rgb(image), colours, where, lambda c: f"the colour {c % 256},{c // 256 % 256},{c // 65536}"
    )
