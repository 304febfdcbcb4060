"""What travels between the stages, and the conventions every stage shares.

* Sizes are (height, width). Pictures are RGB uint8. Boxes are x0 y0 x1 y1 with the end excluded.
* A patch grid is row-major; the class token, where there is one, is row 0.
* Class ids are 0-based. In a mask 0 is background, k + 1 is class k and 255 is undecided; a mask of more than 254
  classes is uint16, where 65535 is undecided.
* A batch is a list of pictures of one grid size; a batch of one gives the same bytes as a batch of many.

`tests/house/test_conventions.py` has a test for each of these sentences. Each type checks itself when it is made, so
a wrong shape is met where it arises and not three stages later. Those that hold arrays are equal to themselves alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8, UInt16
from torch import Tensor

from clip_es.errors import DataError, ShapeError
from clip_es.regions import Instances, Regions

UNDECIDED = 255
"""Mask value of a pixel whose class is left open; ignored by losses and by evaluation."""

MAX_CLASSES = 254
"""Classes an 8-bit mask can tell apart besides background (0) and undecided (255)."""

UNDECIDED_WIDE = 65535
"""The same in a 16-bit mask, which only predictions for more than 254 classes have."""

MAX_WIDE_CLASSES = 2**15
"""Classes of a 16-bit mask."""

_UNSAFE_ID = re.compile("[/\\\\\x00-\x1f\x7f\ud800-\udfff]")


def _check_id(image_id: str, where: object) -> None:
    if not image_id or image_id in {".", ".."} or _UNSAFE_ID.search(image_id) or len(image_id.encode()) > 200:
        raise DataError(
            "an image id names a file in the run folder, so it must be a plain file name",
            where=where,
            expected="1 to 200 bytes without path separators or control characters",
            found=repr(image_id),
            next_step="Rename the entry.",
        )


@dataclass(frozen=True)
class ImageRecord:
    """One picture and the classes known to be in it.

    Raises DataError: the id could leave the run folder; a class id is negative, too large or repeated.
    """

    image_id: str
    path: Path
    class_ids: tuple[int, ...]
    """0-based, unique, in the order in which the data set names them."""
    size_hw: tuple[int, int] | None = None
    """Height and width as the data set states them; None where only the picture knows."""
    image: Any = field(default=None, compare=False, repr=False)
    """The picture itself where it is not in the file `path`: what `clip_es.given` takes."""

    def __post_init__(self) -> None:
        _check_id(self.image_id, self.path)
        if len(set(self.class_ids)) != len(self.class_ids) or any(
            not 0 <= k < MAX_WIDE_CLASSES for k in self.class_ids
        ):
            raise DataError(
                "the class ids of a picture must be unique and not negative",
                where=self.path,
                found=self.class_ids,
                next_step="List each class once, counting from 0.",
            )


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: as it is seen, and as the encoder takes it."""

    image_id: str
    rgb: UInt8[np.ndarray, "h w 3"]
    """The picture at its own size, as masks and CRF see it."""
    patches: UInt8[np.ndarray, "ph pw 3"]
    """The same picture resized to whole patches."""
    patch: int
    """Side of a patch in pixels."""
    crf_rgb: UInt8[np.ndarray, "ch cw 3"] | None = None
    """The file as OpenCV reads it, for the CRF alone, as published. Its size may differ; the CRF checks."""
    regions: Regions | None = None
    """Class-agnostic regions, where a refiner has a network make them; that refiner alone looks at them."""

    def __post_init__(self) -> None:
        for name, array in (("rgb", self.rgb), ("patches", self.patches), ("crf_rgb", self.crf_rgb)):
            if array is None:
                continue
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
                raise ShapeError(
                    f"Picture.{name} must be a filled RGB picture",
                    where=self.image_id,
                    expected="uint8 [h w 3]",
                    found=f"{array.dtype} {list(array.shape)}",
                )
        if self.patches.shape[0] % self.patch or self.patches.shape[1] % self.patch:
            raise ShapeError(
                "the encoder's copy of a picture must be a whole number of patches",
                where=self.image_id,
                expected=f"multiples of {self.patch}",
                found=list(self.patches.shape[:2]),
            )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.patches.shape[0] // self.patch, self.patches.shape[1] // self.patch


@dataclass(frozen=True, eq=False)
class TextBank:
    """Unit text vectors: the classes first, then the background words."""

    names: tuple[str, ...]
    """One per row: class names, then background words."""
    vectors: Float32[Tensor, "text dim"]
    class_count: int
    source: str
    """Hash over weights and words: two banks with the same source hold the same vectors."""

    def __post_init__(self) -> None:
        if (
            self.vectors.ndim != 2
            or len(self.names) != len(self.vectors)
            or not 0 < self.class_count <= len(self.names)
        ):
            raise ShapeError(
                "a text bank has one row for each name and at least one class",
                expected=f"[{len(self.names)} dim] and 1..{len(self.names)} classes",
                found=f"{list(self.vectors.shape)} and {self.class_count} classes",
            )
        if not torch.allclose(self.vectors.norm(dim=-1), torch.ones(()).to(self.vectors), atol=1e-4):
            raise ShapeError("rows of a text bank must have unit length", next_step="Divide each row by its norm.")

    @property
    def background(self) -> Float32[Tensor, "words dim"]:
        """The rows of the background words; may be empty."""
        return self.vectors[self.class_count :]


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """What the frozen encoder knows of one picture before its last block is taken apart."""

    tokens: Float32[Tensor, "token dim"]
    """Tokens entering the last block; row 0 is the class token."""
    attention: Float32[Tensor, "patch patch"]
    """Mean over heads and over the last layers, class token left out, rows not renormalised; row = query."""
    last_attention: Tensor
    """Attention [head token token] of the last block, class token included; rows sum to one."""
    grid_hw: tuple[int, int]

    def __post_init__(self) -> None:
        patches = self.grid_hw[0] * self.grid_hw[1]
        if len(self.tokens) != patches + 1 or tuple(self.attention.shape) != (patches, patches):
            raise ShapeError(
                "tokens and attention must come from the same grid",
                expected=f"{patches + 1} tokens and [{patches} {patches}] for the grid {self.grid_hw}",
                found=f"{len(self.tokens)} tokens and {list(self.attention.shape)}",
            )


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """One map in [0, 1] for each label of a picture, on the patch grid or at full size."""

    scores: Float32[Tensor, "class gh gw"]
    class_ids: tuple[int, ...]
    """0-based class of each map."""
    background: Float32[Tensor, "gh gw"] | None = None
    """Probability of background, once a refiner has decided about it (the CRF does); same size as the maps."""
    unscaled: Float32[Tensor, "class gh gw"] | None = None
    """The scores before their last min-max scaling, for those who compare with the paper's V_c."""

    def __post_init__(self) -> None:
        if self.scores.ndim != 3 or len(self.scores) != len(self.class_ids):
            raise ShapeError(
                "there must be one map for each label",
                expected=f"[{len(self.class_ids)} gh gw]",
                found=list(self.scores.shape),
            )
        if self.background is not None and self.background.shape != self.scores.shape[1:]:
            raise ShapeError(
                "the background map must have the size of the class maps",
                expected=list(self.scores.shape[1:]),
                found=list(self.background.shape),
            )
        # A look at the values would wait for the GPU, at every step of every picture: there they are looked at when
        # they come to the CPU.
        if (
            self.scores.device.type == "cpu"
            and self.scores.numel()
            and not bool(((self.scores >= 0) & (self.scores <= 1)).all())
        ):
            low, high = self.scores.aminmax()
            raise ShapeError("class maps must lie in [0, 1]", found=f"{float(low):.6g} .. {float(high):.6g}")


@dataclass(frozen=True, eq=False)
class PseudoMask:
    """A label for every pixel, and how sure it is."""

    labels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
    """0 background, k + 1 class k, 255 undecided (uint16: 65535); only the picture's labels occur."""
    confidence: Float32[np.ndarray, "h w"]
    """Probability of the winning label, 0..1, also where the label was then left undecided."""
    class_ids: tuple[int, ...]
    decided: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]
    """The labels before any was left undecided: never 255 (uint16: 65535)."""
    instances: Instances | None = None
    """Single things inside the decided labels, where the method tells them apart."""

    def __post_init__(self) -> None:
        kinds = (np.dtype(np.uint8), np.dtype(np.uint16))
        if self.labels.dtype not in kinds or self.labels.ndim != 2 or self.confidence.shape != self.labels.shape:
            raise ShapeError(
                "labels and confidence must be pictures of one size",
                expected="uint8 or uint16 [h w] and float32 [h w]",
                found=f"{self.labels.dtype} {list(self.labels.shape)} and {list(self.confidence.shape)}",
            )
        if self.decided.dtype != self.labels.dtype or self.decided.shape != self.labels.shape:
            raise ShapeError(
                "the labels before the threshold must have the size of the labels after it",
                expected=f"{self.labels.dtype} {list(self.labels.shape)}",
                found=f"{self.decided.dtype} {list(self.decided.shape)}",
            )
        undecided = UNDECIDED if self.labels.dtype == np.uint8 else UNDECIDED_WIDE
        if (self.decided == undecided).any() or not ((self.labels == self.decided) | (self.labels == undecided)).all():
            raise ShapeError("a label may only become undecided, not another class")
        allowed = np.zeros(undecided + 1, dtype=bool)
        allowed[[0, undecided, *(k + 1 for k in self.class_ids)]] = True
        if not allowed[self.labels].all():
            raise ShapeError(
                "a mask may hold only the labels of its picture",
                expected=sorted(k + 1 for k in self.class_ids),
                found=sorted(set(np.unique(self.labels).tolist()) - set(np.flatnonzero(allowed).tolist())),
            )
