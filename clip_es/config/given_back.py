"""Settings of a run as its run.yaml has them, made into settings again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from clip_es.config.run import DEFAULT, RunConfig
from clip_es.errors import ConfigError, nearest
from clip_es.localize.methods import METHODS
from clip_es.refine.registry import REFINERS


def run_config(told: Mapping[str, Any], where: object, base: RunConfig = DEFAULT) -> RunConfig:
    """`RunConfig.in_use` read back: `base` with what is told, by the names that run.yaml has.

    Raises ConfigError: a name that there is not, or a value that does not fit; the message says where.
    """
    methods = {METHODS[name].flag: METHODS[name].settings() for name in METHODS}
    refiners = {REFINERS[name].flag: REFINERS[name].settings() for name in REFINERS}
    own = {one.name for one in fields(RunConfig)} - {"methods", "refiners"}
    changed: dict[str, Any] = {}
    given: dict[str, Any] = {}
    hints = get_type_hints(RunConfig)
    for name, value in told.items():
        place = f"{where}, {name}"
        if name in own:
            changed[name] = _made(getattr(base, name), hints[name], value, place)
        elif name in methods or name in refiners:
            before = getattr(base.methods if name in methods else base.refiners, name)
            given[name] = _made(before, type(before), value, place)
        else:
            known = [*own, *methods, *refiners]
            raise ConfigError(
                f"there are no settings {name!r}",
                where=place,
                expected=", ".join(known),
                next_step=nearest(str(name), known) or None,
            )
    return replace(base.using(**given), **changed)


def _made(before: Any, kind: Any, value: Any, where: str) -> Any:
    """A plain value as the field wants it."""
    if is_dataclass(before) and not isinstance(before, type):
        if not isinstance(value, Mapping):
            raise ConfigError("must be a table of settings", where=where, found=repr(value)[:60])
        hints = get_type_hints(type(before))
        known = [one.name for one in fields(before)]
        for name in value:
            if name not in known:
                raise ConfigError(
                    f"there is no setting {name!r}",
                    where=f"{where}.{name}",
                    expected=", ".join(known),
                    next_step=nearest(str(name), known) or None,
                )
        parts = {n: _made(getattr(before, n), hints[n], inner, f"{where}.{n}") for n, inner in value.items()}
        try:
            return replace(before, **parts)
        except ConfigError as error:
            if error.where:
                raise
            about = error.what.partition(" ")[0]
            place = f"{where}.{about}" if about in parts else where
            raise ConfigError(
                error.what, where=place, expected=error.expected, found=error.found, next_step=error.next_step
            ) from error
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    choices = get_args(kind) if get_origin(kind) is not None else (kind,)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError("must be a list", where=where, found=repr(value)[:60])
        inner = choices[0] if choices else Any
        return tuple(_plain(inner, one, where) for one in value)
    if get_origin(kind) is not None and str(get_origin(kind)) == "typing.Literal":
        if value not in choices:
            raise ConfigError("is not one of the values there are", where=where, expected=choices, found=repr(value))
        return value
    options = [one for one in choices if isinstance(one, type)] or [object]
    if value is None and type(None) in options:
        return None
    if Path in options and isinstance(value, str):
        return Path(value)
    if float in options and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if int not in options else value
    if object in options or Any in choices or (get_origin(kind) is None and not isinstance(kind, type)):
        return value
    unions = [one for one in choices if get_origin(one) is not None]
    fits = isinstance(value, tuple(options)) and (not isinstance(value, bool) or bool in options)
    if not fits and not unions:
        wanted = " or ".join(one.__name__ for one in options)
        raise ConfigError("is of another kind", where=where, expected=wanted, found=repr(value)[:60])
    return value
