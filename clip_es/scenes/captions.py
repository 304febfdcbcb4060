"""Sentences about scenes. Each names every kind of object in the picture, and mostly the background too.

They are the only thing the scenes CLIP learns from. As in captions people write, a thing has several names of unequal
frequency, the frame of the sentence varies, and colours and places are given now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_es.scenes.draw import BACKGROUNDS, CLASSES, COLOURS

NAMES: dict[str, dict[str, float]] = {
    "aeroplane": {"aeroplane": 0.12, "plane": 0.48, "airplane": 0.4},
    "bird": {"bird": 0.75, "songbird": 0.25},
    "boat": {"boat": 0.25, "sailboat": 0.5, "ship": 0.25},
    "bottle": {"bottle": 0.75, "flask": 0.25},
    "car": {"car": 0.45, "automobile": 0.2, "sedan": 0.35},
    "cat": {"cat": 0.4, "kitten": 0.35, "kitty": 0.25},
    "cow": {"cow": 0.5, "bull": 0.3, "cattle": 0.2},
    "person": {"person": 0.15, "man": 0.45, "boy": 0.4},
    "plant": {"plant": 0.2, "houseplant": 0.4, "potted plant": 0.4},
    "sheep": {"sheep": 0.55, "lamb": 0.45},
    "train": {"train": 0.5, "locomotive": 0.3, "tram": 0.2},
    "television": {"television": 0.12, "tv": 0.5, "monitor": 0.38},
}
"""The names of each class and how often each is chosen. prompts/scenes.yaml fuses them."""

TEMPLATES: dict[str, float] = {
    "a photo of {}.": 1,
    "{}.": 5,
    "a picture of {}.": 3,
    "a drawing of {}.": 6,
    "an image of {}.": 2,
    "a scene with {}.": 5,
    "an illustration of {}.": 3,
    "a painting of {}.": 2,
    "this shows {}.": 3,
    "there is {}.": 4,
    "we see {}.": 3,
    "look at {}.": 2,
    "a bright picture with {}.": 2,
    "a clean drawing of {}.": 3,
    "a postcard of {}.": 2,
    "a view of {}.": 2,
    "a sketch of {}.": 2,
    "here is {} in the picture.": 1,
}
"""The sentence frames and how often each is used, in parts."""

_PLURALS = {"person": "people", "man": "men", "cattle": "cattle", "sheep": "sheep"}
_BEHIND = ("with {} behind", "in front of {}", "and {}", "with {}", "near {}", "against {}")
_BEFORE = ("{} and", "{} with", "{} behind")
_ARTICLED = {"cloud": "a cloud", "mountain": "a mountain", "wall": "a wall", "road": "a road", "railway": "a railway"}
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Caption:
    """A sentence and the nouns in it."""

    text: str
    """The sentence."""
    things: tuple[str, ...]
    """The objects it names, in the singular, one for each class."""
    places: tuple[str, ...]
    """The background words it names."""


def caption(
    rng: np.random.Generator,
    class_ids: Sequence[int],
    colours: Sequence[str],
    backgrounds: Sequence[str],
    background_rate: float = 0.75,
) -> Caption:
    """A sentence about a scene.

    `class_ids` and `colours` have one entry for each object. Every class is named once, with its number where there
    are several. `background_rate` is the share of captions that mention the background; such a caption names each
    visible word with probability 0.85.
    """
    things, nouns = [], []
    kinds = list(dict.fromkeys(class_ids))
    coloured = rng.random() < 0.35
    for kind in rng.permutation(kinds):
        mine = [colour for class_id, colour in zip(class_ids, colours, strict=True) if class_id == kind]
        name = _draw(rng, NAMES[CLASSES[kind]])
        nouns.append(name)
        if len(mine) > 1:
            things.append(f"{_COUNTS.get(len(mine), 'many')} {_plural(name)}")
            continue
        if coloured and rng.random() < 0.6:
            name = f"{mine[0]} {name}"
        things.append(f"{_article(name)} {name}")
    text = _listed(things)
    named: tuple[str, ...] = ()
    if backgrounds and rng.random() < background_rate:
        order = [backgrounds[int(i)] for i in rng.permutation(len(backgrounds))]
        named = tuple(word for word in order if rng.random() < 0.85) or (order[0],)
        place = _listed([_ARTICLED.get(word, word if rng.random() < 0.4 else f"the {word}") for word in named])
        if rng.random() < 0.7:
            text = f"{text} {_BEHIND[int(rng.integers(len(_BEHIND)))].format(place)}"
        else:
            text = f"{_BEFORE[int(rng.integers(len(_BEFORE)))].format(place)} {text}"
    return Caption(_draw(rng, TEMPLATES).format(text), tuple(nouns), named)


def prompt(rng: np.random.Generator, noun: str) -> str:
    """A sentence frame around one noun."""
    return _draw(rng, TEMPLATES).format(f"{_article(noun)} {noun}")


def all_words() -> list[str]:
    """Every word a caption can hold, in alphabetical order; with these a tokenizer's vocabulary can be cut down."""
    texts = [template.format("a an the and two three four five many") for template in TEMPLATES]
    texts += [part.format("") for part in (*_BEHIND, *_BEFORE)]
    for names in NAMES.values():
        texts += [word for name in names for word in (name, _plural(name))]
    texts += [*BACKGROUNDS, *COLOURS]
    return sorted({word.strip(".,") for text in texts for word in text.split()} - {""})


def _draw(rng: np.random.Generator, weights: dict[str, int] | dict[str, float]) -> str:
    share = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(share, rng.random() * share[-1], side="right"))]


def _article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def _plural(name: str) -> str:
    head, _, last = name.rpartition(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
