"""What stays the same from picture to picture: a frozen encoder, a text bank and the settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, get_args, overload

import numpy as np
from PIL import Image
from torch import Tensor

from clip_es import published
from clip_es.calibration import enlarged
from clip_es.config.presets import find_preset
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.config.stages import LabelSource
from clip_es.encoder import Encoder, load_encoder
from clip_es.errors import ConfigError, DataError
from clip_es.given import is_one_picture
from clip_es.images import read_picture
from clip_es.localize.base import Localization, Localizer
from clip_es.localize.methods import METHODS, Parts, build_localizer, weakly_supervised
from clip_es.localize.patchtext.reading import words_of
from clip_es.pipelines.masks.calls import given_records, labels_missing, record_of, stream
from clip_es.pipelines.masks.method import Decide, Located, MaskResult, Refined, looked_ahead, masks, masks_of
from clip_es.pipelines.masks.pools import readers_for, workers_for
from clip_es.pipelines.masks.result import FailedPicture
from clip_es.pipelines.masks.together import Batches, batches_of
from clip_es.pipelines.parallel.executor import Executor
from clip_es.pipelines.stopwatch import Stopwatch, timed
from clip_es.prompts import Synonyms, build_bank, load_vocabulary
from clip_es.prompts.bank import class_words
from clip_es.prompts.templates import NAMED, load_templates, sentences
from clip_es.prompts.vocabulary_files import Words
from clip_es.refine import Surroundings, on_grid
from clip_es.refine.registry import looks_ahead, on_grid_together, on_patches, supervision
from clip_es.store.found_labels import FoundLabels
from clip_es.tagging import Tags, tag
from clip_es.types import ClassMaps, EncodedImage, ImageRecord, Picture, TextBank

OnePicture = str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor
"""What stands for a picture; `clip_es.given` says how each is read."""

Labels = str | Sequence[str] | set[str]
"""The names of the classes in one picture."""


class MaskMaker:
    """The steps of the method, ready to work: `maker("cat.jpg", ["cat"]).plot()`, or step by step (`method.Steps`)."""

    def __init__(
        self,
        encoder: Encoder,
        vocabulary: Words,
        bank: TextBank | None = None,
        config: RunConfig = DEFAULT,
        *,
        templates: Sequence[str] | None = None,
        synonyms: Synonyms = "sentence",
        labels: LabelSource = "given",
        stopwatch: Stopwatch | None = None,
        cache: Path | None = None,
    ) -> None:
        """`vocabulary`: as `load` takes it. `templates` and `synonyms` say how the bank is made where none is given,
        `labels` where the classes of a picture come from; `cache` is a folder for what is dear to make and can be found
        again.

        Raises ConfigError, DataError; WeightsError: weights that the method or a refiner needs cannot be loaded.
        """
        self.encoder = encoder
        self.vocabulary = vocabulary = load_vocabulary(vocabulary).for_masks()
        if labels not in (sources := get_args(LabelSource)):
            raise ConfigError(
                "unknown source of labels",
                expected=", ".join(sources),
                found=repr(labels)[:60],
                next_step="The names of the classes are the vocabulary; those of a picture come with it.",
            )
        own = replace(config.encoder, engine=encoder.config.engine, dtype=encoder.config.dtype)
        self.config = config = replace(config.resolved(encoder.device.type), encoder=own)
        # The published bits are those of a CPU; a GPU has its own.
        self.exact = config.arithmetic == "published" and encoder.device.type == "cpu"
        encode = partial(published.encode_text, encoder) if self.exact else None
        self.bank = bank or build_bank(encoder, vocabulary, templates=templates, synonyms=synonyms, encode=encode)
        self.labels: LabelSource = labels
        around = Surroundings(
            vocabulary.box_threshold,
            encoder.device,
            self.exact,
            words=partial(words_of, encoder, self.bank),
            blocks=encoder.sizes.layers,
            cache=cache,
        )
        refiners = on_grid(config, around)
        self._many = on_grid_together(config, around)
        self._looks = looks_ahead(config, around)
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
        self.decide = Decide(config, self.stopwatch, vocabulary.names)

    @classmethod
    def load(
        cls,
        weights: str | Path = "scenes",
        vocabulary: Words | None = None,
        config: RunConfig | str = DEFAULT,
        device: str = "auto",
        *,
        labels: LabelSource = "given",
        templates: str | Path | Sequence[str] | None = None,
        synonyms: Synonyms = "sentence",
    ) -> MaskMaker:
        """Read weights and words: `load("ViT-B/16", vocabulary=["cat", "dog"])`.

        `weights`: an official name, a file, a snapshot folder, or `owner/name` on the hub. `vocabulary`: names in a
        list or by number in a dict, the content of a YAML file as a dict, a file, or a packaged name; None: `scenes`
        for the weights of the drawn world, else `voc12`. `config`: settings, or the name of a preset. `labels`: "auto"
        lets CLIP find them, "none" the method itself. `templates`: sentences with {}, or the name or file of a
        list; None: those of the preset or the vocabulary.
        Raises WeightsError, ConfigError.
        """
        if isinstance(config, str):
            preset = find_preset(config)
            config, templates = preset.config, templates or preset.template
        if not isinstance(config, RunConfig):
            raise ConfigError(
                "these are no settings",
                expected="a RunConfig, such as replace(clip_es.DEFAULT, ...), or the name of a preset",
                found=type(config).__name__,
            )
        if vocabulary is None:
            vocabulary = "scenes" if str(weights).startswith("scenes") else "voc12"
        words = load_vocabulary(vocabulary)
        if isinstance(templates, (str, Path)):
            single = "{}" in str(templates) or templates in NAMED
            templates = (str(templates),) if single else load_templates(templates)
        encoder = load_encoder(weights, device=device, config=config.encoder)
        return cls(
            encoder,
            words,
            config=config,
            templates=sentences(templates or ()) or None,
            synonyms=synonyms,
            labels=labels,
        )

    def to(self, device: str) -> MaskMaker:
        """This maker, with its models on another device (`cuda:1`, `cpu`, `auto`), as `load` takes it.

        Raises ConfigError: no such device, or the encoder's engine is not for it.
        """
        self.encoder.to(device)
        device = str(self.encoder.device)
        for part in (self.localizer, *(refine for _, refine in (*self._grid_refiners, *self._looks))):
            if move := getattr(part, "to", None):
                move(device)
        return self

    @overload
    def __call__(self, image: OnePicture, labels: Labels | None = None) -> MaskResult: ...

    @overload
    def __call__(
        self, image: np.ndarray | Tensor, labels: Iterable[Labels | None]
    ) -> list[MaskResult | FailedPicture]: ...

    @overload
    def __call__(
        self, image: Iterator[Any], labels: Iterable[Labels | None] | None = None
    ) -> Iterator[MaskResult | FailedPicture]: ...

    @overload
    def __call__(
        self, image: Collection[Any], labels: Iterable[Labels | None] | None = None
    ) -> list[MaskResult | FailedPicture]: ...

    def __call__(self, image: Any, labels: Any = None) -> Any:
        """The mask of a picture, given the names of the classes in it; without names they are found.

        `image`: a path, the bytes of a picture file, a Pillow picture, an RGB array [h w 3] or a tensor [3 h w]; what
        else goes stands in `clip_es.given`. For a list of pictures, with a list of names for each, the answer is a list
        of the same length, in which a picture that fails is a `FailedPicture`; for a generator it is `stream`.
        Raises DataError, ShapeError: the picture cannot be used, or a name is not in the vocabulary. ConfigError: no
        names for a maker that was made for given labels.
        """
        if not is_one_picture(image):
            results = self.stream(image, labels)
            return results if isinstance(image, Iterator) else list(results)
        record = record_of(image, labels, self.vocabulary)
        if labels is None and self.labels == "given":
            raise labels_missing(record.path)
        ((_, result),) = masks([record], self, Executor())
        return result

    def stream(
        self,
        images: Iterable[Any],
        labels: Iterable[Labels | None] | None = None,
        *,
        batch_size: int = 8,
        workers: int = 0,
    ) -> Iterator[MaskResult | FailedPicture]:
        """Masks of any number of pictures, in their order, each when it is ready; memory does not grow with them.

        `labels`: a list of names for each picture; or leave it out and let `images` be pairs of picture and names.
        `batch_size`: most pictures of one size to encode together; `workers`: processes for the CRF. Neither changes a
        mask on a CPU. A picture that fails is a `FailedPicture` with its error, and the others go on.
        Raises ShapeError: more or fewer labels than pictures. ConfigError: a setting that no picture can work with.
        Whatever `images` itself raises comes after the results of the pictures before it.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError("a batch holds at least one picture", expected="batch_size >= 1", found=repr(batch_size))
        given = given_records(images, labels, self.vocabulary, self.labels == "given")

        def results() -> Iterator[MaskResult | FailedPicture]:
            with readers_for(2 * batch_size) as readers, workers_for(workers, self.config, 0) as processes:
                yield from stream(given, self, readers, processes, batch_size)

        return results()

    def __repr__(self) -> str:
        words, config = self.vocabulary, self.config
        refine = ", ".join(config.refine) or "no refiner"
        return (
            f"<MaskMaker {config.method} ({refine}), {len(words.classes)} classes of {words.name}, "
            f"patches of {self.encoder.patch}, {self.encoder.device}>"
        )

    @property
    def rests_on(self) -> str:
        """What the masks come from, in a sentence or two."""
        sources = {
            "given": "image-level labels",
            "auto": "labels that CLIP itself found",
            "none": "the words of a vocabulary, without labels",
        }
        method = METHODS[self.config.method].title
        told = f"Segmentation masks from {sources[self.labels]} with a frozen CLIP ({method})."
        if not weakly_supervised(self.localizer):
            told += f" Not weakly supervised: its decoder was trained on {self.localizer.supervision}."
        if (refiners := supervision(self.config)) != "none":
            told += f" Not weakly supervised: a refiner learned from {refiners}."
        return told

    @property
    def together(self) -> Batches | None:
        """The steps after the encoder for several pictures at once; None on a CPU, where a picture's bytes are those of
        one picture, and for methods and refiners that have no such way."""
        if self.encoder.device.type == "cpu" or self.exact:
            return None
        return batches_of(self, self._many)

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
        wanted, tags = self.asked(picture, seen, class_ids)
        return self.located(picture, seen, self._maps(picture, seen, wanted, tags), wanted, tags)

    def asked(
        self, picture: Picture, seen: EncodedImage, class_ids: Sequence[int] | None
    ) -> tuple[Sequence[int] | None, Tags | None]:
        """The classes to look for, and what CLIP found where it was asked for them. Raises DataError: no label."""
        if self.labels == "given" and not class_ids:
            raise DataError(
                "the picture has no label, so there is nothing to look for",
                where=picture.image_id,
                next_step="Name at least one class, or leave the picture out.",
            )
        tags = self._tag(picture, seen) if self.labels == "auto" and not class_ids else None
        return class_ids or (tags.class_ids if tags else None), tags

    def located(
        self,
        picture: Picture,
        seen: EncodedImage,
        found: Localization,
        wanted: Sequence[int] | None,
        tags: Tags | None,
    ) -> Located:
        """What was found, with the names of what was not given."""
        labels = None
        if tags:
            labels = FoundLabels(self._named(found).names, tags.confidence, tags.sure)
        elif not wanted:
            labels = self._named(found)
        return Located(picture, seen, found, labels)

    def refine(self, located: Located) -> Refined:
        """The refiners that need a network, in their order."""
        maps = located.found.maps
        for _, refined in self.refine_steps(located):
            maps = refined
        return self.settle(located, maps)

    def refine_steps(self, located: Located) -> Iterator[tuple[str, ClassMaps]]:
        """The maps after each refiner that needs a network, under its name; none where the method calls them itself."""
        maps = located.found.maps
        for name, refiner in self._grid_refiners:
            with self.stopwatch(name):
                maps = refiner(located.picture, located.seen, maps)  # pyright: ignore[reportArgumentType] encoded here
            yield name, maps

    def settle(self, located: Located, maps: ClassMaps) -> Refined:
        """What stays of `maps`, which refiners have made of those found, by the rule of the method."""
        labels = located.found_labels
        settled = self.localizer.settle(located.found, maps, known=labels is None or labels.sure is not None)
        if labels is not None and labels.sure is None:
            labels = self._named(settled.found)
        enlarge = enlarged if self._calibrated else settled.enlarge
        refined = Refined(located.picture, settled.found, settled.maps, enlarge, labels)
        return looked_ahead(refined, self._looks, self.stopwatch)

    def _named(self, found: Localization) -> FoundLabels:
        """The classes that a method has found by itself."""
        return FoundLabels(tuple(self.vocabulary.classes[k].name for k in found.maps.class_ids), _floats(found.scores))

    @timed("labels")
    def _tag(self, picture: Picture, seen: EncodedImage) -> Tags:
        if own := getattr(self.localizer, "tag", None):
            return own(picture, seen)
        return tag(self.encoder, picture, seen, self.bank, self.config.tagging)

    @timed("localize")
    def _maps(
        self, picture: Picture, seen: EncodedImage, wanted: Sequence[int] | None, tags: Tags | None
    ) -> Localization:
        if wanted or tags is None:
            return self.localizer.locate(picture, seen, wanted)
        maps = seen.tokens.new_zeros(0, *seen.grid_hw)
        return Localization(ClassMaps(maps, ()), maps.new_zeros(0), maps, None)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def load(
    weights: str | Path = "ViT-B/16",
    vocabulary: Words | None = None,
    config: RunConfig | str = DEFAULT,
    device: str = "auto",
    *,
    labels: LabelSource = "given",
    templates: str | Path | Sequence[str] | None = None,
    synonyms: Synonyms = "sentence",
) -> MaskMaker:
    """`MaskMaker.load` for photographs: `clip_es.load("ViT-B/16", vocabulary=["cat", "dog"])`."""
    return MaskMaker.load(weights, vocabulary, config, device, labels=labels, templates=templates, synonyms=synonyms)
