"""A folder of pictures, and labels from a file of any known format, or sub-folders named after them, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from clip_es.errors import DataError
from clip_es.records.dataset import At, ClassId, Dataset, Entry, Labels, LeftOut, OnBadLabel, check_id, collect, refuse
from clip_es.records.elsewhere import tails
from clip_es.records.file_listing import MASKS, PICTURES, SEPARATOR, ByName, Listing, Place, Tree
from clip_es.records.labels.formats import open_labels
from clip_es.records.labels.lines import Asked, LabelTable, Line, Lines, beside
from clip_es.records.packed_records import Records, Row
from clip_es.records.picture_files import Uploads
from clip_es.records.stored.pictures import FilesOf, StoredTree, names_below
from clip_es.records.text_files import check_inside, printable
from clip_es.storage import address_of

WORDS = ("subfolders", "auto", "none")
"""What may stand in place of a table: labels from the names of the sub-folders; no labels at all (the last two)."""


def folder(
    images: str | Path,
    labels: str | Path,
    *,
    class_id: ClassId,
    class_count: int | None = None,
    truth: str | Path | None = None,
    on_bad_label: OnBadLabel = "fail",
    labelled: bool = True,
    labels_format: str | None = None,
    label_field: str | None = None,
    label_separator: str | None = None,
) -> Dataset:
    """Read pictures and labels. `images` is a folder, or an address on object storage.

    `labels` is a file, a folder or a zip archive of any format of `LABEL_FORMATS` (`labels_format` names it where it
    is not to be found out, `label_field` the column or field with the labels), `subfolders` (the first folder below
    `images` names the class of what is in it), or `auto` or `none`: every picture below `images`, with no class known.
    A table names a picture by its path below `images`, with `/` for sub-folders, or by its id; the id of `a/b.jpg` is
    `a__b`. Labelling tools name it by where it lay for them: it is the picture whose path below `images` ends so.
    `class_count`: how many classes there are, to check ids and columns. `truth` is a folder of ground-truth masks,
    `<id>.png` or in the same sub-folders. Without `labelled` the pictures are those of the table and their labels are
    not looked at.

    Memory: 40 bytes for each picture, and ten for each file in the folders.
    Raises DataError: a folder or the file is missing, its format is not known, or nothing is listed. What is wrong
    with one entry becomes a row of `Dataset.problems`.
    """
    images, address = Path(images), address_of(images)
    tree = StoredTree(address) if address else None
    for path in filter(None, (None if tree else images, Path(truth) if truth is not None else None)):
        if not path.is_dir():
            raise DataError("is not a folder", where=path, next_step="Check the path.")
    word = str(labels) if str(labels) in WORDS else None
    labelled = labelled and word not in {"auto", "none"}
    table = images if word else Path(labels)
    file = (
        LabelTable(_pictures(images, word, names_below(images, tree)), class_id, partial(At, table.name, "picture"))
        if word
        else open_labels(
            table,
            Asked(class_id, class_count, partial(names_below, images, tree), label_field, label_separator),
            labels_format,
        )
    )
    lookup = Labels(file.class_id, on_bad_label, labelled)
    records = Records()
    masks = Listing(Path(truth), suffixes=MASKS, nested=True) if truth is not None else None
    finder = _Finder(images, tree)
    origin = FilesOf(tree.place) if tree else None
    find = (lambda inner: inner) if word else finder.anywhere if file.anywhere else finder
    where = file.where
    base = _below(images, table) if file.anywhere and not tree else ""
    places: dict[str, int] = {}

    def read(line: Line, name: str, parts: tuple[str, str], number: int) -> Row | LeftOut:
        if not file.anywhere:
            check_inside(line.image, where(number))
        if line.left_out and labelled:
            return LeftOut(line.left_out)
        inner = find(name)
        if inner is None and file.anywhere:
            raise DataError(
                f"names the picture {printable(line.image)!r}, which is not there",
                where=where(number),
                expected=f"a picture below {images} whose path ends so",
                next_step="Add the picture, or pass the --images it lies in.",
            )
        if inner is None:
            check_id(image_id_of(line.image), where(number))
            raise DataError(
                f"lists {line.image!r}, which is not there",
                where=where(number),
                expected=f"the file {images / line.image}",
                next_step="Separated by commas? Then name the table .csv and begin it with `image,labels`."
                if "," in line.image and not line.labels
                else "Add the picture, correct the name, or take the row out.",
            )
        stem, suffix = parts if inner == name else _split(inner)
        image_id = stem.replace("/", SEPARATOR)
        check_id(image_id, where(number))
        place = places.get(suffix)
        if place is None:
            place = places[suffix] = records.place(Place(images, suffix, 0, origin))
        name = inner if origin else "" if stem == image_id else stem
        return Row(image_id, place, lookup.ids(line.labels, where(number)), None, name)

    def entries() -> Iterator[Entry]:
        for number, line in file.lines:
            if isinstance(line, DataError):
                yield Entry(str(where(number)), number, refuse(line))
            else:
                name = beside(f"{base}labels", line.image) if file.anywhere else _tidy(line.image)
                parts = _split(name)
                image_id = parts[0].replace("/", SEPARATOR) or str(where(number))
                yield Entry(image_id, number, partial(read, line, name, parts, number))

    find_truth = masks.find if masks else None
    return collect(f"folder {images.name}", entries(), lookup, records, find_truth, table, where)


def _below(images: Path, table: Path) -> str:
    """The folder of a file of labels below that of the pictures, which tools then name as seen from it."""
    folder = table if table.is_dir() else table.parent
    inner = os.path.relpath(folder.resolve(), images.resolve())
    return "" if inner == "." or inner.startswith("..") else f"{Path(inner).as_posix()}/"


def _pictures(images: Path, word: str, names: Iterable[str]) -> Lines:
    """Every picture of the folder, numbered."""
    for number, name in enumerate(names, start=1):
        first, slash, _ = name.partition("/")
        if word == "subfolders" and not slash:
            yield (
                number,
                DataError(
                    f"{printable(name)!r} lies in no sub-folder, so it has no label",
                    where=images,
                    expected="a folder for each class, named like it",
                    next_step="Move it into the folder of its class.",
                ),
            )
        else:
            yield number, Line(name, (first,))


class _Finder:
    """From a tidy name in a table to a path below the folder: a file of that name, or a picture of that id."""

    def __init__(self, images: Path, stored: StoredTree | None = None) -> None:
        self._images = images
        self._tree = Tree(images) if stored is None else stored
        self._uploads = Uploads(images) if stored is None else None
        self._stored = stored
        self._by_name: ByName | None = None
        self._by_id: Callable[[str], str | None] | None = None if stored is None else stored.by_id

    def anywhere(self, stated: str) -> str | None:
        """The picture whose path below the folder is what a stated path ends with, the longest such end; or which
        Label Studio gave that name when it was uploaded.

        Where there is none, and the folder that is stated is none of those below: the only picture of this name.
        Raises DataError: several may be meant.
        """
        uploaded = self._uploads.find(stated) if self._uploads else None
        if uploaded:
            return uploaded
        ends = list(tails(stated))
        found = next((found for tail in ends if (found := self(tail))), None)
        return found or (self._alone(ends) if ends else None)

    def _alone(self, ends: list[str]) -> str | None:
        if self._by_name is None:
            self._by_name = ByName(names_below(self._images, self._stored))
        if self._by_name.knows_one(ends[0].split("/")[:-1]):
            return None
        for name in dict.fromkeys(end.rpartition("/")[2] for end in ends):
            found = self._by_name.folders(name)
            if len(found) > 1:
                raise DataError(
                    f"names the picture {printable(name)!r}, which lies in several folders",
                    where=self._images,
                    found=printable(", ".join(found[:4])),
                    next_step="Pass the one that is meant as --images.",
                )
            if found:
                return self(f"{found[0]}/{name}" if found[0] else name)
        return None

    def __call__(self, name: str) -> str | None:
        if self._tree.has(name):
            return name
        if PurePosixPath(name).suffix.lower() in PICTURES:
            return None
        if self._by_id is None:
            self._by_id = _ids_below(self._images)
        return self._by_id(name.replace("/", SEPARATOR))


def _ids_below(images: Path) -> Callable[[str], str | None]:
    listing = Listing(images, suffixes=PICTURES, nested=True)
    heads = [place.folder.relative_to(images).as_posix() for place in listing.places]

    def find(image_id: str) -> str | None:
        # Dictionaries of COCO's labels call a picture 9 whose file is COCO_train2014_000000000009.jpg.
        for name in (image_id, *(_coco_names(image_id) if image_id.isascii() and image_id.isdigit() else ())):
            code = listing.place(name)
            if code is not None:
                place = listing.places[code]
                inner = name[place.prefix :] + place.suffix
                return inner if heads[code] == "." else f"{heads[code]}/{inner}"
        return None

    return find


def _coco_names(number: str) -> Iterator[str]:
    for before in ("", "COCO_train2014_", "COCO_val2014_"):
        for folder in ("", "train2014__", "val2014__", "train2017__", "val2017__"):
            yield f"{folder}{before}{number:0>12}"


def image_id_of(name: str) -> str:
    """The name without a picture's suffix, sub-folders joined by two underscores."""
    return _split(_tidy(name))[0].replace("/", SEPARATOR)


def _split(inner: str) -> tuple[str, str]:
    """A name and its suffix; what is not the suffix of a picture belongs to the name."""
    stem, dot, end = inner.rpartition(".")
    if not stem or stem.endswith("/") or f".{end.lower()}" not in PICTURES:
        return inner, ""
    return stem, dot + end


def _tidy(name: str) -> str:
    return PurePosixPath(name).as_posix() if "./" in name or "//" in name or name.endswith("/") else name
