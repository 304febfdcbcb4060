"""The one check that most settings need."""

from __future__ import annotations

from clip_es.errors import ConfigError


def check_within(name: str, value: int | float, low: int | float, high: int | float, meaning: str) -> None:
    """Raises ConfigError: the setting `name` lies outside low..high; NaN does too. `meaning`: its unit, in words."""
    if not low <= value <= high:
        raise ConfigError(f"{name} is out of range ({meaning})", expected=f"{low:g}..{high:g}", found=value)
