"""Names and settings of the refiners, from their table."""

from __future__ import annotations

from typing import Annotated

from clip_es.config.settings import Settings, settings_of
from clip_es.joints import Choice
from clip_es.refine.registry import REFINERS

RefinerName = Annotated[str, Choice(REFINERS)]


def refiner_defaults() -> Settings:
    """The settings of every refiner there is, as its own file has them."""
    return settings_of({row.flag: row.settings() for row in REFINERS.values()})
