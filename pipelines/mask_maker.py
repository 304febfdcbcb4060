"""One picture and its labels in, one mask out: the order of the stages."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from clip_es import published
from clip_es.config import DEFAULT, RunConfig
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import DataError
from clip_es.images import read_picture
from clip_es.localize import Localization, localize
from clip_es.masks import decide
from clip_es.prompts import Synonyms, Vocabulary, build_bank, load_vocabulary
from clip_es.refine import affinity, at_full_size, on_grid
from clip_es.refine.crf import resolve_backend
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture, PseudoMask, TextBank


@dataclass(frozen=True)
class Located:
    """What is known of a picture on the patch grid."""

    picture: Picture
    found: Localization
    """Maps before refinement (M_c), the scores they explain, the raw GradCAM."""
    refined: ClassMaps
    """Maps after the refiners that work on the grid (V_c after the affinity)."""
    exact: bool = False
    """Whether the published order of operations continues at full size."""


@dataclass(frozen=True)
class MaskResult:
    """Everything one picture went through, for those who want to look."""

    located: Located
    maps: ClassMaps
    """Maps after the last refiner, at full size where it works there."""
    mask: PseudoMask


class Stopwatch:
    """Wall seconds by stage, summed over pictures and threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, float]:
        return dict(self.seconds)

    def __setstate__(self, seconds: dict[str, float]) -> None:
        self.__init__()
        self.add(seconds)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - start})

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
    ) -> None:
        """`templates` and `synonyms` say how the bank is made where none is given. Raises ConfigError, DataError."""
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.config = config = resolved(config, encoder.device.type)
        # The published bits are those of a CPU; a GPU has its own.
        self.exact = config.arithmetic == "published" and encoder.device.type == "cpu"
        encode = partial(published.encode_text, encoder) if self.exact else None
        self.bank = bank or build_bank(encoder, vocabulary, templates=templates, synonyms=synonyms, encode=encode)
        self.stopwatch = Stopwatch()
        spread = published.spread if self.exact else affinity.spread
        self._grid_refiners = on_grid(config, vocabulary.box_threshold, spread)

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
        """This maker, with its model on another device."""
        self.encoder.model.to(device)
        return self

    def __call__(self, image: str | Path, labels: Sequence[str]) -> MaskResult:
        """The mask of one picture file, given the names of the classes in it.

        Raises DataError: the file is no usable picture, or a name is not in the vocabulary.
        """
        path = Path(image)
        class_ids = tuple(dict.fromkeys(self.vocabulary.class_id(name) for name in labels))
        picture = self.read(ImageRecord(path.stem, path, class_ids))
        return self.finish(self.locate(picture, self.encode([picture])[0], class_ids))

    def read(self, record: ImageRecord) -> Picture:
        """Decode a picture and resize a copy of it for the encoder. Raises DataError."""
        with self.stopwatch("read"):
            return read_picture(record, self.encoder.patch, self.config.image)

    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Pictures of one grid size through the frozen encoder."""
        with self.stopwatch("encode"), published.one_thread() if self.exact else nullcontext():
            return self.encoder.encode([p.patches for p in pictures], attention_layers=self.config.affinity.layers)

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int]) -> Located:
        """Find the labels on the patch grid. Raises DataError: the picture has no label."""
        if not class_ids:
            raise DataError(
                "the picture has no label, so there is nothing to look for",
                where=picture.image_id,
                next_step="Name at least one class, or leave the picture out.",
            )
        with self.stopwatch("localize"):
            if self.exact:
                found = published.localize(self.encoder, seen, self.bank, class_ids)
            else:
                found = localize(self.encoder, seen, self.bank, class_ids, self.config.localize)
        maps = found.maps
        for name, refine in self._grid_refiners:
            with self.stopwatch(name):
                maps = refine(picture, seen, maps)
        return Located(picture, found, maps, self.exact)

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
    return MaskResult(located, maps, mask)


def resolved(config: RunConfig, device: str) -> RunConfig:
    """The settings with every choice made that depends on what is installed, on the device, or on what is not needed.

    Raises ConfigError: the CRF's backend is not installed.
    """
    if config.refine and config.refine[-1] == "par" and config.mask.threshold is None:
        # PAR averages over neighbours, so its winner is seldom near 1 and 0.95 would leave nothing decided.
        config = replace(config, mask=replace(config.mask, threshold=0.0))
    if "crf" not in config.refine:
        # Nobody will look at the CRF's own reading of the file.
        return replace(config, image=replace(config.image, crf_decoder="same"))
    return replace(config, crf=replace(config.crf, backend=resolve_backend(config.crf.backend, device)))
