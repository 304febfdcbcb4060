"""Vocabularies from wherever they are: packaged ones, files, lists, dicts.

A vocabulary is a YAML file:

    name: garden                        # default: the file's name
    source: where the words are from    # optional
    template: a photo of a {}.          # or `templates:`, a list; default: `a photo of a {}.`
    box_threshold: 0.4                  # optional, see AffinityConfig
    classes:                            # in the order of the class ids
      - rose
      - {name: bee, prompt: bee insect, synonyms: [insect], aliases: [honey bee]}
    background: [grass, sky]            # default: the words of voc12 that are no class here

An ontology of autodistill is a vocabulary too, `{a ripe red apple: apple, a green pear: pear}`: the prompt of a class
before its name. So is a plain list of names, in YAML, in a text file with one name per line (.txt, .names, .lst; a
line that begins with # is a remark), or as it is: `cat,dog,tree`; and so are names with their numbers, either way
round: `{0: cat, 1: dog}` as in the `id2label` of transformers or under `names` in YOLO's data.yaml, `{cat: 0, dog: 1}`
as in the `class_to_idx` of torchvision.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from importlib.resources import files
from numbers import Integral
from pathlib import Path
from typing import Any

import yaml

from clip_es.errors import ConfigError, nearest
from clip_es.prompts.vocabulary import TEMPLATE, ClassEntry, Vocabulary, loosely
from clip_es.safe_yaml import load_yaml
from clip_es.store.manifest import Manifest

PACKAGED: dict[str, str] = {
    "voc12": "the 20 classes of PASCAL VOC 2012 with the words of CLIP-ES",
    "coco14": "the 80 classes of COCO 2014 and 2017 with the words of CLIP-ES",
    "scenes": "the classes of the drawn world that ships with the package",
    "ade20k": "the 150 classes of ADE20K's scene parsing set",
    "cityscapes": "the 19 classes of Cityscapes that are evaluated",
    "context": "the 59 most frequent classes of Pascal Context",
    "cliper/context": "the 59 classes of Pascal Context with the words of CLIPer",
    "cliper/coco": "the 80 classes of COCO with the words of CLIPer",
    "cliper/coco-stuff": "the 171 classes of COCO-Stuff with the words of CLIPer",
    "cliper/ade20k": "the 150 classes of ADE20K with the words of CLIPer",
    "cliper/cityscapes": "the 19 classes of Cityscapes with the words of CLIPer",
}
"""Vocabularies that come with the package: <name>.yaml in this folder, and what it holds."""

LISTS = (".txt", ".names", ".lst")
"""Suffixes of files with one name per line."""

_ONE_NAME = re.compile(r"(?=.{1,60}$)[^\W_]+([ '-][^\W_]+)*")
"""What may be the name of a single class, and not that of a file."""

_LARGEST_FILE = 2**20
_KEYS = ("name", "source", "template", "templates", "box_threshold", "classes", "background")
_CLASS_KEYS = ("name", "prompt", "synonyms", "aliases")


Words = str | Path | Sequence[str] | Set[str] | Mapping[Any, Any] | Vocabulary | Any
"""What stands for a vocabulary: see `load_vocabulary`. Any: an ontology of autodistill, known by what it has."""


def load_vocabulary(words: Words) -> Vocabulary:
    """A packaged vocabulary by name, a YAML file of the same form, a text file of names, or names with commas between.

    In Python also a list or set of names (a set counts in alphabetical order), a list of entries as in YAML, a dict
    with the content of such a file, or a CaptionOntology of autodistill; a Vocabulary is returned as it is.
    Raises ConfigError: no such name or file, or the file is no vocabulary; the message says where and why.
    """
    if isinstance(words, Vocabulary):
        return words
    if not isinstance(words, str | os.PathLike):
        return _vocabulary(_in_order(words), "the vocabulary", "names")
    name_or_path = words
    if str(name_or_path) in PACKAGED:
        content = (files("clip_es.prompts") / f"{name_or_path}.yaml").read_bytes()
        return _vocabulary(_parse(content, f"{name_or_path}.yaml"), f"{name_or_path}.yaml", str(name_or_path))
    path = Path(name_or_path).expanduser()
    if not _is_file(path):
        hint = nearest(str(name_or_path), PACKAGED)
        if "," in str(name_or_path) or (not hint and _ONE_NAME.fullmatch(str(name_or_path))):
            names = [name.strip() for name in str(name_or_path).split(",")]
            return _vocabulary([name for name in names if name], "the list of names", "names")
        raise ConfigError(
            "there is no such vocabulary",
            where=path,
            expected=f"a YAML file, a text file with one name per line, names such as cat,dog, or one of "
            f"{', '.join(PACKAGED)}",
            next_step=f"{hint} A class of this name alone: '{name_or_path},'." if hint else None,
        )
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError("the vocabulary cannot be read", where=path, found=error) from error
    if len(content) > _LARGEST_FILE:
        raise ConfigError("this is too large for a vocabulary", where=path, expected=f"at most {_LARGEST_FILE} bytes")
    parse = _names if path.suffix.lower() in LISTS else _parse
    return _vocabulary(parse(content, path), path, path.stem)


def vocabulary_of(names: Iterable[str], where: object, name: str) -> Vocabulary:
    """The vocabulary of labels that were found somewhere, in alphabetical order; spellings that differ only in case,
    blanks, `_`, `-` or `/` are one class. Raises ConfigError: there is none, or one is no name."""
    once: dict[str, str] = {}
    for word in sorted(names):
        once.setdefault(loosely(word), word)
    return _vocabulary(sorted(once.values()), where, name)


def classes_of_run(run: Manifest, vocabulary: str | Path | None = None) -> tuple[str, ...] | None:
    """Class names of a run without background: of `vocabulary`, or as its run.yaml says; None where it does not say.

    Raises ConfigError: no such vocabulary.
    """
    if vocabulary is not None:
        return load_vocabulary(vocabulary).names
    if run.classes is None and run.vocabulary in PACKAGED:
        return load_vocabulary(str(run.vocabulary)).names
    return run.classes


def _in_order(words: object) -> object:
    """A list or dict as it would stand in a YAML file."""
    pairs = getattr(words, "promptMap", None)
    if isinstance(pairs, list):
        return dict(pairs)
    if isinstance(words, Mapping):
        return dict(words)
    if isinstance(words, Set):
        return sorted(words, key=str)  # the ids of the classes must not change from process to process
    if isinstance(words, Iterable) and not isinstance(words, bytes):
        return list(words)
    return words


def _numbered(content: object, where: object) -> object:
    """Names by number, or numbers by name, as a list; anything else as it is. Raises ConfigError: a gap."""
    if not isinstance(content, dict) or not content or "classes" in content:
        return content
    numbers, names = [_number(key) for key in content], list(content.values())
    if all(number is None for number in numbers) and all(isinstance(name, str) for name in content):
        numbers, names = [_number(value, text=False) for value in content.values()], list(content)
    if all(number is None for number in numbers):
        return content
    if {*numbers} != {*range(len(content))}:
        raise ConfigError(
            "classes by number are numbered from 0 without gaps",
            where=where,
            expected=f"0..{len(content) - 1}",
            found=", ".join(f"{key!r}: {value!r:.40}" for key, value in list(content.items())[:10]),
        )
    return [name for _, name in sorted(zip(numbers, names, strict=True), key=lambda pair: pair[0] or 0)]


def _number(value: object, text: bool = True) -> int | None:
    """The number that a key or value is; JSON has those of keys as text."""
    if isinstance(value, str):
        return int(value) if text and re.fullmatch("[0-9]{1,6}", value) else None
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _parse(content: bytes, where: object) -> object:
    try:
        return load_yaml(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            "this is not valid YAML",
            where=f"{where}, line {mark.line + 1}" if mark else where,
            found=getattr(error, "problem", None) or str(error).splitlines()[0],
            next_step="Correct the line. Words with a colon, a brace or a comma go into quotes.",
        ) from error


def _names(content: bytes, where: object) -> list[str]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError("this is not UTF-8 text", where=where, found=error, next_step="Save it as UTF-8.") from error
    return [name for line in lines if (name := line.strip()) and not name.startswith("#")]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # A long list of names is no name that a file could have.
        return False


def _vocabulary(content: object, where: object, stem: str) -> Vocabulary:
    if isinstance(content, dict) and isinstance(content.get("names"), list | dict) and "classes" not in content:
        content = content["names"]  # of YOLO's data.yaml; what else it says is about pictures
    content = _numbered(content, where)
    content = {"classes": content} if isinstance(content, list) else _of_captions(content)
    if not isinstance(content, dict) or "classes" not in content:
        raise ConfigError(
            "this is no vocabulary",
            where=where,
            expected="a list of names, or a mapping with 'classes'",
            found=f"keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__,
        )
    _refuse_unknown(content, _KEYS, where)
    if "template" in content and "templates" in content:
        raise ConfigError("give either 'template' or 'templates'", where=where, found="both")
    threshold = content.get("box_threshold", 0.4)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ConfigError("box_threshold must be a number", where=where, expected="0..1", found=repr(threshold))
    if not 0 <= threshold <= 1:  # before it becomes a float, which a large whole number cannot
        raise ConfigError("box_threshold is out of range", where=where, expected="0..1", found=str(threshold)[:40])
    classes = tuple(_entry(item, where) for item in _list(content["classes"], "classes", where))
    if "background" in content:
        background = _words(content["background"] or [], "background", where)
    else:
        taken = {loosely(w) for e in classes for w in (e.name, e.prompt, *e.synonyms, *e.aliases)}
        background = tuple(word for word in load_vocabulary("voc12").background if loosely(word) not in taken)
    templates = content.get("templates", [content.get("template", TEMPLATE)])
    return Vocabulary(
        name=_word(content.get("name", stem), "name", where),
        classes=classes,
        background=background,
        templates=_words(templates, "templates", where),
        box_threshold=float(threshold),
        source=_word(content.get("source", str(where)), "source", where),
    )


def _of_captions(content: object) -> object:
    """An ontology of autodistill, `{caption: class}`, as a vocabulary; anything else as it is.

    The caption is the prompt of its class; further captions of one class are its synonyms.
    """
    if not isinstance(content, dict) or not content or any(key in _KEYS for key in content):
        return content
    if not all(isinstance(word, str) and word.strip() for pair in content.items() for word in pair):
        return content
    captions: dict[str, list[str]] = {}
    for caption, name in content.items():
        captions.setdefault(name.strip(), []).append(caption)
    return {"classes": [{"name": k, "prompt": one, "synonyms": more} for k, (one, *more) in captions.items()]}


def _entry(item: object, where: object) -> ClassEntry:
    if not isinstance(item, dict):
        return ClassEntry(_word(item, "classes", where))
    _refuse_unknown(item, _CLASS_KEYS, where)
    name = _word(item.get("name"), "the name of a class", where)
    return ClassEntry(
        name=name,
        prompt=_word(item.get("prompt", name), f"the prompt of {name}", where),
        synonyms=_words(item.get("synonyms", []), f"the synonyms of {name}", where),
        aliases=_words(item.get("aliases", []), f"the aliases of {name}", where),
    )


def _list(value: object, key: str, where: object) -> list[object]:
    if not isinstance(value, list):
        raise ConfigError(f"'{key}' must be a list", where=where, expected="[one, two, ...]", found=repr(value))
    return value


def _words(value: object, key: str, where: object) -> tuple[str, ...]:
    return tuple(_word(word, key, where) for word in _list(value, key, where))


def _word(value: object, key: str, where: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(
            f"'{key}' must be text",
            where=where,
            expected="a word or a sentence",
            found=repr(value),
            next_step="YAML reads no, on and 7 as other things than words: put such a word into quotes.",
        )
    if not value.isprintable() and re.search("[\\x00-\\x1f\\x7f\\ud800-\\udfff]", value.strip()):
        raise ConfigError(f"'{key}' holds control characters", where=where, found=ascii(value)[:80])
    return value.strip()


def _refuse_unknown(content: Mapping[Any, object], known: Iterable[str], where: object) -> None:
    for key in content:
        if key not in known:
            raise ConfigError(
                f"a vocabulary has no key '{key}'",
                where=where,
                expected=f"one of {', '.join(known)}",
                next_step=nearest(str(key), known) or None,
            )
