"""Pictures below folders, under the ids that name their files in a run folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from clip_es.decode import PICTURES
from clip_es.errors import DataError
from clip_es.records.elsewhere import uploaded_as, uploaded_name
from clip_es.records.file_listing import picture_names

_DEPTH = 4
"""The names of the stated folder and of two above it may be part of an id, or none of them."""


def picture_id(inner: Path) -> str:
    """The id of a picture by its path below its folder: `a__b` for `a/b.jpg`."""
    return "__".join(inner.with_suffix("").parts)


class Uploads:
    """Pictures below a folder by the names they have once they were uploaded to Label Studio."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._names: dict[str, list[str]] | None = None

    def find(self, stated: str) -> str | None:
        """The picture of an address, relative to the folder; the folder is listed when it is first asked for.

        Raises DataError: several pictures have this name.
        """
        name = uploaded_name(stated)
        if name is None:
            return None
        if self._names is None:
            self._names = {}
            for inner in picture_names(self._images):
                self._names.setdefault(uploaded_as(inner), []).append(inner)
        found = self._names.get(name, [])
        if len(found) > 1:
            raise DataError(
                f"an uploaded picture is called {name[:100]!r}, and so may several be",
                where=self._images,
                found=", ".join(found[:3]),
                next_step="Upload pictures of different names, or serve them as local files.",
            )
        return found[0] if found else None


def pictures_below(folders: Path | Iterable[Path]) -> dict[str, list[Path]]:
    """Picture files of folders and their sub-folders by id, sorted; hidden files and folders are left out.

    Several files may have one id (`a.jpg` and `a.png`). Raises DataError: no such folder, or it cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for folder in [folders] if isinstance(folders, Path) else folders:
        if not folder.is_dir():
            raise DataError("this is not a folder of pictures", where=folder, next_step="Check the path.")
        for name in picture_names(folder):
            found.setdefault(picture_id(Path(name)), []).append(folder / name)
    return dict(sorted(found.items()))


def pictures_of(image_ids: Collection[str], folders: Iterable[Path]) -> dict[str, Path]:
    """The picture of each id that has one below the folders; of several with one id the first by suffix.

    An id is the path below the folder that a run was given; its run.yaml may name one that lies deeper, so the names
    of the folder and of those above it may be part of the id. Raises DataError: a folder is missing, or cannot be read.
    """
    wanted, found = set(image_ids), {}
    for folder in folders:
        above = (Path.cwd() / folder).parts[-_DEPTH + 1 :]
        heads = ["".join(f"{part}__" for part in above[len(above) - depth :]) for depth in range(len(above) + 1)]
        for inner, files in pictures_below(folder).items():
            image_id = next((head + inner for head in heads if head + inner in wanted), None)
            if image_id is not None:
                found.setdefault(image_id, min(files, key=_preference))
    return found


def _preference(path: Path) -> int:
    return PICTURES.index(path.suffix.lower())
