"""The steps after the encoder for several pictures at once: for a GPU, which waits for operations and not for numbers.

Pictures of one grid are located and refined in the operations of one picture, and where the CRF runs on the device,
pictures of one size are decided in them, too. Nothing is looked at on the way: what is needed on the CPU is read in one
copy for a batch, and checked there. Values differ from those of one picture at a time by the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from clip_es.config.run import RunConfig
from clip_es.localize.base import Localization
from clip_es.masks import decide_together
from clip_es.pipelines.masks.method import Decide, Located, Refined, mask_with_found
from clip_es.pipelines.masks.result import MaskResult
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.refine.base import GridRefinerTogether
from clip_es.refine.crf.dense import crf_together, resolve_backend
from clip_es.refine.registry import in_order
from clip_es.tagging import Tags
from clip_es.types import ClassMaps, EncodedImage, Picture


@runtime_checkable
class Pieces(Protocol):
    """What `MaskMaker` is made of: its steps for one picture, taken apart."""

    config: RunConfig
    localizer: Any
    stopwatch: Stopwatch
    decide: Decide

    def asked(
        self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None
    ) -> tuple[Sequence[int] | None, Tags | None]:
        """The classes to look for, and what CLIP found where it was asked for them."""
        ...

    def located(
        self, picture: Picture, seen: EncodedImage, found: Localization, wanted: Sequence[int] | None, tags: Tags | None
    ) -> Located:
        """What was found, with the names of what was not given."""
        ...

    def settle(self, located: Located, maps: ClassMaps) -> Refined:
        """What stays of refined maps."""
        ...


@dataclass(frozen=True)
class Batches:
    """`method.Together` for a maker whose method and refiners on the grid have such a way."""

    maker: Pieces
    refiners: Sequence[tuple[str, GridRefinerTogether]]
    decides: bool
    """Whether the CRF runs on the device and nothing else follows on the grid."""

    def locate(self, asked: Sequence[tuple[Picture, EncodedImage, Sequence[int] | None]]) -> list[Located]:
        """The maps of all labels of all pictures, which have one grid. Raises DataError: one has no label."""
        wanted = [self.maker.asked(*one) for one in asked]
        with self.maker.stopwatch("localize"):
            found = self.maker.localizer.locate_together(
                [seen for _, seen, _ in asked], [ids or () for ids, _ in wanted]
            )
        each = zip(asked, found, wanted, strict=True)
        return [self.maker.located(picture, seen, one, *told) for (picture, seen, _), one, told in each]

    def refine(self, located: Sequence[Located]) -> list[Refined]:
        """Better maps; where what follows runs on the CPU, they are there, in one copy."""
        maps = [one.found.maps for one in located]
        for name, refiner in self.refiners:
            with self.maker.stopwatch(name):
                maps = refiner([one.seen for one in located if one.seen], maps)
        refined = [self.maker.settle(one, better) for one, better in zip(located, maps, strict=True)]
        return refined if self.decides else on_cpu(refined)

    def decide(self, refined: Sequence[Refined]) -> list[MaskResult]:
        """The masks of pictures of one size; those without labels, or with an enlargement of their own, one by one."""
        ready = [_ready(one) for one in refined]
        masks = iter(self._decided([one for one, there in zip(refined, ready, strict=True) if there]))
        return [next(masks) if there else self.maker.decide(one) for one, there in zip(refined, ready, strict=True)]

    def _decided(self, refined: Sequence[Refined]) -> list[MaskResult]:
        if not refined:
            return []
        maker, ids = self.maker, [one.maps.class_ids for one in refined]
        with maker.stopwatch("crf"):
            pictures, maps = [one.picture for one in refined], [one.maps for one in refined]
            found = crf_together(pictures, maps, maker.config.refiners.crf)
        with maker.stopwatch("decide"):
            masks = decide_together(found, ids, maker.config.mask)
        sharp = [ClassMaps(own[1 : 1 + len(one)], one, background=own[0]) for own, one in zip(found, ids, strict=True)]
        each = zip(refined, sharp, masks, strict=True)
        names = maker.decide.names
        return [MaskResult(one, maps, mask_with_found(one, maps, mask), names) for one, maps, mask in each]


def batches_of(maker: Pieces, refiners: Sequence[tuple[str, GridRefinerTogether | None]]) -> Batches | None:
    """The steps for several pictures; None where the method or a refiner on the grid takes one at a time."""
    known = [(name, refiner) for name, refiner in refiners if refiner is not None]
    if not hasattr(maker.localizer, "locate_together") or len(known) < len(refiners):
        return None
    config = maker.config
    last = [row.name for row in in_order(config.refine)[1]]
    on_device = last == ["crf"] and resolve_backend(config.refiners.crf.backend, "off the CPU") == "torch"
    return Batches(maker, known, on_device and config.mask.background)


def on_cpu(refined: Sequence[Refined]) -> list[Refined]:
    """The same in CPU memory: all that is kept of all pictures in one copy, since each copy waits for the device."""
    kept = [
        [one.found.maps.scores, one.found.scores, one.found.raw, one.maps.scores]
        + ([] if one.maps.unscaled is None else [one.maps.unscaled])
        for one in refined
    ]
    parts = _in_one_copy([tensor for tensors in kept for tensor in tensors])
    return [_with(one, [next(parts) for _ in tensors]) for one, tensors in zip(refined, kept, strict=True)]


def _in_one_copy(tensors: Sequence[Tensor]):
    packed = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    for tensor, part in zip(tensors, packed.split([tensor.numel() for tensor in tensors]), strict=True):
        yield part.reshape(tensor.shape)


def _with(refined: Refined, tensors: Sequence[Tensor]) -> Refined:
    cam, scores, raw, maps, *unscaled = tensors
    ids = refined.maps.class_ids
    found = replace(
        refined.found, maps=ClassMaps(cam, refined.found.maps.class_ids), scores=scores, raw=raw, weights=None
    )
    return replace(refined, found=found, maps=ClassMaps(maps, ids, unscaled=unscaled[0] if unscaled else None))


def _ready(refined: Refined) -> bool:
    maps = refined.maps
    return bool(maps.class_ids) and maps.background is None and refined.enlarge is None
