"""What stays the same from picture to picture: a frozen encoder, a text bank and the settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from clip_es import published
from clip_es.calibration import enlarged
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.config.stages import LabelSource
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.images import read_picture
from clip_es.localize.base import Localization, Localizer
from clip_es.localize.methods import METHODS, Parts, build_localizer
from clip_es.localize.patchtext.reading import words_of
from clip_es.pipelines.masks.method import Decide, Located, MaskResult, Refined, masks, masks_of
from clip_es.pipelines.parallel.executor import Executor
from clip_es.pipelines.stopwatch import Stopwatch, timed
from clip_es.prompts import Synonyms, Vocabulary, build_bank, load_vocabulary
from clip_es.prompts.bank import class_words
from clip_es.refine import Surroundings, on_grid
from clip_es.refine.registry import on_patches
from clip_es.store.found_labels import FoundLabels
from clip_es.tagging import Tags, tag
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture, TextBank


class MaskMaker:
    """The steps of the method, ready to work: `maker("cat.jpg", ["cat"]).mask`, or step by step (`method.Steps`)."""

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
        stopwatch: Stopwatch | None = None,
    ) -> None:
        """`templates` and `synonyms` say how the bank is made where none is given, `labels` where the classes of a
        picture come from.

        Raises ConfigError, DataError; WeightsError: weights that the method or a refiner needs cannot be loaded.
        """
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.config = config = config.resolved(encoder.device.type)
        # The published bits are those of a CPU; a GPU has its own.
        self.exact = config.arithmetic == "published" and encoder.device.type == "cpu"
        encode = partial(published.encode_text, encoder) if self.exact else None
        self.bank = bank or build_bank(encoder, vocabulary, templates=templates, synonyms=synonyms, encode=encode)
        self.labels: LabelSource = labels
        refiners = on_grid(
            config,
            Surroundings(
                vocabulary.box_threshold, encoder.device, self.exact, words=partial(words_of, encoder, self.bank)
            ),
        )
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
                views=config.views,
                refiners=refiners,
                others=config.methods,
                max_patches=config.image.max_patches,
            ),
        )
        self._grid_refiners = [] if getattr(self.localizer, "refines_on_grid", False) else refiners
        self._calibrated = config.mask.calibration == "otsu"
        if self._calibrated and (self.exact or not getattr(self.localizer, "stretches", False)):
            raise ConfigError(
                "these maps are not calibrated one by one: their height says how sure a label is"
                if not self.exact
                else "the published arithmetic has a fixed threshold",
                expected="--mask.calibration fixed",
                found=f"--mask.calibration otsu --method {config.method}",
            )
        self.stopwatch = stopwatch or Stopwatch()
        self.decide = Decide(config, self.stopwatch)

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
        class_ids = tuple(dict.fromkeys(self.vocabulary.class_id(name) for name in labels or ()))
        if labels is None and self.labels == "given":
            raise ConfigError(
                "the labels of the picture are not given",
                where=path,
                next_step='Pass them, or make it with labels="auto".',
            )
        ((_, result),) = masks([ImageRecord(path.stem, path, class_ids)], self, Executor())
        return result

    def mask_of(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None = None) -> MaskResult:
        """The mask of a picture that is encoded already, for those who compare several makers on it."""
        record = ImageRecord(picture.image_id, Path(picture.image_id), ())
        ((_, result),) = masks_of([(record, (picture, seen, class_ids))], self, Executor())
        return result

    @timed("read")
    def read(self, record: ImageRecord) -> Picture:
        """Decode a picture and resize a copy of it for the encoder. Raises DataError."""
        return read_picture(record, self.encoder.patch, self.config.image, self.localizer.seen_hw)

    @timed("encode")
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedImage]:
        """Pictures of one grid size through the frozen encoder."""
        return self.localizer.encode(pictures)

    def locate(self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None = None) -> Located:
        """Find the classes on the patch grid: those given, or, where this maker was made so, those it finds itself.

        Labels that are given count whatever the maker was made for. Raises DataError: the picture has no label.
        """
        if self.labels == "given" and not class_ids:
            raise DataError(
                "the picture has no label, so there is nothing to look for",
                where=picture.image_id,
                next_step="Name at least one class, or leave the picture out.",
            )
        tags = self._tag(picture, seen) if self.labels == "auto" and not class_ids else None
        wanted = class_ids or (tags.class_ids if tags else None)
        found = self._maps(picture, seen, wanted, nothing=tags is not None and not wanted)
        labels = None
        if tags:
            labels = FoundLabels(self._named(found).names, tags.confidence, tags.sure)
        elif not wanted:
            labels = self._named(found)
        return Located(picture, seen, found, labels)

    def refine(self, located: Located) -> Refined:
        """The refiners that need a network, in their order."""
        maps = located.found.maps
        for name, refiner in self._grid_refiners:
            with self.stopwatch(name):
                maps = refiner(located.picture, located.seen, maps)
        labels = located.found_labels
        settled = self.localizer.settle(located.found, maps, known=labels is None or labels.sure is not None)
        if labels is not None and labels.sure is None:
            labels = self._named(settled.found)
        enlarge = enlarged if self._calibrated else settled.enlarge
        return Refined(located.picture, settled.found, settled.maps, enlarge, labels)

    def _named(self, found: Localization) -> FoundLabels:
        """The classes that a method has found by itself."""
        return FoundLabels(tuple(self.vocabulary.classes[k].name for k in found.maps.class_ids), _floats(found.scores))

    @timed("labels")
    def _tag(self, picture: Picture, seen: EncodedImage) -> Tags:
        return tag(self.encoder, picture, seen, self.bank, self.config.tagging)

    @timed("localize")
    def _maps(
        self, picture: Picture, seen: EncodedImage, wanted: Sequence[int] | None, *, nothing: bool
    ) -> Localization:
        if not nothing:
            return self.localizer.locate(picture, seen, wanted)
        maps = seen.tokens.new_zeros(0, *seen.grid_hw)
        return Localization(ClassMaps(maps, ()), maps.new_zeros(0), maps, None)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
