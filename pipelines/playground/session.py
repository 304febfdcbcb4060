"""What visitors ask of pictures. Each picture is encoded once for each method; everything else is made from that.

Nothing belongs to one visitor: results are kept by what they follow from (the picture's content, the words, the method,
the refiners), so two visitors cannot mix, and one who comes back finds what was computed before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from clip_es.config.run import RunConfig
from clip_es.encoder import Encoder
from clip_es.errors import ClipEsError, ConfigError
from clip_es.localize.methods import METHODS
from clip_es.pipelines.masks.maker import MaskMaker
from clip_es.pipelines.masks.method import Located
from clip_es.pipelines.playground.cache import Cache
from clip_es.pipelines.playground.look import Look, look
from clip_es.pipelines.playground.uploads import Photo, Uploads
from clip_es.pipelines.playground.words import Words
from clip_es.prompts import Vocabulary
from clip_es.refine.registry import REFINERS
from clip_es.tagging import tag
from clip_es.types import EncodedImage, ImageRecord, Picture, TextBank

_MB = 2**20


@dataclass(frozen=True)
class Asked:
    """What is asked of a picture."""

    photo: str
    """Its key."""
    words: Words
    method: str = "clip-es"
    refine: tuple[str, ...] = ("affinity", "crf")

    def with_method(self, method: str, refine: tuple[str, ...]) -> Asked:
        """The same of another method."""
        return replace(self, method=method, refine=refine)


class Playground:
    """The encoder, the words and the settings, and what has been computed with them."""

    def __init__(
        self,
        encoder: Encoder,
        vocabulary: Vocabulary,
        config: RunConfig,
        uploads: Uploads,
        *,
        most_bytes: int = 1500 * _MB,
    ) -> None:
        """`most_bytes` bounds the encodings that are kept."""
        self.encoder, self.vocabulary, self.config, self.uploads = encoder, vocabulary, config, uploads
        self.encodes: Counter[tuple[str, str]] = Counter()
        """How often a picture went through the encoder, by picture and method."""
        self._work = threading.Lock()
        self._seen: Cache[tuple[Picture, EncodedImage]] = Cache(most_bytes)
        self._located: Cache[Located] = Cache(most_bytes // 4)
        self._looks: Cache[Look] = Cache(most_bytes // 4)
        self._banks: Cache[TextBank] = Cache(64 * _MB)
        self._makers: Cache[MaskMaker] = Cache(_MB, most=12)

    def look(self, asked: Asked) -> Look:
        """The maps and the mask. Raises ClipEsError: no picture, no label, words or settings that do not work."""
        if known := self._looks.get(asked):
            return known
        photo = self.uploads.get(asked.photo)
        with self._work:
            if known := self._looks.get(asked):
                return known
            with _what_a_run_cannot():
                maker = self._maker(asked)
                before = dict(maker.stopwatch.seconds)
                class_ids = asked.words.ids(maker.vocabulary)
                located = self._locate(maker, photo, asked, class_ids)
                return self._looks.put(asked, look(maker, located, before))

    def compare(self, asked: Asked, methods: Iterable[str]) -> Iterator[tuple[str, Look | ClipEsError]]:
        """The same question to several methods, each with the refiners it takes; one that cannot answer does not stop
        the others."""
        for method in methods:
            taken = self.taken(method, asked.refine)
            try:
                yield method, self.look(asked.with_method(method, taken))
            except ClipEsError as error:
                yield method, error

    def taken(self, method: str, refine: Sequence[str]) -> tuple[str, ...]:
        """The refiners without those that make the maps of this method worse, which a run would refuse."""
        row = METHODS.find(method, "the methods")
        refused = row.refuses(getattr(self.config.methods, row.flag))
        return tuple(name for name in refine if name not in refused)

    def find_labels(self, photo_key: str, words: Words) -> Mapping[str, float]:
        """The labels that CLIP itself sees, each with its confidence, the surest first."""
        photo = self.uploads.get(photo_key)
        asked = Asked(photo_key, replace(words, labels=()), "clip-es", ())
        with self._work, _what_a_run_cannot():
            maker = self._maker(asked)
            picture, seen = self._encode(maker, photo, asked.method)
            tags = tag(self.encoder, picture, seen, maker.bank, self.config.tagging)
        found = dict(zip((maker.vocabulary.names[k] for k in tags.class_ids), tags.confidence, strict=True))
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def encoded(self, asked: Asked) -> int:
        """How often the picture of this question went through the encoder for this method."""
        return self.encodes[asked.photo, asked.method]

    def picture(self, photo_key: str) -> Picture:
        """The pixels of a picture."""
        photo = self.uploads.get(photo_key)
        for method in METHODS:
            if known := self._seen.get((photo_key, method)):
                return known[0]
        with self._work:
            maker = self._maker(Asked(photo_key, Words(), self.config.method, ()))
            return maker.read(ImageRecord(photo.image_id, photo.path, ()))

    def _locate(self, maker: MaskMaker, photo: Photo, asked: Asked, class_ids: tuple[int, ...]) -> Located:
        picture, seen = self._encode(maker, photo, asked.method)
        # Whether refiners on the grid follow decides on which grid some methods give their maps.
        key = (asked.photo, asked.method, _grid_refiners(asked.refine), maker.bank.source, class_ids)
        known = self._located.get(key)
        return known or self._located.put(key, maker.locate(picture, seen, class_ids))

    def _encode(self, maker: MaskMaker, photo: Photo, method: str) -> tuple[Picture, EncodedImage]:
        key = photo.key, method
        if known := self._seen.get(key):
            return known
        picture = maker.read(ImageRecord(photo.image_id, photo.path, ()))
        (seen,) = maker.encode([picture])
        self.encodes[key] += 1
        return self._seen.put(key, (picture, seen))

    def _maker(self, asked: Asked) -> MaskMaker:
        said = asked.words
        words = said.vocabulary(self.vocabulary).for_masks(), said.synonyms, said.templates
        key = words, asked.method, asked.refine
        if known := self._makers.get(key):
            return known
        config = replace(self.config, method=asked.method, refine=asked.refine)
        bank, templates = self._banks.get(words), said.templates or None
        maker = MaskMaker(self.encoder, words[0], bank, config, templates=templates, synonyms=said.synonyms)
        self._banks.put(words, maker.bank)
        return self._makers.put(key, maker)


def _grid_refiners(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if REFINERS.find(name, "the refiners").grid != "pixels")


@contextmanager
def _what_a_run_cannot() -> Iterator[None]:
    """What a picture or a setting makes the libraries raise, as our own error; the server goes on."""
    try:
        yield
    except ClipEsError:
        raise
    except MemoryError as error:
        raise ConfigError(
            "there is not enough memory for this picture",
            next_step="Bring a smaller one, or start with a lower --image.max-patches.",
        ) from error
