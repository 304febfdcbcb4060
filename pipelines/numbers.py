"""Numbers that cannot work, named by their flag before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from clip_es.errors import ConfigError

AT_LEAST = {
    **dict.fromkeys(("workers", "report_pictures", "shown", "threads", "seed", "train", "val", "min_area"), 0),
    **dict.fromkeys(("validate_every", "validate_on", "val_pictures"), 0),
    **dict.fromkeys(
        ("batch_size", "batch", "measure", "count", "number", "most", "pictures", "side", "stride", "limit"), 1
    ),
    "limit": 1,
    **dict.fromkeys(("blocks", "steps", "save_every", "val_interval", "checkpoint_interval", "size", "lr"), 1e-12),
    "max_megapixels": 1e-3,
}
"""The least value of a flag, by the name of its field, whatever command has it."""


def numbers_of(command: Any, prefix: str = "") -> Iterator[tuple[str, str, float]]:
    """Flag, name of the field and value of every number of a command, those of its settings included."""
    hints = get_type_hints(type(command), include_extras=True)
    for one in fields(command):
        value = getattr(command, one.name)
        marks = [getattr(mark, "name", None) for mark in get_args(hints[one.name])[1:] if hasattr(mark, "metavar")]
        name = next((name for name in marks if name is not None), one.name.replace("_", "-"))
        flag = f"{prefix}{name}"
        if is_dataclass(value) and not isinstance(value, type):
            yield from numbers_of(value, f"{flag}." if flag and not flag.endswith(".") else flag)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                yield f"--{flag}", one.name, number


def check_numbers(command: Any) -> None:
    """Raises ConfigError: a number is none, is infinite, or is too small for its flag."""
    if not is_dataclass(command):
        return
    for flag, name, value in numbers_of(command):
        least = AT_LEAST.get(name)
        if not math.isfinite(value):
            raise ConfigError(f"{flag} is no number that can be used", expected="a finite number", found=value)
        if least is not None and value < least:
            expected = f"{least} or more" if least in (0, 1) else "more than 0"
            raise ConfigError(f"{flag} is too small", expected=expected, found=value)


def with_flag(error: ConfigError, args: Sequence[str]) -> ConfigError:
    """An error about a setting, with the flag that was given for it in the place of the setting's bare name."""
    about = error.what.partition(" ")[0]
    named = [
        flag
        for flag in (word.partition("=")[0] for word in args if word.startswith("--"))
        if flag.rpartition(".")[2].lstrip("-").replace("-", "_") == about
    ]
    if error.where or len(named) != 1:
        return error
    what = error.what.replace(about, named[0], 1)
    return ConfigError(what, expected=error.expected, found=error.found, next_step=error.next_step)
