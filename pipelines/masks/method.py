"""One picture and its labels in, one mask out: the order of the stages."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from clip_es import published
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.images import read_picture
from clip_es.localize.base import Localization, Localizer
from clip_es.localize.methods import METHODS, Parts, build_localizer
from clip_es.localize.patchtext.reading import words_of
from clip_es.masks import decide
from clip_es.prompts import Synonyms, Vocabulary, build_bank, load_vocabulary
from clip_es.prompts.bank import class_words
from clip_es.refine import Surroundings, at_full_size, keep_heights, on_grid
from clip_es.refine.registry import on_patches
from clip_es.store.found_labels import FoundLabels
from clip_es.tagging import tag
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture, PseudoMask, TextBank

LabelSource = Literal["given", "auto", "none"]
"""Where the classes of a picture come from: its data set, CLIP's own reading of the picture, or the method itself."""


@dataclass(frozen=True)
class Located:
    """What is known of a picture on the patch grid."""

    picture: Picture
    found: Localization
    """Maps before refinement (M_c), the scores they explain, the raw GradCAM."""
    refined: ClassMaps
    """Maps after the refiners that work on the grid (V_c after the affinity) and after the diffusion."""
    exact: bool = False
    """Whether the published order of operations continues at full size."""
    found_labels: FoundLabels | None = None
    """The classes of `refined`, where they were not given but found."""


@dataclass(frozen=True)
class MaskResult:
    """Everything one picture went through, for those who want to look."""

    located: Located
    maps: ClassMaps
    """Maps after the last refiner, at full size where it works there."""
    mask: PseudoMask


class Stopwatch:
    """Seconds by stage, summed over pictures and threads: of the wall, or of another clock."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, float]:
        return dict(self.seconds)

    def __setstate__(self, seconds: dict[str, float]) -> None:
        self.__init__()
        self.add(seconds)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.add({stage: self.clock() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take over what another stopwatch has measured."""
        with self._lock:
            for stage, value in seconds.items():
                self.seconds[stage] += value


class MaskMaker:
    """A frozen encoder, a text bank and the settings: what stays the same from picture to picture."""

    def __init__(
        self,
        encoder: Encoder,
        vocabulary: Vocabulary,
        bank: TextBank | None = None,
        config: RunConfig = DEFAULT,
        *,
        templates: Sequence[str] | None = None,
        synonyms: Synonyms = "sentence",
        labels: LabelSource = "given",
    ) -> None:
        """`templates` and `synonyms` say how the bank is made where none is given, `labels` where the classes of a
        picture come from.

        Raises ConfigError, DataError; WeightsError: weights that the method or a refiner needs cannot be had.
        """
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.config = config = config.resolved(encoder.device.type)
        # The published bits are those of a CPU; a GPU has its own.
        self.exact = config.arithmetic == "published" and encoder.device.type == "cpu"
        encode = partial(published.encode_text, encoder) if self.exact else None
        self.bank = bank or build_bank(encoder, vocabulary, templates=templates, synonyms=synonyms, encode=encode)
        self.labels: LabelSource = labels
        self.localizer: Localizer = build_localizer(
            config.method,
            Parts(
                encoder,
                self.bank,
                getattr(config.methods, METHODS[config.method].flag),
                class_words(vocabulary, synonyms),
                templates,
                vocabulary.class_id,
                labelled=labels != "none",
                exact=self.exact,
                attention_layers=config.refiners.affinity.layers,
                on_patches=on_patches(config),
            ),
        )
        self.stopwatch = Stopwatch()
        self._grid_refiners = on_grid(
            config,
            Surroundings(
                vocabulary.box_threshold, encoder.device, self.exact, words=partial(words_of, encoder, self.bank)
            ),
        )

    @classmethod
    def load(
        cls,
        weights: str | Path = "scenes",
        vocabulary: str | Path = "scenes",
        config: RunConfig = DEFAULT,
        device: str = "auto",
    ) -> MaskMaker:
        """Read weights and words by name or file. Raises WeightsError, ConfigError."""
        encoder = load_encoder(weights, device=device, config=config.encoder)
        return cls(encoder, load_vocabulary(vocabulary), config=config)

    def to(self, device: str) -> MaskMaker:
        """This maker, with its models on another device."""
        self.encoder.model.to(device)
        for part in (self.localizer, *(refine for _, refine in self._grid_refiners)):
            if move := getattr(part, "to", None):
                move(device)
        return self

    def __call__(self, image: str | Path, labels: Sequence[str] | None = None) -> MaskResult:
        """The mask of one picture file, given the names of the classes in it; without names they are found.

        Raises DataError: the file is no usable picture, or a name is not in the vocabulary. ConfigError: no names for a
        maker that was made for given labels.
        """
        path = Path(image)
        class_ids = None if labels is None else tuple(dict.fromkeys(self.vocabulary.class_id(n) for n in labels))
        if class_ids is None and self.labels == "given":
            raise ConfigError(
                "the labels of the picture are not given",
                where=path,
                next_step='Pass them, or make it with labels="auto".',
            )
        picture = self.read(ImageRecord(path.stem, path, class_ids or ()))
        return self.finish(self.locate(picture, self.encode([picture])[0], class_ids))

    def read(self, record: ImageRecord) -> Picture:
        """Decode a picture and resize a copy of it for the encoder. Raises DataError."""
        with self.stopwatch("read"):
            return read_picture(record, self.encoder.patch, self.config.image, self.localizer.seen_hw)

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Pictures of one grid size through the frozen encoder."""
        with self.stopwatch("encode"):
            return self.localizer.encode(pictures)

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None = None) -> Located:
        """Find the classes on the patch grid: those given, or, where this maker was made so, those it finds itself.

        Labels that are given count whatever the maker was made for. Raises DataError: the picture has no label.
        """
        return self.refine(picture, seen, *self.find(picture, seen, class_ids))

    def find(
        self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None = None
    ) -> tuple[Localization, FoundLabels | None]:
        """The first half of `locate`: maps before any refiner, and the classes where they were not given but found."""
        if self.labels == "given" and not class_ids:
            raise DataError(
                "the picture has no label, so there is nothing to look for",
                where=picture.image_id,
                next_step="Name at least one class, or leave the picture out.",
            )
        wanted, tags = class_ids or None, None
        if wanted is None and self.labels == "auto":
            with self.stopwatch("labels"):
                tags = tag(self.encoder, picture, seen, self.bank, self.config.tagging)
            wanted = tags.class_ids
        with self.stopwatch("localize"):
            found = _nothing(seen) if tags and not wanted else self.localizer.locate(picture, seen, wanted)
        names = tuple(self.vocabulary.classes[k].name for k in found.maps.class_ids)
        if tags:
            return found, FoundLabels(names, tags.confidence, tags.sure)
        return found, None if wanted else FoundLabels(names, _floats(found.scores))

    def refine(
        self, picture: Picture, seen: EncodedImage, found: Localization, labels: FoundLabels | None = None
    ) -> Located:
        """The second half of `locate`: the refiners that need a network."""
        maps = found.maps
        for name, refine in self._grid_refiners:
            with self.stopwatch(name):
                maps = refine(picture, seen, maps)
        if self.localizer.keeps_height:
            maps = keep_heights(found.maps, maps)
        return Located(picture, found, maps, self.exact, labels)

    def finish(self, located: Located) -> MaskResult:
        """From the patch grid to the mask; needs no encoder, so another process may do it."""
        return finish(located, self.config, self.stopwatch)


def finish(located: Located, config: RunConfig, stopwatch: Stopwatch) -> MaskResult:
    """Refiners at full size, then the decision. `located` must hold CPU tensors when it came from another process."""
    picture, maps = located.picture, located.refined
    if located.exact:
        maps = published.upsample(maps, picture.size_hw)
    for name, refine in at_full_size(config):
        with stopwatch(name):
            maps = refine(picture, maps)
    with stopwatch("decide"):
        mask = decide(picture.size_hw, maps, config.mask)
        if located.found_labels and not maps.class_ids and located.found_labels.sure is not None:
            # Background alone has no competitor: it is as sure as that there is nothing.
            mask = replace(mask, confidence=np.full_like(mask.confidence, located.found_labels.sure))
    return MaskResult(located, maps, mask)


def _nothing(seen: EncodedImage) -> Localization:
    """The answer to no question."""
    maps = seen.tokens.new_zeros(0, *seen.grid_hw)
    return Localization(ClassMaps(maps, ()), maps.new_zeros(0), maps, None)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
