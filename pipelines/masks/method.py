"""The method: encode, locate, refine, decide.

    ImageRecord -> Picture -> EncodedImage -> Located ------> Refined -------> MaskResult
               read     encode         locate           refine          decide
               [h w 3]  tokens,        a map of each    the same maps   at [h w]: the CRF, then
                        attention      label [gh gw]    bettered        the label of each pixel
                        [patch patch]                   [gh gw]         and its confidence

Whoever makes masks comes through here: the command, the Python call, the machines of a cluster, the estimate, the
ladder. They differ in the executor they hand in: threads that read ahead, processes that decide, what becomes of a
picture that fails. Seconds are taken by the steps' own wrapper (`timed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clip_es.config.run import MaskConfig, RunConfig
from clip_es.localize.base import Enlarge, Localization
from clip_es.masks import decide
from clip_es.pipelines.masks.result import MaskResult
from clip_es.pipelines.parallel.executor import Executor, Flow, Many, Portable
from clip_es.pipelines.stopwatch import Stopwatch
from clip_es.prompts import Vocabulary
from clip_es.refine import at_full_size
from clip_es.refine.base import Ahead
from clip_es.scaling import upsample
from clip_es.store.found_labels import FoundLabels
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture, PseudoMask


def masks(
    records: Iterable[ImageRecord], steps: Steps, executor: Executor, batch_size: int = 1
) -> Iterator[tuple[ImageRecord, MaskResult]]:
    """The mask of each picture, with what it went through; pictures of one patch grid are encoded together."""
    pictures = executor.ahead("read", steps.read, records)
    encoded = executor.together("encode", steps.encode, pictures, batch_size)
    return masks_of(encoded, steps, executor, batch_size)


def masks_of(
    encoded: Flow, steps: Steps, executor: Executor, batch_size: int = 1
) -> Iterator[tuple[ImageRecord, MaskResult]]:
    """The same from pictures that are encoded, whoever did that: record, then picture, encoding and labels.

    On a device that waits for operations, what follows is done for several pictures at once, too.
    """
    if (many := getattr(steps, "together", None)) is None:
        located = executor.each("localize", steps.locate, encoded)
        refined = executor.each("refine", steps.refine, located)
    else:
        located = executor.batched("localize", Many(many.locate, steps.locate, _grid), encoded, batch_size)
        refining = Many(many.refine, steps.refine, lambda one: _grid(one.picture))
        refined = executor.batched("refine", refining, located, batch_size)
    if many is None or not many.decides:
        decided = executor.apart("refine", steps.decide, refined)
    else:
        deciding = Many(many.decide, steps.decide, lambda one: one.picture.size_hw)
        decided = executor.batched("refine", deciding, refined, batch_size)
    return ((record, result) for record, (result,) in decided)


def _grid(picture: Picture) -> tuple[int, int]:
    return picture.grid_hw


@runtime_checkable
class Together(Protocol):
    """Steps for several pictures of one size at once. A maker that has them says so by its attribute `together`."""

    decides: bool
    """Whether the masks are made on the device, too."""

    def locate(self, asked: Sequence[tuple[Picture, EncodedImage, Sequence[int] | None]]) -> list[Located]:
        """`Steps.locate` for pictures of one grid."""
        ...

    def refine(self, located: Sequence[Located]) -> list[Refined]:
        """`Steps.refine` for pictures of one grid."""
        ...

    def decide(self, refined: Sequence[Refined]) -> list[MaskResult]:
        """`Steps.decide` for pictures of one size."""
        ...


@runtime_checkable
class Steps(Protocol):
    """What `MaskMaker` offers: one verb for each step."""

    def read(self, record: ImageRecord) -> Picture:
        """Decode a picture, and resize a copy of it to whole patches."""
        ...

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Pictures of one grid size through the frozen encoder."""
        ...

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None = None) -> Located:
        """A map of each label on the patch grid, and nothing else."""
        ...

    def refine(self, located: Located) -> Refined:
        """Better maps, with what the encoder saw."""
        ...

    @property
    def decide(self) -> Portable[Refined, MaskResult]:
        """The mask, from maps and picture alone."""
        ...


@runtime_checkable
class Maker(Steps, Protocol):
    """Steps with what a run folder tells of them."""

    config: RunConfig
    vocabulary: Vocabulary
    stopwatch: Stopwatch

    @property
    def rests_on(self) -> str:
        """What its masks come from, in a sentence or two."""
        ...


def looked_ahead(refined: Refined, looks: Sequence[tuple[str, Ahead]], stopwatch: Stopwatch) -> Refined:
    """The same, with what networks of refiners at full size see in the picture; these stay in this process."""
    picture, maps = refined.picture, refined.maps
    for name, look in looks if maps.class_ids else ():
        with stopwatch(name):
            picture = look(picture, partial(refined.enlarge or upsample, maps, picture.size_hw))
    return replace(refined, picture=picture)


@dataclass(frozen=True)
class Located:
    """A picture with a map of each of its labels."""

    picture: Picture
    seen: EncodedImage | None
    """None where no refiner asks CLIP about the maps that were given."""
    found: Localization
    """Maps before any refiner (M_c), the scores they explain, the raw GradCAM."""
    found_labels: FoundLabels | None = None
    """The classes of `found`, where they were not given but found."""


@dataclass(frozen=True)
class Refined:
    """What is known of a picture once no network is needed any more."""

    picture: Picture
    found: Localization
    maps: ClassMaps
    """Maps after the refiners that work on the grid (V_c after the affinity) and after the diffusion."""
    enlarge: Enlarge | None = None
    """How the maps come to full size, where the method has its own way."""
    found_labels: FoundLabels | None = None
    """The classes of `maps`, where they were not given but found."""

    def light(self) -> Refined:
        """In CPU memory, without what is not needed at full size and would cost time to send."""
        picture, found = self.picture, self.found
        blank = np.zeros((picture.patch, picture.patch, 3), dtype=np.uint8)
        return replace(
            self,
            picture=replace(picture, patches=blank),
            found=replace(
                found, maps=_on_cpu(found.maps), scores=found.scores.cpu(), raw=found.raw.cpu(), weights=None
            ),
            maps=_on_cpu(self.maps),
        )


class Decide:
    """Refiners at full size, then the label of each pixel: here, or packed for another process."""

    def __init__(self, config: RunConfig, stopwatch: Stopwatch, names: tuple[str, ...] = ()) -> None:
        """`names`: of the classes, for the results."""
        self.config, self.stopwatch, self.names = config, stopwatch, names

    def __call__(self, refined: Refined) -> MaskResult:
        """The mask of a picture."""
        made = _decided(refined, self.config, self.stopwatch)
        return MaskResult(refined, *made, self.names)  # pyright: ignore[reportArgumentType] this module by its other name

    def pack(self, refined: Refined) -> tuple[Any, ...]:
        """What another process is to call."""
        return _decided_there, refined.light(), self.config

    def unpack(self, refined: Refined, answer: _Answer) -> MaskResult:
        """The result of that, with the seconds it took there."""
        maps, mask, seconds = answer
        self.stopwatch.add(seconds)
        return MaskResult(refined, maps, mask, self.names)  # pyright: ignore[reportArgumentType]


_Answer = tuple[ClassMaps, PseudoMask, Mapping[str, float]]


def at_full_size_steps(refined: Refined, config: RunConfig, stopwatch: Stopwatch) -> Iterator[tuple[str, ClassMaps]]:
    """The maps with which a picture leaves the grid, under the name `enlarge`, then those after each refiner at full
    size, each under its name."""
    picture, maps = refined.picture, refined.maps
    if refined.enlarge:
        maps = refined.enlarge(maps, picture.size_hw)
    yield "enlarge", maps
    for name, refine in at_full_size(config):
        with stopwatch(name):
            maps = refine(picture, maps)
        yield name, maps


def mask_of_maps(refined: Refined, maps: ClassMaps, config: MaskConfig) -> PseudoMask:
    """The label of each pixel, from the maps after the last refiner."""
    return mask_with_found(refined, maps, decide(refined.picture.size_hw, maps, config))


def mask_with_found(refined: Refined, maps: ClassMaps, mask: PseudoMask) -> PseudoMask:
    """A mask with what else was found in its picture: how sure its labels are, and single things."""
    labels = refined.found_labels
    if labels and not maps.class_ids and labels.sure is not None:
        # Background alone has no competitor: it is as sure as that there is nothing.
        mask = replace(mask, confidence=np.full_like(mask.confidence, labels.sure))
    if (things := refined.found.instances) is not None:
        mask = replace(mask, instances=things.within(mask.decided))
    return mask


def _decided(refined: Refined, config: RunConfig, stopwatch: Stopwatch) -> tuple[ClassMaps, PseudoMask]:
    *_, (_, maps) = at_full_size_steps(refined, config, stopwatch)
    with stopwatch("decide"):
        return maps, mask_of_maps(refined, maps, config.mask)


def _decided_there(refined: Refined, config: RunConfig) -> _Answer:
    stopwatch = Stopwatch()
    return *_decided(refined, config, stopwatch), dict(stopwatch.seconds)


def _on_cpu(maps: ClassMaps) -> ClassMaps:
    return ClassMaps(
        scores=maps.scores.cpu(),
        class_ids=maps.class_ids,
        background=None if maps.background is None else maps.background.cpu(),
        unscaled=None if maps.unscaled is None else maps.unscaled.cpu(),
    )
