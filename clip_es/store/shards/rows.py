"""One picture of a shard: what is known of it, and its files as bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_es.errors import DataError
from clip_es.types import ImageRecord

PARTS = ("mask.png", "labels.png", "confidence.png", "cams.npz", "instances.json")
"""Files of a picture, by what stands behind its key in a tar; the first three are always there."""

NEEDED = PARTS[:3]
PICTURE = re.compile(r"picture(\.[a-z0-9]{1,8})?")
"""The name of the part that holds the picture itself, where shards carry it."""

LARGEST_PART = 2**28
"""Bytes of one file of a picture: 256 MiB."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ShardRow:
    """A picture with its mask, as a shard holds it."""

    image_id: str
    size_hw: tuple[int, int]
    """Height and width of the mask."""
    class_ids: tuple[int, ...]
    """0-based: the labels of the picture."""
    classes: tuple[str, ...]
    """Their names."""
    settings_sha256: str
    """Of everything that decided the bytes of the mask; as in run.yaml."""
    files: Mapping[str, bytes] = field(repr=False)
    """By the names of `PARTS`, and `picture` with its suffix."""
    label_confidence: tuple[float, ...] = ()
    """How sure each label is, where labels were found and not given."""
    sure: float | None = None
    """0..1: how likely all labels are right, where that is known."""

    def about(self) -> dict[str, Any]:
        """All but the files."""
        told: dict[str, Any] = {
            "image_id": self.image_id,
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "class_ids": list(self.class_ids),
            "classes": list(self.classes),
            "settings_sha256": self.settings_sha256,
        }
        if self.label_confidence:
            told["label_confidence"] = list(self.label_confidence)
        if self.sure is not None:
            told["sure"] = self.sure
        return told

    def json(self) -> bytes:
        """`about` as a line of JSON; equal rows give equal bytes."""
        return (json.dumps(self.about(), ensure_ascii=False) + "\n").encode(errors="replace")

    @property
    def picture(self) -> bytes | None:
        """The file of the picture itself, where the shard carries it."""
        return next((data for name, data in self.files.items() if PICTURE.fullmatch(name)), None)

    @classmethod
    def of(cls, about: Any, files: Mapping[str, bytes], where: str) -> ShardRow:
        """The row that was written so. Raises DataError: something is missing, or of another kind."""
        try:
            told = dict(about)
            image_id, size_hw = told["image_id"], (told["height"], told["width"])
            row = cls(
                image_id if isinstance(image_id, str) else "",
                (_whole(size_hw[0]), _whole(size_hw[1])),
                tuple(map(_whole, told["class_ids"])),
                tuple(map(str, told["classes"])),
                str(told["settings_sha256"]),
                files,
                tuple(map(float, told.get("label_confidence") or ())),
                None if told.get("sure") is None else float(told["sure"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                "does not tell what a row of a shard tells",
                where=where,
                expected="image_id, height, width, class_ids, classes, settings_sha256",
                found=f"{type(error).__name__}: {error}"[:200],
            ) from error
        ImageRecord(row.image_id, Path(where), row.class_ids)  # which checks the id and the classes
        missing = [name for name in NEEDED if name not in files]
        strange = [name for name in files if name not in PARTS and not PICTURE.fullmatch(name)]
        if missing or strange:
            raise DataError(
                "a picture of a shard has other files than it should",
                where=f"{where}: {row.image_id}",
                expected=", ".join(NEEDED),
                found=", ".join(sorted(files)) or "none",
            )
        if len(row.classes) != len(row.class_ids) or not _DIGEST.fullmatch(row.settings_sha256):
            raise DataError("classes or settings_sha256 are none", where=f"{where}: {row.image_id}")
        return row


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"no whole number: {value!r:.40}")
    return value
