"""The settings of all rows of a table as one object, so that a row's settings stand beside its code alone.

A frozen dataclass is made with one field for each row, so that tyro finds the flags, `dataclasses.replace` works, and
what another package brings is carried, stored and hashed like our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass
from functools import lru_cache
from typing import Any


class Settings:
    """Settings by name, as attributes: `config.refiners.crf`, `config.methods.cliper`."""

    def __getattr__(self, name: str) -> Any:
        # Reached only where there is no such field; stated so that type checkers know the fields are many.
        raise AttributeError(f"there are no settings {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return settings_of, ({one.name: getattr(self, one.name) for one in fields(self)},)  # pyright: ignore[reportArgumentType]


def settings_of(values: Mapping[str, object]) -> Settings:
    """Settings with these values; each value's own class becomes its default."""
    made = _settings_class(tuple((name, type(value)) for name, value in values.items()))
    return made(**values)


@lru_cache
def _settings_class(rows: tuple[tuple[str, type], ...]) -> Any:
    parts = [(name, kind, field(default_factory=kind)) for name, kind in rows]
    return make_dataclass("Settings", parts, bases=(Settings,), frozen=True)
