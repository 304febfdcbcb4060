"""What differs between two runs, in the words of the command line: flags with their values, classes by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_es.store.manifest import Manifest

_FLAGS = {
    "prompts.templates": "--template",
    "prompts.synonyms": "--synonyms",
    "config.refine": "--refine",
    "config.method": "--method",
    "config.encoder.dtype": "--dtype",
    "config.encoder.activation": "--activation",
}
_FOLLOWS = ("supervision", "weakly_supervised")
"""Settings that others decide."""


def describe(old: Manifest, new: Manifest) -> list[tuple[str, str, str]]:
    """What differs: the flag or what it stands for, its value in the old run, and in the new one. Empty: nothing."""
    differing = old.differences(new)
    names = {name.removeprefix("config.").split(".")[0] for name in differing if name.startswith("config.")}
    refined = _refiners(old.settings) ^ _refiners(new.settings)
    rows: list[tuple[str, str, str]] = []
    for name, (before, now) in differing.items():
        if name in _FOLLOWS and len(differing) > 1:
            continue
        part = name.removeprefix("config.").split(".")[0]
        if name.startswith("config.") and part in refined & names and "config.refine" in differing:
            continue  # The settings of a refiner that only one of the two has.
        if name == "sha256.text":
            rows += _words(old, new, any(other.startswith("prompts.") for other in differing))
        elif name == "sha256.weights":
            rows.append(("--weights", _known(old, "weights", before), _known(new, "weights", now)))
        else:
            rows.append((_flag(name, old.settings, new.settings), before, now))
    return rows


def _words(old: Manifest, new: Manifest, told: bool) -> list[tuple[str, str, str]]:
    """Classes that came or went, or what else of the words has changed; `told`: the sentences have, and say so."""
    before, now = old.classes or (), new.classes or ()
    if before != now:
        gone = [f"- {name}" for name in before if name not in now]
        more = [f"+ {name}" for name in now if name not in before]
        if gone or more:
            return [("classes", f"{len(before)} classes", ", ".join([*more, *gone]))]
        return [("order of the classes", ", ".join(before[:5]), ", ".join(now[:5]))]
    return [] if told else [("--vocabulary", "other prompts, synonyms or background words", "these")]


def _flag(name: str, *settings: Mapping[str, Any]) -> str:
    if name in _FLAGS:
        return _FLAGS[name]
    words = name.removeprefix("config.").split(".")
    if name.startswith("config.") and any(words[0] in _refiners(one) for one in settings):
        words.insert(0, "refine")
    elif not name.startswith("config.") and len(words) > 1:
        return name  # No flag of its own, such as the digest of a file.
    return "--" + ".".join(words).replace("_", "-")


def _refiners(settings: Mapping[str, Any]) -> set[str]:
    config = settings.get("config")
    refine = config.get("refine") if isinstance(config, Mapping) else None
    return {str(name) for name in refine} if isinstance(refine, list | tuple) else set()


def _known(run: Manifest, name: str, otherwise: str) -> str:
    stated = run.about.get(name)
    return str(stated) if stated else otherwise
