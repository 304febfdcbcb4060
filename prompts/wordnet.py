"""WordNet's nouns through nltk: what a class name may mean, and what is the same, more general or more special.

Two places for the data are known: nltk's own (`nltk.download("wordnet")`) and a plain folder of WordNet's dict files,
such as Debian's package wordnet-base leaves in /usr/share/wordnet. The folder lacks files that nltk insists on and lies
where nltk refuses to read, so a small subclass of its reader serves what is missing.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_es.errors import ConfigError

_NEEDED = ("index.noun", "data.noun", "noun.exc")

NOT_INSTALLED = "WordNet's data is not installed"

_DEBIAN = Path("/usr/share/wordnet")

_TOPICS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time"
)
"""WordNet's lexicographer files of nouns in their order, from lexnames(5WN), numbers 3 to 28 of 45."""

_HOW_TO_GET_IT = (
    "Any one of these: apt-get install wordnet-base (no root: apt-get download wordnet-base, then dpkg -x it); "
    "python -c \"import nltk; nltk.download('wordnet')\"; or --wordnet with a folder that holds WordNet 3's dict files."
)


@dataclass(frozen=True)
class Sense:
    """One meaning of a noun."""

    key: str
    """WordNet's name of it, such as `mouse.n.04`."""
    words: tuple[str, ...]
    """Every word for it, blanks for underscores, commonest first."""
    gloss: str
    """What it is, in words."""
    kind: str
    """Topic: `animal`, `artifact`, `person`, ..."""


class WordNet:
    """Noun senses and how they hang together. Make one with `load_wordnet`."""

    def __init__(self, reader: Any, place: Path) -> None:
        self._reader = reader
        self._senses: dict[str, list[Sense]] = {}
        self.place = place
        """Where the data was found."""

    def senses(self, word: str) -> list[Sense]:
        """What a noun may mean, commonest first; names of single persons, places and ships are left out.

        Blanks, `_`, `-` and case do not count and plurals are understood. Empty for a word WordNet does not have.
        """
        if word in self._senses:
            return self._senses[word]
        found: dict[str, Sense] = {}
        for spelling in _spellings(word):
            for synset in self._reader.synsets(spelling, pos="n"):
                if not synset.instance_hypernyms():
                    found.setdefault(synset.name(), _sense(synset))
            if found:
                break
        self._senses[word] = list(found.values())
        return self._senses[word]

    def knows(self, word: str) -> bool:
        """Whether WordNet has this noun."""
        return bool(self.senses(word))

    def more_general(self, sense: Sense) -> list[Sense]:
        """Everything the sense is a kind of, nearest first: for a sofa its seat, furniture, ..."""
        return [_sense(synset) for synset in self._up(sense)]

    def more_special(self, sense: Sense) -> set[str]:
        """Keys of all kinds of the sense: for a car its sedan, taxi, ..."""
        return {synset.name() for synset in self._reader.synset(sense.key).closure(lambda s: s.hyponyms())}

    def sense(self, key: str) -> Sense:
        """The sense of a key such as `mouse.n.04`."""
        return _sense(self._reader.synset(key))

    def kinds(self, sense: Sense) -> list[Sense]:
        """The direct kinds of the sense."""
        return [_sense(synset) for synset in self._reader.synset(sense.key).hyponyms()]

    def parts_and_wholes(self, sense: Sense) -> tuple[set[str], set[str]]:
        """Keys of what the sense is made of, and of what it is part of, one step far."""
        synset = self._reader.synset(sense.key)
        parts = [*synset.part_meronyms(), *synset.substance_meronyms(), *synset.member_meronyms()]
        wholes = [*synset.part_holonyms(), *synset.substance_holonyms(), *synset.member_holonyms()]
        return {s.name() for s in parts}, {s.name() for s in wholes}

    @functools.cached_property
    def adjectives(self) -> frozenset[str]:
        """Words that are adjectives too (`flat` is a plain, but mostly not); empty where the data has none."""
        try:
            lines = _content(self.place, "index.adj").decode().splitlines()
        except (OSError, KeyError):
            return frozenset()
        return frozenset(line.split(" ", 1)[0] for line in lines if not line.startswith(" "))

    def _up(self, sense: Sense) -> Iterator[Any]:
        yield from self._reader.synset(sense.key).closure(lambda s: s.hypernyms())


def load_wordnet(place: str | Path | None = None) -> WordNet:
    """WordNet from a folder of dict files, else from nltk's data, else from where Debian and `make test` put it.

    Raises ConfigError: nltk or the data is missing (the message says how to get either), or the folder is no WordNet.
    """
    try:
        import nltk.data
    except ImportError as error:
        raise ConfigError(
            "synonyms and background words from WordNet need the extra `wordnet`",
            found="no nltk",
            next_step="pip install 'clip-es[wordnet]'.",
        ) from error
    if place is not None:
        return _load(Path(place).expanduser().absolute())
    known = [Path(root) / "corpora" / name for root in nltk.data.path for name in ("wordnet", "wordnet.zip")]
    known += [*map(Path, filter(None, [os.environ.get("WNSEARCHDIR")])), Path(sys.prefix, "share", "wordnet"), _DEBIAN]
    found = next((place for place in known if not _missing(place)), None)
    if found is None:
        raise ConfigError(NOT_INSTALLED, expected="nltk's or Debian's", next_step=_HOW_TO_GET_IT)
    return _load(found)


def _missing(place: Path) -> list[str]:
    """What a folder, or a zip file as nltk downloads it, lacks to be WordNet."""
    if place.suffix == ".zip":
        return [] if place.is_file() else [place.name]
    return [name for name in _NEEDED if not (place / name).is_file()]


@functools.lru_cache(maxsize=2)
def _load(place: Path) -> WordNet:
    if missing := _missing(place):
        raise ConfigError(
            "this is not WordNet's folder",
            where=place,
            expected=", ".join(_NEEDED),
            found=f"no {', '.join(missing)}",
            next_step=_HOW_TO_GET_IT,
        )
    import nltk.data

    nltk.data.path.append(str(place.parent))  # nltk reads nothing outside the folders listed here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells that it has no other languages
            return WordNet(_noun_reader(place)(str(place.parent), None), place)
    except Exception as error:  # a damaged dict file makes nltk raise almost anything
        raise ConfigError(
            "WordNet's files cannot be read",
            where=place,
            found=f"{type(error).__name__}: {error}",
            next_step=_HOW_TO_GET_IT,
        ) from error
    finally:
        nltk.data.path.remove(str(place.parent))


def _noun_reader(place: Path) -> type:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class NounReader(WordNetCorpusReader):
        """nltk's reader for nouns alone, from any folder, without the files that Debian leaves out."""

        def open(self, file: str) -> io.TextIOBase:
            if file == "lexnames":
                names = [*("other",) * 3, *(f"noun.{topic}" for topic in _TOPICS.split()), *("other",) * 16]
                return io.StringIO("".join(f"{i:02d}\t{name}\t0\n" for i, name in enumerate(names)))
            # Verbs, adjectives and adverbs name nothing that can be seen.
            content = _content(place, file) if file in _NEEDED else b""
            return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")

        def map_wn(self, version: str = "wordnet") -> None:
            """No other version to map to."""

    return NounReader


def _content(place: Path, file: str) -> bytes:
    if place.suffix == ".zip":
        with zipfile.ZipFile(place) as archive:
            return archive.read(f"wordnet/{file}")
    return (place / file).read_bytes()


def _sense(synset: Any) -> Sense:
    return Sense(
        key=synset.name(),
        words=tuple(lemma.replace("_", " ") for lemma in synset.lemma_names()),
        gloss=synset.definition(),
        kind=synset.lexname().removeprefix("noun."),
    )


def _spellings(word: str) -> Iterable[str]:
    """How WordNet may write a word of ours: `dining-table` is dining_table there, `key board` keyboard."""
    plain = "_".join(word.lower().replace("-", " ").replace("_", " ").replace("/", " ").split())
    return dict.fromkeys((plain, plain.replace("_", "-"), plain.replace("_", "")))
