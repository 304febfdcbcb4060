"""Pictures of which nothing is known: a folder, some of a folder, a list of paths, or a single one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.records.dataset import Problem, read_lines
from clip_es.records.picture_files import picture_id, pictures_below
from clip_es.types import ImageRecord

_Chosen = list[tuple[str, Path | DataError]]
"""Ids with their files, or with what is wrong about them."""


def unlabeled_pictures(
    images: Path, classes: int, list_file: Path | None = None, out: Path | None = None
) -> tuple[list[ImageRecord], list[Problem]]:
    """Records that may hold each of so many classes, and what of the list cannot be used.

    `images` is a folder, a text file of paths (relative ones count from its own folder), or one picture. `list_file`
    chooses some of a folder's pictures, one id or path a line. Pictures below `out` are left out.
    Raises DataError: nothing there, or no picture in it.
    """
    if images.is_dir():
        found = pictures_below(images)
        if out is not None and out.resolve().is_relative_to(images.resolve()):
            home = out.resolve()
            found = {k: [p for p in v if not p.resolve().is_relative_to(home)] for k, v in found.items()}
        found = {k: v for k, v in found.items() if v}
        chosen = _all_of(found) if list_file is None else _chosen(found, list_file)
    elif list_file is not None:
        raise ConfigError("a list chooses among the pictures of a folder", where=images, expected="a folder")
    elif images.suffix.lower() in {".txt", ".lst", ".list"} and images.is_file():
        chosen = _listed(images)
    elif images.is_file():
        chosen = [(picture_id(Path(images.name)), images)]
    else:
        raise DataError("there are no such pictures", where=images, expected="a folder, a list of paths, or a picture")
    records: dict[str, ImageRecord] = {}
    problems: list[Problem] = []
    for image_id, path in chosen:
        try:
            if isinstance(path, DataError):
                raise path
            if image_id in records:
                raise DataError(
                    "another picture has the same id; the first counts",
                    where=path,
                    found=str(records[image_id].path),
                    next_step="Rename one of the two.",
                )
            records[image_id] = ImageRecord(image_id, path, tuple(range(classes)))
        except ClipEsError as error:
            problems.append(Problem.of(image_id, error))
    if not records and not problems:
        raise DataError("there is no picture to predict", where=images, found="no file that looks like one")
    return list(records.values()), problems


def _all_of(found: dict[str, list[Path]]) -> _Chosen:
    return [(image_id, path) for image_id, paths in found.items() for path in paths]


def _chosen(found: dict[str, list[Path]], list_file: Path) -> _Chosen:
    result: _Chosen = []
    for number, line in read_lines(list_file):
        where = f"{list_file.name} line {number}"
        if isinstance(line, DataError):
            result.append((where, line))
            continue
        word = PurePosixPath(line.split()[0].lstrip("/"))
        spellings = (str(word), picture_id(Path(word)), word.name, word.stem)
        image_id = next((name for name in spellings if name in found), None)
        if image_id is None:
            error = DataError("lists a picture that is not there", where=where, found=repr(str(word)))
            result.append((word.name or where, error))
        else:
            result.append((image_id, found[image_id][0]))
    return result


def _listed(list_file: Path) -> _Chosen:
    result: _Chosen = []
    for number, line in read_lines(list_file):
        if isinstance(line, DataError):
            result.append((f"{list_file.name} line {number}", line))
            continue
        path = Path(line.strip())
        inside = not path.is_absolute() and ".." not in path.parts
        result.append((picture_id(path if inside else Path(path.name)), list_file.parent / path))
    return result
