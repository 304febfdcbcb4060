"""Pooled image features, computed once for each picture and weights, whatever they are then compared with.

    CACHE/<hash of weights, precision and image settings>/<hash of the file's bytes>.npy     float32 [dim], unit length

A picture that changes, other weights or other settings have another name, so nothing stale can be read. Files appear
whole; a damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from clip_es.config.run import ImageConfig
from clip_es.encoder import Encoder
from clip_es.encoder.download import cache_folder
from clip_es.errors import DataError
from clip_es.images import read_picture
from clip_es.localize import pooled_embedding
from clip_es.records import Problem
from clip_es.store.disk import make_folder, names_in, write_atomic
from clip_es.types import ImageRecord


@dataclass(frozen=True)
class Features:
    """What the encoder makes of the pictures that can be read."""

    records: tuple[ImageRecord, ...]
    vectors: Float32[Tensor, "image dim"]
    """Unit rows, in the order of `records`, on the CPU."""
    problems: tuple[Problem, ...]
    """The pictures that cannot be read."""
    computed: int
    """How many were not in the cache."""


class SavedArrays:
    """A folder of small arrays, one file a key; files appear whole, and a damaged one counts as missing."""

    def __init__(self, folder: Path, *told: object) -> None:
        """`told` is everything the arrays depend on besides their key; other settings get another folder."""
        self.folder = folder / digest(json.dumps(told, default=str).encode())[:32]
        make_folder(self.folder)
        names_in(self.folder)  # sweeps what a power cut left

    def load(self, key: str) -> np.ndarray | None:
        """The array of a key, or None."""
        try:
            with (self.folder / f"{key}.npy").open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except Exception:  # numpy raises almost anything over a damaged header
            return None

    def save(self, key: str, array: np.ndarray) -> None:
        """Keep the array of a key. Raises StoreError."""
        buffer = BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_atomic(self.folder / f"{key}.npy", buffer.getvalue())


class FeatureCache:
    """Features on disk, under the hash of everything they depend on."""

    def __init__(self, encoder: Encoder, config: ImageConfig, folder: Path | None = None) -> None:
        self.encoder, self.config = encoder, config
        told = (encoder.source, asdict(encoder.config), encoder.patch, asdict(config))
        self.saved = SavedArrays(folder or cache_folder() / "features", *told)

    def __call__(self, record: ImageRecord) -> tuple[Float32[Tensor, " dim"], bool]:
        """The feature of a picture, and whether it had to be computed.

        Raises DataError: the picture cannot be read. StoreError: the disk does not take the file.
        """
        key = picture_digest(record, self.config)
        known = self.saved.load(key)
        if known is not None and known.shape == (self.encoder.sizes.embed,):
            return torch.from_numpy(known), False
        picture = read_picture(record, self.encoder.patch, self.config)
        # No attention is needed here, so only the layer that must form it does.
        vector = pooled_embedding(self.encoder, self.encoder.encode([picture.patches], attention_layers=1)[0]).cpu()
        self.saved.save(key, vector.numpy())
        return vector, True


def pooled_features(
    records: Sequence[ImageRecord],
    cache: FeatureCache,
    track: Callable[[Sequence[ImageRecord], str, int], Iterator[ImageRecord]],
) -> Features:
    """Features of all pictures that can be read; the others become problems. Calling again continues."""
    kept: list[ImageRecord] = []
    vectors: list[Tensor] = []
    problems: list[Problem] = []
    computed = 0
    for record in track(records, "features", len(records)):
        try:
            vector, new = cache(record)
        except DataError as error:
            problems.append(Problem.of(record.image_id, error, "features"))
            continue
        kept.append(record)
        vectors.append(vector)
        computed += new
    if not kept:
        raise DataError(
            "none of the pictures can be read",
            found=problems[0].reason if problems else "no picture",
            next_step="Check the folder.",
        )
    return Features(tuple(kept), torch.stack(vectors), tuple(problems), computed)


def picture_digest(record: ImageRecord, config: ImageConfig) -> str:
    """Hash of a picture's bytes, and of the size its annotation states where that size counts.

    Raises DataError: the file cannot be read.
    """
    if not record.path.is_file():
        raise DataError(
            "there is no such picture", where=record.path, next_step="Check the folder and the list of ids."
        )
    try:
        content = record.path.read_bytes()
    except OSError as error:
        raise DataError("the picture cannot be read", where=record.path, found=error.strerror) from error
    stated = record.size_hw if config.size_from == "annotation" else None
    return digest(content, repr(stated).encode())


def digest(*parts: bytes) -> str:
    """SHA-256 of byte strings, each with its length, so that no two lists of parts run into one."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little"))
        whole.update(part)
    return whole.hexdigest()
