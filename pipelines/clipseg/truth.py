"""Label maps of a data set, for the protocols that compare with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from clip_es.errors import DataError
from clip_es.records import Dataset
from clip_es.types import ImageRecord

Track = Callable[[Sequence], Iterable]
"""A loop over pictures, with a progress bar or without."""


def nearest(labels: UInt8[np.ndarray, "_ _"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "_ _"]:
    """The labels at another size, by nearest pixel."""
    resized = F.interpolate(torch.from_numpy(labels)[None, None].float(), size=size_hw, mode="nearest")
    return resized[0, 0].to(torch.uint8).numpy()


def with_truth(dataset: Dataset) -> list[ImageRecord]:
    """The records that have a mask. Raises DataError: there is none."""
    records = [record for record in dataset.records if record.image_id in dataset.truth]
    if not records:
        raise DataError(
            "has no picture with a mask",
            where=dataset.name,
            expected="SegmentationClass/<id>.png",
            next_step="Name a data set with ground truth.",
        )
    return records
