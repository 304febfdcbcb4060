"""Which classes are seen and which are known by name alone, and what they are called in masks, models and lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import numpy as np
from jaxtyping import UInt8

from clip_es.errors import ConfigError, DataError, nearest
from clip_es.safe_yaml import load_yaml
from clip_es.types import UNDECIDED


@dataclass(frozen=True)
class SeenUnseenSplit:
    """Names of all classes with the ids they have in masks, and which of them are seen.

    A model's classes stand in the order seen, unseen; `index` and `raw` go between the two. Whatever is neither is 255.
    Raises ConfigError: a class both seen and unseen, a name or an id twice, no class of one kind.
    """

    names: dict[str, int]
    """Name -> id in masks, 0..254."""
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def __post_init__(self) -> None:
        both = sorted(set(self.seen) & set(self.unseen))
        if both:
            raise ConfigError(
                "a class is both seen and unseen",
                found=", ".join(both),
                next_step="Unseen classes are those the model was not trained on.",
            )
        for kind, chosen in (("seen", self.seen), ("unseen", self.unseen)):
            if not chosen:
                raise ConfigError(f"a split needs at least one {kind} class", found="none")
            if len(set(chosen)) < len(chosen):
                twice = sorted({name for name in chosen if chosen.count(name) > 1})
                raise ConfigError(f"a class is named twice among the {kind}", found=", ".join(twice))
            for name in chosen:
                if name not in self.names:
                    raise ConfigError(
                        f"'{name}' is none of the {len(self.names)} classes",
                        next_step=nearest(name, self.names) or f"Known: {', '.join(list(self.names)[:20])}.",
                    )
        ids = [self.names[name] for name in self.order]
        if len(set(ids)) < len(ids) or not all(0 <= k < UNDECIDED for k in ids):
            raise ConfigError("each class has an id of its own", expected="0..254", found=sorted(ids))

    @property
    def order(self) -> tuple[str, ...]:
        """Names in the model's order: seen, then unseen."""
        return (*self.seen, *self.unseen)

    @cached_property
    def to_index(self) -> UInt8[np.ndarray, 256]:
        """Table from an id in masks to the model's index of a seen class; 255 for everything else."""
        table = np.full(256, UNDECIDED, dtype=np.uint8)
        for index, name in enumerate(self.seen):
            table[self.names[name]] = index
        return table

    @cached_property
    def to_raw(self) -> UInt8[np.ndarray, 256]:
        """Table from the model's index to the id in masks."""
        table = np.full(256, UNDECIDED, dtype=np.uint8)
        for index, name in enumerate(self.order):
            table[index] = self.names[name]
        return table

    @property
    def seen_ids(self) -> tuple[int, ...]:
        """Ids of the seen classes in masks."""
        return tuple(self.names[name] for name in self.seen)

    @property
    def unseen_ids(self) -> tuple[int, ...]:
        """Ids of the unseen classes in masks."""
        return tuple(self.names[name] for name in self.unseen)


def split_names() -> list[str]:
    """The splits that have a name."""
    return sorted(_tables())


def load_split(name: str) -> SeenUnseenSplit:
    """A published split: voc-15-5, context-29-4, coco-stuff-167-15. Raises ConfigError: there is none of that name."""
    tables = _tables()
    if name not in tables:
        raise ConfigError(
            f"there is no split '{name}'", expected=", ".join(sorted(tables)), next_step=nearest(name, tables) or None
        )
    table = tables[name]
    names = {str(name): int(k) for k, name in table["classes"].items()}
    unseen = tuple(table["unseen"])
    last = tuple(table.get("seen_last", ()))
    seen = tuple(n for n in names if n not in unseen and n not in last)
    return SeenUnseenSplit(names, (*seen, *last), unseen)


def own_split(names: Sequence[str], unseen: Iterable[str], first_id: int = 0) -> SeenUnseenSplit:
    """A split of one's own: the classes in the order of their ids, and which of them are unseen. Raises ConfigError."""
    unseen = tuple(unseen)
    ids = {name: first_id + k for k, name in enumerate(names)}
    return SeenUnseenSplit(ids, tuple(name for name in names if name not in unseen), unseen)


def _tables() -> dict:
    content = (files("clip_es.segmentor.zero_shot") / "splits.yaml").read_bytes()
    tables = load_yaml(content)
    if not isinstance(tables, dict):
        raise DataError("the table of splits is damaged", where="splits.yaml", next_step="Install the package again.")
    return tables
