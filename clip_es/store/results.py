"""What one finished picture becomes: the same bytes whether they lie in a run folder or in a shard."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from clip_es.errors import ShapeError
from clip_es.masks import write_confidence, write_mask
from clip_es.store.cams import KeepCams, encoded_cams
from clip_es.types import ImageRecord, PseudoMask

BESIDE = ("confidence", "labels")
"""What stands beside the masks of a run."""


def encoded(
    record: ImageRecord,
    mask: PseudoMask,
    keep: KeepCams,
    cams: Mapping[str, np.ndarray] | None,
    beside: Collection[str] = BESIDE,
) -> dict[str, bytes]:
    """Bytes by the part of a run that they belong to: those of `beside`, cams where a run keeps them, masks last.

    Raises ShapeError: mask or maps are not those of the record.
    """
    if not set(mask.class_ids) <= set(record.class_ids):
        raise ShapeError(
            "a mask belongs to a picture with other labels",
            where=record.image_id,
            expected=record.class_ids,
            found=mask.class_ids,
        )
    files = {}
    if "confidence" in beside:
        files["confidence"] = _png(write_confidence, mask.confidence)
    if "labels" in beside:
        files["labels"] = _png(write_mask, mask.decided)
    if keep != "none":
        files["cams"] = encoded_cams(record, cams, keep)
    return {**files, "masks": _png(write_mask, mask.labels)}


def _png(write: Callable[..., Any], array: np.ndarray) -> bytes:
    file = io.BytesIO()
    write(file, array)
    return file.getvalue()
