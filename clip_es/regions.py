"""Regions of one picture: masks without classes, which may overlap and need not cover it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, UInt8

from clip_es import rle
from clip_es.errors import ShapeError


@dataclass(frozen=True)
class Regions:
    """Masks of one picture as run lengths, in the order in which they were found. None of them is empty."""

    size_hw: tuple[int, int]
    runs: tuple[Int64[np.ndarray, " _"], ...]
    """Of each region the lengths of 0, 1, 0, ... column by column, as COCO has them."""
    quality: Float32[np.ndarray, " region"]
    """The intersection over union that its maker predicts for each, 0..1; 1 where nothing is said."""
    stability: Float32[np.ndarray, " region"]
    """How little each changes with the threshold on its logits, 0..1; 1 where nothing is said."""
    levels: Int64[np.ndarray, " region"] | None = None
    """Which of SAM's three answers each is: 0 part, 1 in between, 2 whole object. None: not known of all."""

    def __post_init__(self) -> None:
        told = [len(values) for values in (self.quality, self.stability, self.levels) if values is not None]
        if any(count != len(self.runs) for count in told):
            raise ShapeError("each region has one quality, stability and level", expected=len(self.runs), found=told)

    @classmethod
    def of(
        cls,
        size_hw: tuple[int, int],
        runs: Sequence[Int64[np.ndarray, " _"]],
        quality: Sequence[float] | None = None,
        stability: Sequence[float] | None = None,
        levels: Sequence[int] | None = None,
    ) -> Regions:
        """Regions from run lengths; those without a pixel are left out."""
        kept = [number for number, run in enumerate(runs) if run[1::2].sum() > 0]
        sure, stable = (
            np.array([1.0 if told is None else told[number] for number in kept], dtype=np.float32)
            for told in (quality, stability)
        )
        ranks = None if levels is None else np.array([levels[number] for number in kept], dtype=np.int64)
        return cls(size_hw, tuple(runs[number] for number in kept), sure, stable, ranks)

    @classmethod
    def from_masks(cls, masks: Bool[np.ndarray, "region h w"]) -> Regions:
        """Regions of which nothing but their masks is known."""
        return cls.of((masks.shape[1], masks.shape[2]), [rle.runs(mask) for mask in masks])

    @classmethod
    def from_parts(cls, parts: Integer[np.ndarray, "h w"]) -> Regions:
        """The parts of a picture that was divided, in ascending order of their numbers."""
        size_hw = (parts.shape[0], parts.shape[1])
        _, numbered = np.unique(parts, return_inverse=True)
        flat = numbered.reshape(size_hw).ravel(order="F")
        edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
        owners, count = flat[edges[:-1]], int(flat.max()) + 1
        order = np.argsort(owners, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(owners, minlength=count))[:-1])
        return cls.of(size_hw, [_runs_between(edges[group], edges[group + 1], flat.size) for group in groups])

    def only(self, kept: Int64[np.ndarray, " kept"]) -> Regions:
        """Some of them, by number."""
        levels = None if self.levels is None else self.levels[kept]
        runs = tuple(self.runs[number] for number in kept.tolist())
        return Regions(self.size_hw, runs, self.quality[kept], self.stability[kept], levels)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def areas(self) -> Int64[np.ndarray, " region"]:
        """Pixels of each."""
        return np.array([run[1::2].sum() for run in self.runs], dtype=np.int64)

    def pixels(self, number: int) -> Int64[np.ndarray, " pixel"]:
        """Where a region is: row-major places in the picture."""
        run = self.runs[number]
        starts, lengths = (np.cumsum(run) - run)[1::2], run[1::2]
        before = np.cumsum(lengths) - lengths
        places = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
        height, width = self.size_hw
        return (places % height) * width + places // height

    def mask(self, number: int) -> Bool[np.ndarray, "h w"]:
        """A region as a mask."""
        mask = np.zeros(self.size_hw, dtype=bool)
        mask.reshape(-1)[self.pixels(number)] = True
        return mask

    def members(
        self, most: int = 2**22
    ) -> Iterator[tuple[Int64[np.ndarray, " member"], Int64[np.ndarray, " member"], int, int]]:
        """Pixels and owners of some regions at a time, at most about `most` pixels, with the first and last + 1 of
        these regions; owners count from that first one."""
        areas, first = self.areas, 0
        while first < len(self):
            last, total = first + 1, int(areas[first])
            while last < len(self) and total + areas[last] <= most:
                total += int(areas[last])
                last += 1
            pixels = np.concatenate([self.pixels(number) for number in range(first, last)])
            yield pixels, np.repeat(np.arange(last - first), areas[first:last]), first, last
            first = last


@dataclass(frozen=True)
class Instances:
    """Single things of known classes in one picture. `regions.quality` says how sure each is."""

    regions: Regions
    class_ids: tuple[int, ...]
    """0-based class of each."""

    def __post_init__(self) -> None:
        if len(self.class_ids) != len(self.regions):
            raise ShapeError("each thing has one class", expected=len(self.regions), found=len(self.class_ids))

    def within(self, labels: UInt8[np.ndarray, "h w"]) -> Instances:
        """What of each lies where its class has the pixels of a mask; those of which nothing does are left out."""
        flat, runs, kept = labels.reshape(-1), [], []
        for number, k in enumerate(self.class_ids):
            pixels = self.regions.pixels(number)
            pixels = pixels[flat[pixels] == k + 1]
            if len(pixels):
                mask = np.zeros(labels.shape, dtype=bool)
                mask.reshape(-1)[pixels] = True
                runs.append(rle.runs(mask))
                kept.append(number)
        size_hw = (labels.shape[0], labels.shape[1])
        regions = Regions.of(size_hw, runs, self.regions.quality[kept].tolist(), self.regions.stability[kept].tolist())
        return Instances(regions, tuple(self.class_ids[number] for number in kept))

    def numbered(self, labels: UInt8[np.ndarray, "h w"]) -> Int64[np.ndarray, "h w"]:
        """The number of the thing at each pixel, from 1; the surest one where several claim it. 0: in none, or the mask
        has another class there."""
        found = np.zeros(labels.size, dtype=np.int64)
        flat = labels.reshape(-1)
        for number in np.argsort(self.regions.quality, kind="stable").tolist():
            pixels = self.regions.pixels(number)
            found[pixels[flat[pixels] == self.class_ids[number] + 1]] = number + 1
        return found.reshape(labels.shape)


def _runs_between(
    starts: Int64[np.ndarray, " piece"], ends: Int64[np.ndarray, " piece"], size: int
) -> Int64[np.ndarray, " _"]:
    """Run lengths of the pieces start..end, which touch nowhere."""
    edges = np.concatenate(([0], np.stack([starts, ends], 1).reshape(-1), [size]))
    lengths = np.diff(edges)
    return lengths if lengths[-1] else lengths[:-1]
