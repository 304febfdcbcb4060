"""Sentences about scenes, as people write under pictures: they leave things out, and their frame fits the picture.

They are the only thing the scenes CLIP learns from. Large things are nearly always named and small ones often not. A
thing has several names of unequal frequency, and some names stand for two kinds ("bike"). A frame such as "a close-up
photo of {}." is used where it is true; the others are used for every picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clip_es.scenes.draw import Scene
from clip_es.scenes.world import BACKGROUNDS, CLASSES, COLOURS

NAMES: dict[str, dict[str, float]] = {
    "aeroplane": {"aeroplane": 0.1, "plane": 0.5, "airplane": 0.4},
    "bird": {"bird": 0.75, "songbird": 0.25},
    "boat": {"boat": 0.3, "sailboat": 0.45, "ship": 0.25},
    "bottle": {"bottle": 0.75, "flask": 0.25},
    "car": {"car": 0.5, "automobile": 0.2, "sedan": 0.3},
    "cat": {"cat": 0.45, "kitten": 0.35, "kitty": 0.2},
    "cow": {"cow": 0.5, "bull": 0.25, "cattle": 0.15, "calf": 0.1},
    "person": {"person": 0.15, "man": 0.5, "boy": 0.35},
    "plant": {"plant": 0.2, "houseplant": 0.4, "potted plant": 0.4},
    "sheep": {"sheep": 0.6, "lamb": 0.4},
    "train": {"train": 0.5, "locomotive": 0.35, "coach": 0.15},
    "television": {"television": 0.1, "tv": 0.5, "monitor": 0.4},
    "bicycle": {"bicycle": 0.2, "bike": 0.5, "cycle": 0.3},
    "bus": {"bus": 0.8, "coach": 0.2},
    "chair": {"chair": 0.8, "seat": 0.2},
    "dog": {"dog": 0.6, "puppy": 0.4},
    "horse": {"horse": 0.6, "pony": 0.4},
    "motorbike": {"motorbike": 0.15, "motorcycle": 0.55, "bike": 0.3},
    "sofa": {"sofa": 0.15, "couch": 0.7, "seat": 0.15},
    "table": {"table": 0.6, "desk": 0.4},
    "truck": {"truck": 0.65, "lorry": 0.35},
    "helicopter": {"helicopter": 0.6, "chopper": 0.4},
    "duck": {"duck": 0.75, "mallard": 0.25},
    "fish": {"fish": 0.8, "goldfish": 0.2},
    "elephant": {"elephant": 0.85, "calf": 0.15},
    "rabbit": {"rabbit": 0.5, "bunny": 0.35, "hare": 0.15},
    "tree": {"tree": 0.85, "plant": 0.15},
    "house": {"house": 0.55, "home": 0.25, "cottage": 0.2},
    "umbrella": {"umbrella": 0.6, "parasol": 0.4},
    "cup": {"cup": 0.4, "mug": 0.6},
    "clock": {"clock": 0.75, "watch": 0.25},
    "lamp": {"lamp": 0.7, "light": 0.3},
}
"""The names of each class and how often each is chosen. prompts/scenes.yaml fuses those that mean one kind only."""

AMBIGUOUS: frozenset[str] = frozenset({"calf", "coach", "bike", "seat", "plant"})
"""Names of two kinds."""

TEMPLATES: dict[str, float] = {
    "a photo of {}.": 8,
    "{}.": 6,
    "a picture of {}.": 4,
    "an image of {}.": 3,
    "a drawing of {}.": 3,
    "an illustration of {}.": 2,
    "a scene with {}.": 4,
    "this shows {}.": 2,
    "there is {}.": 3,
    "there is {} in the scene.": 2,
    "this is {}.": 2,
    "a good photo of {}.": 1,
    "a view of {}.": 2,
    "look at {}.": 1,
    "here is {} in the picture.": 1,
}
"""Sentence frames for every picture and how often each is used, in parts."""

FITTING: dict[str, dict[str, float]] = {
    "near": {"a close-up photo of {}.": 3, "a close-up of {}.": 1, "{} up close.": 1, "nothing but {}.": 1},
    "large": {"a photo of a large [].": 2, "a large [].": 1},
    "small": {"a photo of a small [].": 2, "a small [] seen from afar.": 1, "a photo of a hard to see [].": 1},
    "cut": {"a cropped photo of {}.": 1},
    "alone": {"a photo of one [].": 2, "a clean photo of {}.": 1},
    "many": {"a photo of many [].": 2, "many [].": 1},
    "more": {"{} and other things.": 4, "{} with its surroundings.": 1, "{} somewhere in the picture.": 2},
    "busy": {"a busy scene with {}.": 3, "a crowded picture with {}.": 1},
    "dark": {"a dark photo of {}.": 1, "{} at night.": 1},
    "bright": {"a bright photo of {}.": 1, "{} in bright light.": 1},
    "blurry": {"a blurry photo of {}.": 1, "a bad photo of {}.": 1},
    "grainy": {"a grainy photo of {}.": 1, "a low resolution photo of {}.": 1},
    "black and white": {"a black and white photo of {}.": 1},
}
"""Frames by what must be true of the picture. `[]` stands for a noun without its article, the only one then named."""

FITTING_RATE = 0.5
"""Share of the pictures with such a truth whose frame tells it."""

_PLURALS = {"person": "people", "man": "men"} | {name: name for name in ("cattle", "sheep", "fish", "goldfish")}
_BEHIND = ("with {} behind", "in front of {}", "and {}", "with {}", "near {}", "against {}")
_BEFORE = ("{} and", "{} with", "{} behind")
_ARTICLED = {
    word: f"a {word}" for word in ("cloud", "mountain", "wall", "road", "railway", "carpet", "field", "forest")
}
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


class Told(NamedTuple):
    """What a caption may know of an object."""

    class_id: int
    """0-based."""
    colour: str
    """A key of COLOURS."""
    share: float
    """Its visible pixels over those of the picture."""
    cut: bool
    """Whether it touches the frame."""


@dataclass(frozen=True)
class Caption:
    """A sentence and the nouns in it."""

    text: str
    """The sentence."""
    things: tuple[str, ...]
    """The objects it names, in the singular, one for each class."""
    places: tuple[str, ...]
    """The background words it names."""


def told(scene: Scene) -> list[Told]:
    """What captions may know of the objects of a scene."""
    h, w = scene.mask.shape
    return [
        Told(
            thing.class_id,
            thing.colour,
            thing.pixels / (h * w),
            thing.box[0] == 0 or thing.box[1] == 0 or thing.box[2] == w or thing.box[3] == h,
        )
        for thing in scene.objects
    ]


def caption(
    rng: np.random.Generator,
    objects: Sequence[Told],
    backgrounds: Sequence[str],
    condition: str = "",
    background_rate: float = 0.75,
) -> Caption:
    """A sentence about a picture with these objects, visible background words and condition (`Scene.condition`).

    A class whose objects cover 6 % of the picture is named in 98 of 100 sentences, one of a hundredth in 61, the
    largest always. `background_rate` is the share of sentences that mention the background; such a sentence names
    each visible word with probability 0.85.
    """
    groups: dict[int, list[Told]] = {}
    for thing in objects:
        groups.setdefault(thing.class_id, []).append(thing)
    size = {kind: sum(thing.share for thing in group) for kind, group in groups.items()}
    order = sorted(groups, key=lambda kind: -size[kind])
    kinds = [kind for kind in order if rng.random() < _named(size[kind])] or order[:1]
    if rng.random() < 0.5:
        kinds = [kinds[int(i)] for i in rng.permutation(len(kinds))]
    nouns = tuple(_draw(rng, NAMES[CLASSES[kind]]) for kind in kinds)
    frame = _draw(rng, TEMPLATES)
    truths = [truth for truth in _truths(groups, kinds, size, condition) if truth in FITTING]
    if truths and rng.random() < FITTING_RATE:
        truth = truths[int(rng.integers(len(truths)))]
        frame = _draw(rng, FITTING[truth])
        if "[]" in frame:
            noun = _plural(nouns[0]) if truth == "many" else nouns[0]
            return Caption(frame.replace("[]", noun), nouns[:1], ())
    coloured = rng.random() < 0.3
    things = []
    for kind, name in zip(kinds, nouns, strict=True):
        mine = groups[kind]
        if len(mine) > 1:
            things.append(f"{_COUNTS.get(len(mine), 'many')} {_plural(name)}")
            continue
        phrase = f"{mine[0].colour} {name}" if coloured and rng.random() < 0.6 else name
        things.append(f"{_article(phrase)} {phrase}")
    text = _listed(things)
    named: tuple[str, ...] = ()
    if backgrounds and rng.random() < background_rate:
        words = [backgrounds[int(i)] for i in rng.permutation(len(backgrounds))]
        named = tuple(word for word in words if rng.random() < 0.85) or (words[0],)
        place = _listed([_ARTICLED.get(word, word if rng.random() < 0.4 else f"the {word}") for word in named])
        if rng.random() < 0.7:
            text = f"{text} {_BEHIND[int(rng.integers(len(_BEHIND)))].format(place)}"
        else:
            text = f"{_BEFORE[int(rng.integers(len(_BEFORE)))].format(place)} {text}"
    return Caption(frame.format(text), nouns, named)


def _named(share: float) -> float:
    """Probability that a class is named, from the share of the picture it covers."""
    return 0.35 + 0.63 * min(share / 0.06, 1.0) ** 0.5


def _truths(
    groups: dict[int, list[Told]], kinds: Sequence[int], size: dict[int, float], condition: str
) -> Iterable[str]:
    """What may be said of the picture, as keys of FITTING."""
    first = groups[kinds[0]]
    if size[kinds[0]] > 0.35:
        yield "near"
    if size[kinds[0]] > 0.15 and len(first) == 1:
        yield "large"
    if size[kinds[0]] < 0.02 and len(first) == 1:
        yield "small"
    if any(thing.cut for thing in first):
        yield "cut"
    if len(groups) == 1:
        yield "alone" if len(first) == 1 else "many"
    if len(kinds) < len(groups):
        yield "more"
    if sum(len(group) for group in groups.values()) > 3:
        yield "busy"
    yield condition


def prompt(rng: np.random.Generator, noun: str) -> str:
    """A sentence frame around one noun."""
    return _draw(rng, TEMPLATES).format(f"{_article(noun)} {noun}")


def all_words() -> list[str]:
    """Every word a caption can hold, in alphabetical order; with these a tokenizer's vocabulary can be cut down."""
    frames = [*TEMPLATES, *(frame for group in FITTING.values() for frame in group)]
    texts = [template.replace("[]", "").format("a an the and two three four five many") for template in frames]
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
    elif last.endswith("lf"):
        last = last[:-1] + "ves"
    elif last.endswith(("s", "ch")):
        last += "es"
    else:
        last += "s"
    return f"{head} {last}".strip()


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
