"""What becomes of a picture: its mask with everything it went through, or the reason why there is none."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clip_es.errors import ConfigError
from clip_es.masks import write_mask
from clip_es.overlay import label_name, overlay_colour, overlay_labels, with_legend
from clip_es.store.disk import make_folder, write_atomic
from clip_es.types import UNDECIDED, ClassMaps, PseudoMask

if TYPE_CHECKING:
    from supervision import Detections

    from clip_es.pipelines.masks.method import Refined


@dataclass(frozen=True, repr=False, eq=False)
class MaskResult:
    """The mask of a picture, and everything it went through for those who want to look."""

    refined: Refined
    maps: ClassMaps
    """Maps after the last refiner, at full size where it works there."""
    mask: PseudoMask
    """`labels` uint8 [h w] (0 background, k + 1 class k, 255 undecided), `confidence` float32 [h w], `decided`."""
    vocabulary: tuple[str, ...] = ()
    """Names of all classes in the order of their ids."""

    ok: ClassVar[Literal[True]] = True
    stage: ClassVar[None] = None
    error: ClassVar[None] = None

    @property
    def image_id(self) -> str:
        """The name of the picture, which is that of its file without suffix, or its number among those given."""
        return self.refined.picture.image_id

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes that were looked for, or found."""
        return tuple(self._name(k + 1) for k in self.mask.class_ids)

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture, RGB, at the size of the mask."""
        return self.refined.picture.rgb

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the pixels that each label has, by name, in the order of the labels; undecided ones last."""
        counts = np.bincount(self.mask.labels.ravel(), minlength=256) / max(1, self.mask.labels.size)
        labels = [0, *(k + 1 for k in self.mask.class_ids), UNDECIDED]
        return {self._name(k): float(counts[k]) for k in labels if counts[k] or 0 < k < UNDECIDED}

    @property
    def overlay(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture under its labels: background darker, undecided white, classes in the VOC palette."""
        return overlay_labels(self.image, self.mask.labels)

    def plot(self, show: bool = False) -> Image.Image:
        """The overlay above a legend; `show` opens it in the picture viewer of this machine, too."""
        labels = np.unique(self.mask.labels).tolist()
        entries = [(overlay_colour(k), f"{self._legend(k)} {self.shares[self._name(k)]:.0%}") for k in labels]
        sheet = with_legend(self.overlay, entries)
        if show:
            sheet.show(title=self.image_id)
        return sheet

    def to_pil(self) -> Image.Image:
        """The mask as a Pillow picture of mode P with the VOC palette: `numpy.asarray` gives the labels back."""
        data = io.BytesIO()
        write_mask(data, self.mask.labels)
        image = Image.open(data, formats=["PNG"])
        image.load()
        return image

    def save(self, path: str | Path) -> Path:
        """Write the mask as a PNG with the VOC palette, at once or not at all; returns where. A missing folder is made.

        Raises ConfigError: this is no path, or one with another suffix than .png. StoreError: the disk refuses.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigError(
                "a mask is saved under a path",
                expected="a name that ends in .png",
                found=type(path).__name__,
                next_step='Into an open file: result.to_pil().save(file, "PNG").',
            )
        target = Path(path).expanduser()
        if target.suffix.lower() != ".png":
            raise ConfigError(
                "a mask is saved as PNG: other formats of pictures lose or blur labels",
                where=target,
                expected="a name that ends in .png",
                next_step="The array: np.save(path, result.mask.labels); the overlay: result.plot().save(path).",
            )
        data = io.BytesIO()
        write_mask(data, self.mask.labels)
        make_folder(target.parent)
        write_atomic(target, data.getvalue())
        return target

    def to_coco(self, image_number: int = 1, file_name: str | None = None) -> dict[str, Any]:
        """A COCO file of this picture: `images`, one RLE annotation for each class, `categories` of the vocabulary.

        Undecided pixels are a category `undecided` with id 255, listed where there are any.
        """
        from clip_es.formats.coco import one_picture  # with the formats of all tools behind it
        from clip_es.formats.names import Names

        names = Names(self.vocabulary or tuple(f"class {k}" for k in range(max(self.mask.class_ids, default=0) + 1)))
        return one_picture(self.mask.labels, names, image_number, file_name or f"{self.image_id}.png")

    def to_supervision(self) -> Detections:
        """`supervision.Detections`: box, mask, class id and mean confidence of each class that has pixels.

        Undecided pixels belong to none. Raises ConfigError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ConfigError("supervision is not installed", next_step="pip install 'clip-es[supervision]'") from error
        labels = self.mask.labels
        ids = [k for k in self.mask.class_ids if (labels == k + 1).any()]
        masks = np.stack([labels == k + 1 for k in ids]) if ids else np.zeros((0, *labels.shape), dtype=bool)
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32) if ids else np.zeros((0, 4), np.float32),
            mask=masks,
            class_id=np.array(ids, dtype=int),
            confidence=np.array([self.mask.confidence[mask].mean() for mask in masks], dtype=np.float32),
            data={"class_name": np.array([self._name(k + 1) for k in ids])},
        )

    def __repr__(self) -> str:
        height, width = self.mask.labels.shape
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares.items())
        sure = float(self.mask.confidence.mean())
        return f"<MaskResult {self.image_id!r}: {width} x {height} pixels, {shares}; mean confidence {sure:.2f}>"

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        data = io.BytesIO()
        self.plot().save(data, "PNG")
        return data.getvalue()

    def _name(self, label: int) -> str:
        if label == UNDECIDED:
            return "undecided"
        return label_name(label, self._labels) if label else "background"

    def _legend(self, label: int) -> str:
        return "background" if label == 0 else label_name(label, self._labels)

    @property
    def _labels(self) -> Sequence[str]:
        return ("background", *self.vocabulary)


@dataclass(frozen=True, repr=False, eq=False)
class FailedPicture:
    """A picture among several that has no mask. Whatever of a result is asked of it raises its error."""

    image_id: str
    stage: str
    """The step it did not get through: `given`, `read`, `encode`, `localize`, `refine`."""
    error: Exception

    ok: ClassVar[Literal[False]] = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or (not hasattr(MaskResult, name) and name not in MaskResult.__dataclass_fields__):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise self.error

    def __repr__(self) -> str:
        return f"<FailedPicture {self.image_id!r} in {self.stage}: {type(self.error).__name__}: {self.error}>"
