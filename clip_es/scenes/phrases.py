"""Phrases about scenes with their masks, the embedded data for training a prompt-driven decoder.

A phrase is a name, a name with a colour, or a name with a place: "kitten", "red car", "sheep on the grass". Some names
and some pairs of class and place are never used in training, so that a decoder can be asked what it was never told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from clip_es.errors import ConfigError, nearest
from clip_es.records.phrases.table import Phrase, PhraseSet
from clip_es.scenes.captions import AMBIGUOUS, NAMES
from clip_es.scenes.dataset import ScenesConfig, scene_of
from clip_es.scenes.draw import CLASSES, Scene

Part = Literal["train", "names", "synonyms", "places"]
"""train: all that training may say; names: its bare names; synonyms and places: what it never says."""

NEVER_SAID = ("airplane", "ship", "automobile", "kitty", "cattle", "boy", "potted plant", "monitor", "hare", "cottage")
"""Names the CLIP knows and the decoder's training leaves out, each of a class that keeps another name."""

NEVER_THERE: dict[str, str] = {
    "aeroplane": "sea",
    "bird": "sand",
    "boat": "grass",
    "bottle": "road",
    "car": "snow",
    "cat": "grass",
    "cow": "snow",
    "person": "railway",
    "plant": "sea",
    "sheep": "floor",
    "train": "sand",
    "television": "road",
    "bicycle": "floor",
    "bus": "grass",
    "chair": "snow",
    "dog": "railway",
    "horse": "carpet",
    "motorbike": "sea",
    "sofa": "field",
    "table": "sand",
    "truck": "carpet",
    "helicopter": "floor",
    "duck": "road",
    "fish": "field",
    "elephant": "railway",
    "rabbit": "floor",
    "tree": "carpet",
    "house": "sea",
    "umbrella": "railway",
    "cup": "field",
    "clock": "snow",
    "lamp": "grass",
}
"""For each class the place with which training never names it."""

WHERE = ("{} on the {}", "{} in front of the {}", "{} near the {}", "{} against the {}")
"""How a place is said; which of them fits the picture is not looked at, only whether the place can be seen."""


class _Meaning(NamedTuple):
    class_id: int
    colour: str = ""
    place: str = ""


@dataclass(frozen=True)
class ScenePhrasesConfig:
    """Which scenes, and what is said about them."""

    pictures: int = 3000
    """Scenes; each has two classes or more."""
    seed: int = 77
    """Seed of the drawn world; evaluation uses another one (2026)."""
    side: tuple[int, int] = (192, 256)
    """Shortest and longest side of a scene, pixels."""
    without: tuple[str, ...] = ()
    """Classes that are never named; they stay in the pictures, where a decoder learns to pass them over."""
    hide: bool = False
    """Take other scenes in place of those that show such a class."""
    part: Part = "train"
    """What is said: all that training may say, its bare names, or the synonyms or the places it never says."""
    split: Literal["train", "val"] = "train"
    """Which scenes of that world."""

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise ConfigError("phrases need at least one picture", found=self.pictures)
        if self.hide and len(set(self.without)) > len(CLASSES) - 3:
            raise ConfigError("scenes need three classes that may be shown", found=self.without)
        for name in self.without:
            if name not in CLASSES:
                raise ConfigError(
                    f"'{name}' is no class of the scenes", expected=", ".join(CLASSES), next_step=nearest(name, CLASSES)
                )


class ScenePhrases(PhraseSet):
    """Scenes, drawn when the set is made (about 10 ms each) and kept in memory, with phrases drawn from the seed."""

    supervision = "masks (drawn scenes)"

    def __init__(self, config: ScenePhrasesConfig | None = None, only: tuple[str, ...] = ()) -> None:
        """`only`: speak of these classes alone. Raises ConfigError: nothing can be said."""
        self.config = config = config or ScenePhrasesConfig()
        self.name = f"scenes {config.split} ({config.part})"
        look = ScenesConfig(seed=config.seed, side=config.side)
        self._scenes: list[Scene] = []
        self._meaning: dict[str, _Meaning] = {}
        samples: list[Phrase] = []
        classes: list[int] = []
        hidden = {CLASSES.index(name) for name in config.without} if config.hide else set()
        drawn = (scene_of(look, config.split, number) for number in count())
        shown = (scene for scene in drawn if not hidden.intersection(scene.class_ids))
        for number, scene in enumerate(islice(shown, config.pictures)):
            self._scenes.append(scene)
            rng = np.random.default_rng((0x9A5E, config.seed, number))
            for class_id in scene.class_ids:
                if CLASSES[class_id] in config.without or (only and CLASSES[class_id] not in only):
                    continue
                for text, meaning in _said(rng, scene, class_id, config.part):
                    self._meaning[text] = meaning
                    samples.append(Phrase(number, text))
                    classes.append(class_id)
        if not samples:
            raise ConfigError("nothing can be said about these scenes", found=config, next_step="Allow more classes.")
        self.samples, self.classes = tuple(samples), tuple(classes)

    def picture(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """A scene by its number."""
        return self._scenes[number].picture

    def mask(self, sample: int) -> Bool[np.ndarray, "h w"]:
        """All visible things of the phrase's class: a colour is only said where all of them have it."""
        return self._scenes[self.samples[sample].picture].mask == self.classes[sample] + 1

    def holds(self, picture: int, text: str) -> bool:
        """Whether the scene shows such a thing, by whatever name."""
        meaning = self._meaning.get(text)
        if meaning is None:
            return False
        scene = self._scenes[picture]
        things = [thing for thing in scene.objects if thing.class_id == meaning.class_id]
        coloured = not meaning.colour or any(thing.colour == meaning.colour for thing in things)
        return bool(things) and coloured and (not meaning.place or meaning.place in scene.backgrounds)


def _said(rng: np.random.Generator, scene: Scene, class_id: int, part: Part) -> Iterator[tuple[str, _Meaning]]:
    """The phrases about one class of a scene. Draws from `rng` the same for every part but the choice of names."""
    kind = CLASSES[class_id]
    never = [name for name in NAMES[kind] if name in NEVER_SAID]
    often = [name for name in NAMES[kind] if name not in NEVER_SAID and name not in AMBIGUOUS]
    chosen = rng.random(4)
    name, other, third = (often[int(share * len(often))] for share in chosen[:3])
    if part == "synonyms":
        if never:
            yield never[0], _Meaning(class_id)
        return
    where = WHERE[int(chosen[3] * len(WHERE))]
    if part == "places":
        if NEVER_THERE[kind] in scene.backgrounds:
            yield where.format(name, NEVER_THERE[kind]), _Meaning(class_id, place=NEVER_THERE[kind])
        return
    yield name, _Meaning(class_id)
    if part == "names":
        return
    colours = {thing.colour for thing in scene.objects if thing.class_id == class_id}
    if len(colours) == 1:
        (colour,) = colours
        yield f"{colour} {other}", _Meaning(class_id, colour=colour)
    places = [word for word in scene.backgrounds if word != NEVER_THERE[kind]]
    if places:
        place = places[int(rng.integers(len(places)))]
        yield where.format(third, place), _Meaning(class_id, place=place)
