"""Pictures and masks for mmsegmentation: a run's folder with its confidence, or any folder of mask PNGs.

Imported by `clip_es.segmentor.prepare`, which also registers what is here; needs mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.fileio import BaseStorageBackend
from mmengine.structures import PixelData
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import PackSegInputs

from clip_es.errors import ConfigError, DataError
from clip_es.masks import palette, read_confidence, read_mask
from clip_es.segmentor.data.pairs import check_labels, find_pairs
from clip_es.segmentor.data.unseen import WithUnseen, seen_labels, without_unseen
from clip_es.store.shards.inner import content_of


class ShardBackend(BaseStorageBackend):
    """Reads pictures inside shards for mmcv's loaders: `shard://` before what stands behind `shard:` in their names."""

    def get(self, filepath: str | Path) -> bytes:
        """The bytes of the picture's file. Raises DataError."""
        data = content_of(Path("shard:" + str(filepath).removeprefix(_SHARD)))
        if data is None:
            raise DataError("is no file inside a shard", where=filepath)
        return data

    def get_text(self, filepath: str | Path, encoding: str = "utf-8") -> str:
        """The same as text."""
        return self.get(filepath).decode(encoding)


_SHARD = "shard://"


def _for_mmcv(image: Path) -> str:
    """The name of a picture as mmcv finds out who reads it."""
    name = str(image)
    return _SHARD + name.removeprefix("shard:") if name.startswith("shard:") else name


class PseudoMaskDataset(BaseSegDataset):
    """Pictures with their masks and, where there is one, the confidence of each pixel.

    `run` is what `clip-es masks` made, a folder or shards, on a disk or on object storage: labels before the 255 rule,
    with confidence, so that the threshold is the loss's to choose; its pictures are looked for in the shards or where
    its run.yaml says, or in `images`. Without a run, `masks` is a folder of PNGs as `clip-es masks` writes them,
    palette or grey, such as ground truth, and `images` has their pictures. `list_file` names the ids to use, one a
    line. `metainfo=dict(classes=(...))` are the names, background first. `unseen` are mask values of further classes,
    which are not learnt; `pictures_with_unseen` says what becomes of pictures that hold them.

    Raises ConfigError: no classes, neither run nor masks. DataError: a folder or a picture is missing, nothing is
    left. Whether sizes and labels fit is checked as each picture is read (`LoadPseudoMask`).
    """

    def __init__(
        self,
        run: str | None = None,
        images: str | list[str] | None = None,
        masks: str | None = None,
        confidence: str | None = None,
        list_file: str | None = None,
        unseen: Sequence[int] = (),
        pictures_with_unseen: WithUnseen = "drop",
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        names = (metainfo or {}).get("classes")
        if not names:
            raise ConfigError(
                "the data set does not know its classes", expected="metainfo=dict(classes=(...)), background first"
            )
        meta = {"palette": palette()[: len(names)].tolist(), **(metainfo or {})}
        self._source = {"run": run, "images": images, "masks": masks, "confidence": confidence, "list_file": list_file}
        self._unseen = tuple(unseen)
        self._pictures: WithUnseen = pictures_with_unseen
        super().__init__(metainfo=meta, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry for each picture, in the order of the list or of the names."""
        count = len(self._metainfo["classes"]) + len(self._unseen)
        table = seen_labels(count, self._unseen, self._pictures) if self._unseen else None
        pairs = find_pairs(**self._source)
        if self._unseen and self._pictures == "drop":
            pairs = without_unseen(pairs, self._unseen)
        return [
            {
                "img_path": _for_mmcv(pair.image),
                "seg_map_path": str(pair.mask),
                "confidence_path": None if pair.confidence is None else str(pair.confidence),
                "class_count": count,
                "seen_labels": table,
                "label_map": self.label_map,
                "reduce_zero_label": False,
                "seg_fields": [],
            }
            for pair in pairs
        ]


class LoadPseudoMask(BaseTransform):
    """Read the mask of a picture and its confidence; takes the place of mmseg's LoadAnnotations.

    mmcv's transforms change one map of labels, so both travel in `gt_seg_map` as label + 256 * round(255 * confidence)
    [h w] uint16: resized by nearest neighbour, flipped, cropped and padded together. Padding with 255 has confidence 0.
    `PackPseudoMask` takes them apart. (RandomCrop's `cat_max_ratio` counts pixels of one class and confidence; nearly
    all have the highest.)

    Raises DataError: a file is missing or damaged, mask or confidence of another size than the picture, a label that
    is not one of the classes.
    """

    def transform(self, results: dict) -> dict:
        """Add `gt_seg_map`."""
        path = Path(results["seg_map_path"])
        labels = read_mask(path)
        check_labels(labels, results["class_count"], path)
        if results.get("seen_labels") is not None:
            labels = results["seen_labels"][labels]
        size = tuple(results["ori_shape"][:2]) if "ori_shape" in results else labels.shape
        _check_size(labels, size, path, results)
        if results.get("confidence_path"):
            where = Path(results["confidence_path"])
            confidence = np.rint(255 * read_confidence(where)).astype(np.uint16)
            _check_size(confidence, labels.shape, where, results)
            labels = labels + 256 * confidence
        results["has_confidence"] = bool(results.get("confidence_path"))
        results["gt_seg_map"] = labels
        results["seg_fields"].append("gt_seg_map")
        return results


class PackPseudoMask(PackSegInputs):
    """mmseg's PackSegInputs, which also packs `gt_confidence` (uint8 [1 h w]) where `LoadPseudoMask` read one."""

    def transform(self, results: dict) -> dict:
        """Inputs and data sample."""
        encoded = results.get("gt_seg_map")
        if encoded is None or not results.get("has_confidence"):
            return super().transform(results)
        packed = super().transform({**results, "gt_seg_map": encoded % 256})
        confidence = torch.from_numpy((encoded // 256).astype(np.uint8))[None]
        packed["data_samples"].set_data({"gt_confidence": PixelData(data=confidence)})
        return packed


def _check_size(array: np.ndarray, size: tuple[int, ...], path: Path, results: dict) -> None:
    if tuple(array.shape) != tuple(size):
        raise DataError(
            "is of another size than its picture",
            where=path,
            expected=f"{size[0]} x {size[1]} as {results['img_path']}",
            found=f"{array.shape[0]} x {array.shape[1]}",
            next_step="clip-es check names all such masks; make them again.",
        )
