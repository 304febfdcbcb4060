"""Sentence templates: text files with one template per line, `{}` where the class stands, `#` for remarks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from clip_es.errors import ConfigError, nearest

PACKAGED: dict[str, str] = {
    "imagenet80": "the 80 sentences that CLIP was published with for ImageNet",
    "scene15": "15 sentences for scenes, of CLIPer",
    "drawn24": "24 sentences about drawings, for the drawn world",
}
"""Lists that come with the package: <name>.txt in this folder, and what it holds."""

NAMED: dict[str, str] = {
    "origami": "a clean origami {}.",
    "photo": "a photo of a {}.",
}
"""Single sentences with a name: that of CLIP-ES, and the neutral one."""

_MAX_BYTES = 1_000_000


def check_template(template: str, where: object) -> str:
    """The template, or ConfigError: it must hold `{}` exactly once and no other brace."""
    if not isinstance(template, str) or template.count("{}") != 1 or {*"{}"} & {*template.replace("{}", "")}:
        raise ConfigError(
            "a template names the class with {} exactly once",
            where=where,
            expected="for example 'a photo of a {}.'",
            found=repr(template),
        )
    return template


def load_templates(name_or_path: str | Path) -> tuple[str, ...]:
    """A packaged list by name, or a text file of one template per line.

    Raises ConfigError: unknown name, unreadable file, a line without `{}`, a template twice, no template at all.
    """
    if str(name_or_path) in PACKAGED:
        where: object = f"{name_or_path}.txt"
        text = (files("clip_es.prompts") / f"{name_or_path}.txt").read_text(encoding="utf-8")
    else:
        where = path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                "there is no such list of templates",
                where=path,
                expected=f"a text file, or one of {', '.join(PACKAGED)}",
                found="no file of this name",
                next_step=nearest(str(name_or_path), PACKAGED) or None,
            )
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError("this is no list of templates", where=path, expected=f"at most {_MAX_BYTES} bytes")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (UnicodeDecodeError, OSError) as error:
            raise ConfigError("the list of templates cannot be read", where=path, found=error) from error
    lines = [line.strip() for line in text.splitlines()]
    templates = [check_template(line, where) for line in lines if line and not line.startswith("#")]
    repeated = sorted({t for t in templates if templates.count(t) > 1}) if len(set(templates)) < len(templates) else []
    if repeated or not templates:
        raise ConfigError(
            "a list of templates holds each template once, and at least one",
            where=where,
            found=f"{repeated[0]!r} twice" if repeated else "none",
        )
    return tuple(templates)


def sentences(given: Sequence[str]) -> tuple[str, ...]:
    """Sentences as they are given, each by its name or as it is. Raises ConfigError: one without `{}`."""
    return tuple(check_template(NAMED.get(text, text), "--template") for text in given)
