"""What the writers of all formats share."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from clip_es.errors import ConfigError
from clip_es.formats.folder import ExportFolder
from clip_es.formats.names import Names
from clip_es.formats.pictures import PictureMode, place
from clip_es.masks import write_mask
from clip_es.types import UNDECIDED

_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class Writer:
    """One format in the making: `add` for each picture, then `finish`. Made once for each export."""

    suffixes: tuple[str, ...] = (".jpg", ".jpeg", ".png")
    """How the files of pictures may end in this format."""
    default_split = "train"

    def __init__(
        self,
        folder: ExportFolder,
        names: Names,
        image_ids: Sequence[str],
        *,
        split: str | None = None,
        pictures: PictureMode = "link",
    ) -> None:
        """`image_ids` are all that will be added, for formats that number them.

        Raises ConfigError: a name this format cannot hold, or a library it needs is not installed.
        """
        self.folder = folder
        self.names = names
        self.image_ids = image_ids
        self.split = split or self.default_split
        self.pictures: PictureMode = pictures
        self.things: Callable[[str, UInt8[np.ndarray, "h w"]], Int64[np.ndarray, "h w"] | None] = lambda *_: None
        """From an id and its labels to the number of the single thing at each pixel, 0 for none; None: not known."""
        if not _SPLIT.fullmatch(self.split):
            raise ConfigError("a split names a file", expected="letters, digits, _ . -", found=repr(self.split))

    def add(self, image_id: str, labels: UInt8[np.ndarray, "h w"], picture: Path | None) -> None:
        """Write one picture. Raises DataError, ShapeError: it is left out, others can follow. StoreError."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what concerns all pictures. Raises StoreError."""
        raise NotImplementedError

    def place(self, picture: Path | None, target: str, labels: UInt8[np.ndarray, "h w"]) -> str:
        """Put the picture under a relative path without suffix; returns its file name, `.jpg` where there is none."""
        if picture is None:
            return f"{Path(target).name}.jpg"
        size_hw = labels.shape[0], labels.shape[1]
        return place(picture, self.folder.path / target, size_hw, self.pictures, self.suffixes)


def palette_png(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """The bytes of a palette PNG."""
    data = io.BytesIO()
    write_mask(data, labels)
    return data.getvalue()


def grey_png(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """The bytes of an 8-bit grey PNG, for readers that turn a palette into its colours."""
    data = io.BytesIO()
    Image.fromarray(labels).save(data, format="PNG")
    return data.getvalue()


def present(labels: UInt8[np.ndarray, "h w"]) -> list[int]:
    """The mask values that occur, in ascending order: 0, classes, 255."""
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()


def regions_in(
    labels: UInt8[np.ndarray, "h w"], things: Int64[np.ndarray, "h w"] | None = None
) -> Iterator[tuple[int, Bool[np.ndarray, "h w"]]]:
    """Label and mask of each region in ascending order of labels, background left out: of each class its single things
    and what is in none of them, or where these are not known all its pixels."""
    for label in (k for k in present(labels) if k):
        mask = labels == label
        numbers = [0] if things is None or label == UNDECIDED else np.unique(things[mask]).tolist()
        for number in numbers:
            yield label, mask if things is None or len(numbers) == 1 else mask & (things == number)
