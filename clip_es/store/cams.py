"""cams/<id>.npz of a run that keeps its maps."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Literal

import numpy as np

from clip_es.errors import ShapeError
from clip_es.types import ImageRecord

KeepCams = Literal["none", "maps", "full"]
"""Whether the maps behind a mask are kept: not at all, on the patch grid, or with the probabilities at full size."""

_ARRAYS = {"class_ids": np.int64, "scores": np.float32, "cam": np.float32, "refined": np.float32}


def encoded_cams(record: ImageRecord, cams: Mapping[str, np.ndarray] | None, keep: KeepCams) -> bytes:
    """What `np.load` reads, without pickles. Every member is dated 1980, so equal maps give equal bytes."""
    wanted = {**_ARRAYS, **({"probabilities": np.float32} if keep == "full" else {})}
    missing = sorted(wanted.keys() - (cams or {}).keys())
    if cams is None or missing:
        raise ShapeError(
            f"the run keeps {keep}, so maps are needed",
            where=record.image_id,
            expected=", ".join(wanted),
            found=f"no {', '.join(missing)}",
        )
    arrays = {name: np.ascontiguousarray(cams[name], dtype=kind) for name, kind in wanted.items()}
    labels = len(arrays["class_ids"])
    fits = (
        arrays["class_ids"].shape == (labels,)
        and arrays["scores"].ndim == 1
        and len(arrays["scores"]) >= labels
        and arrays["cam"].ndim == 3
        and arrays["cam"].shape == arrays["refined"].shape
        and len(arrays["cam"]) == labels
        and (keep != "full" or (arrays["probabilities"].ndim == 3 and len(arrays["probabilities"]) == labels + 1))
    )
    if not fits:
        raise ShapeError(
            "the maps of a picture do not fit each other",
            where=record.image_id,
            expected="class_ids [K], scores [K+B], cam and refined [K gh gw], probabilities [1+K H W]",
            found={name: list(array.shape) for name, array in arrays.items()},
        )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()
