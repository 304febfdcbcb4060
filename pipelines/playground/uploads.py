"""Pictures that visitors bring: bounded in bytes and pixels, read by the house's own readers, known by content."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from clip_es.config.stages import ImageConfig
from clip_es.errors import DataError
from clip_es.images import look_at
from clip_es.store.disk import make_folder, write_atomic

MAX_BYTES = 32 * 2**20
"""Of an uploaded file. The server stops reading there."""

_KEPT = 64
"""Uploaded files that are kept; the one not used for longest goes first."""


@dataclass(frozen=True)
class Photo:
    """A picture that a visitor has brought."""

    key: str
    """SHA-256 of the file."""
    name: str
    """What the visitor calls the file. Text of a stranger: to be shown as text only."""
    path: Path
    size_hw: tuple[int, int]
    more_frames: bool
    """Whether only the first of several frames or pages is used."""

    @property
    def image_id(self) -> str:
        """The name without suffix, with nothing in it that a file name could not hold anywhere."""
        stem = re.sub(r"[^\w. -]", "_", Path(self.name).stem).strip(" .")[:60]
        return stem or "picture"


class Uploads:
    """The files of all visitors in one private folder."""

    def __init__(self, folder: Path, config: ImageConfig, max_bytes: int = MAX_BYTES) -> None:
        """`config.max_megapixels` bounds the pixels; nothing is decoded before that is checked."""
        self.folder, self.config, self.max_bytes = folder, config, max_bytes
        self._photos: OrderedDict[str, Photo] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, path: Path, name: str | None = None) -> Photo:
        """Check a file and keep a copy. Raises DataError: too large, no picture, damaged. StoreError."""
        name = name or path.name
        try:
            with path.open("rb") as file:
                content = file.read(self.max_bytes + 1)
        except OSError as error:
            raise DataError("the upload cannot be read", where=name, found=error, next_step="Try again.") from error
        if len(content) > self.max_bytes:
            raise DataError(
                "the file is too large for the playground",
                where=name,
                expected=f"at most {self.max_bytes // 2**20} MB",
                next_step="Scale it down, or make its mask with `clip-es masks folder`.",
            )
        key = hashlib.sha256(content).hexdigest()
        with self._lock:
            if known := self._photos.get(key):
                self._photos.move_to_end(key)
                return known
        suffix = re.sub(r"[^.a-z0-9]", "", Path(name).suffix.lower())[:6]
        kept = self.folder / f"{key}{suffix}"
        make_folder(self.folder)
        write_atomic(kept, content)
        try:
            seen = look_at(kept, self.config)
        except DataError as error:
            kept.unlink(missing_ok=True)
            raise DataError(
                error.what, where=name, expected=error.expected, found=error.found, next_step=error.next_step
            ) from error
        photo = Photo(key, name, kept, seen.size_hw, seen.more_frames)
        with self._lock:
            self._photos[key] = photo
            while len(self._photos) > _KEPT:
                self._photos.popitem(last=False)[1].path.unlink(missing_ok=True)
        return photo

    def get(self, key: str) -> Photo:
        """A picture that was brought before. Raises DataError: it is not here any more."""
        with self._lock:
            if photo := self._photos.get(key):
                self._photos.move_to_end(key)
                return photo
        raise DataError(
            "this picture is not here any more" if key else "there is no picture yet",
            next_step="Drop it once more; labels and settings stay as they are." if key else "Drop one.",
        )
