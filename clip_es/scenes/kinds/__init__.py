"""How each kind of things is drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clip_es.scenes.kinds import animals, things, vehicles
from clip_es.scenes.kinds.pen import Pen
from clip_es.scenes.world import CLASSES

Artist = Callable[[Pen, np.random.Generator, np.ndarray], None]
"""Draws one thing with a pen, random numbers and its main colour."""


def artist(name: str) -> Artist:
    """The artist of a kind."""
    return next(getattr(room, name) for room in (animals, vehicles, things) if hasattr(room, name))


ARTISTS: tuple[Artist, ...] = tuple(artist(name) for name in CLASSES)
"""The artists in label order."""
