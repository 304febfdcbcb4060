"""`--config RUN.YAML`: the settings of an earlier run become the defaults of the flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from clip_es.config.given_back import run_config
from clip_es.config.run import DEFAULT, RunConfig
from clip_es.errors import ConfigError, DataError, nearest
from clip_es.prompts import Synonyms
from clip_es.safe_yaml import line_of
from clip_es.store.manifest import FILE, Manifest

_KNOWN = {
    *("labels", "supervision", "weakly_supervised", "config", "prompts", "sha256", "keep_cams", "form", "pictures"),
    "maps",
}
"""What the run.yaml of masks has beside `about`; `clip-es refine` adds `maps`."""
_ABOUT = ("weights", "vocabulary", "preset")


def last_of(flag: str, args: Sequence[str]) -> str | None:
    """The value of a flag among the arguments, the last one where there are several."""
    words = [word for arg in args for word in arg.split("=", 1)]
    values = [after for before, after in pairwise(words) if before == flag]
    return values[-1] if values else None


def given_back(args: Sequence[str], base: RunConfig = DEFAULT) -> dict[str, Any]:
    """Defaults of the flags from the run.yaml under `--config`: `earlier`, `config`, `template`, `synonyms`, `weights`,
    `vocabulary`, `preset`, and `labels` and `maps` as the run has them.

    Raises ConfigError: a setting that there is not, or that does not fit. DataError: it cannot be read, or is the
    run.yaml of something else than masks.
    """
    path = last_of("--config", args)
    if path is None:
        return {}
    told = Manifest.read_file(Path(path))
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    _check_kind(told, file)
    options: dict[str, Any] = {"earlier": Path(path)}
    config = told.settings.get("config")
    if config is not None:
        _check(isinstance(config, dict), "must be a table of settings", file, "config", found=config)
        try:
            options["config"] = run_config(config, file, base)
        except ConfigError as error:
            keys = str(error.where or "").removeprefix(f"{file}, ").removeprefix("--").split(".")
            what, expected, found, step = error.what, error.expected, error.found, error.next_step
            where = _place(file, "config", *filter(None, keys))
            raise ConfigError(what, where=where, expected=expected, found=found, next_step=step) from error
    prompts = told.settings.get("prompts")
    if prompts is not None:
        _check(isinstance(prompts, dict), "must be a table of settings", file, "prompts", found=prompts)
        for name in prompts:
            if name not in ("templates", "synonyms"):
                raise _unknown(name, ("templates", "synonyms"), file, "prompts", name)
        templates, synonyms = prompts.get("templates") or [], prompts.get("synonyms", "sentence")
        sentences = isinstance(templates, list) and all(isinstance(one, str) for one in templates)
        _check(sentences, "must be a list of sentences", file, "prompts", "templates", found=templates)
        choices = get_args(Synonyms)
        if synonyms not in choices:
            where = _place(file, "prompts", "synonyms")
            raise ConfigError("is not one of the values there are", where=where, expected=choices, found=repr(synonyms))
        options |= {"template": tuple(templates), "synonyms": synonyms}
    for name in _ABOUT:
        value = told.about.get(f"{name}_given", told.about.get(name))
        if value is not None:
            _check(isinstance(value, str), "must be a text", file, "about", name, found=value)
            options[name] = value
    for name in ("labels", "maps"):
        if name in told.settings:
            options[name] = told.settings[name]
    return options


def not_as_before(earlier: Path | None, settings: Mapping[str, object]) -> str | None:
    """What decides the masks and is not what it was in the run whose settings were given back: weights, words."""
    if earlier is None:
        return None
    there = Manifest.read_file(earlier).settings.get("sha256")
    here = settings.get("sha256")
    if not isinstance(there, dict) or not isinstance(here, Mapping):
        return None
    changed = [name for name in here if name in there and here[name] != there[name]]
    return f"Other than in {earlier}: {' and '.join(changed)}. The masks will differ." if changed else None


def _check_kind(told: Manifest, file: Path) -> None:
    method = told.settings.get("method")
    if method is not None or ("config" not in told.settings and told.settings.keys() & {"train", "model"}):
        raise DataError(
            f"is the {FILE} of something else than masks",
            where=file,
            expected="that of `clip-es masks` or `clip-es refine`",
            found=f"method: {str(method)[:40]}",
        )
    for name in told.settings:
        if name not in _KNOWN:
            hint = "It stands under `about`." if name in _ABOUT else None
            raise _unknown(name, sorted({*_KNOWN, "about"}), file, name, hint=hint)


def _unknown(name: object, known: Sequence[str], file: Path, *keys: object, hint: str | None = None) -> ConfigError:
    return ConfigError(
        f"there is no setting {str(name)[:60]!r}",
        where=_place(file, *keys),
        expected=", ".join(known),
        next_step=hint or nearest(str(name), known) or None,
    )


def _check(fits: bool, what: str, file: Path, *keys: object, found: object) -> None:
    if not fits:
        raise ConfigError(what, where=_place(file, *keys), found=repr(found)[:60])


def _place(file: Path, *keys: object) -> str:
    """File, line and dotted name of a setting."""
    try:
        line = line_of(file.read_bytes(), *keys)
    except OSError:
        line = None
    return f"{file}{'' if line is None else f' line {line}'}, {'.'.join(map(str, keys))}"
