"""What a visitor has found, to take along: the command line that does the same, and the files it reads."""

from __future__ import annotations

import csv
import io
import shlex
import zipfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from clip_es.config.run import DEFAULT, RunConfig
from clip_es.masks import write_confidence, write_mask
from clip_es.pipelines.playground.look import Look
from clip_es.pipelines.playground.session import Asked, Playground
from clip_es.pipelines.playground.uploads import Photo
from clip_es.prompts.write import vocabulary_text

_ROOT = ("encoder", "methods")
"""Parts of a run's settings whose flags have no prefix."""


def command_line(asked: Asked, config: RunConfig, weights: str, threshold: float) -> str:
    """The call of `clip-es masks` that makes the same mask, in the folder of `bundle`'s files."""
    config = replace(config, method=asked.method, refine=asked.refine)
    config = replace(
        config,
        mask=replace(config.mask, threshold=round(threshold, 4)),
        image=replace(config.image, max_megapixels=DEFAULT.image.max_megapixels),
    )
    words = ["clip-es", "masks", "folder", "--images", "images", "--labels", "labels.csv"]
    words += ["--vocabulary", "words.yaml", "--weights", weights]
    if asked.words.templates:
        words += ["--template", *asked.words.templates]
    if asked.words.synonyms != "sentence":
        words += ["--synonyms", asked.words.synonyms]
    return shlex.join([*words, *flags(config), "--out", "run"])


def flags(config: RunConfig, default: RunConfig = DEFAULT) -> list[str]:
    """The flags that turn the default settings into these."""
    return [word for flag, value in _differences(config, default, ()) for word in _words(flag, value)]


def bundle(playground: Playground, asked: Asked, look: Look, weights: str, threshold: float) -> bytes:
    """A ZIP with the picture, its labels, the words, the command line and the mask. Raises DataError: the picture is
    not here any more."""
    photo = playground.uploads.get(asked.photo)
    vocabulary = asked.words.vocabulary(playground.vocabulary)
    told = vocabulary_text(vocabulary, ["The words of the playground."])
    call = command_line(asked, playground.config, weights, threshold)
    mask, confidence = io.BytesIO(), io.BytesIO()
    write_mask(mask, look.labels(threshold))
    write_confidence(confidence, look.confidence)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as files:
        files.write(photo.path, f"images/{photo.image_id}{photo.path.suffix}")
        files.writestr("labels.csv", _labels(photo, look))
        files.writestr("words.yaml", told)
        files.writestr("command.txt", f"{call}\n")
        files.writestr("mask.png", mask.getvalue())
        files.writestr("confidence.png", confidence.getvalue())
    return out.getvalue()


def _labels(photo: Photo, look: Look) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("image", "labels"))
    rows.writerow((f"{photo.image_id}{photo.path.suffix}", ";".join(look.names)))
    return out.getvalue()


def _differences(value: Any, default: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in fields(value):
        ours, theirs = getattr(value, field.name), getattr(default, field.name)
        if ours == theirs:
            continue
        name = "refine" if not path and field.name == "refiners" else field.name
        inner = path if not path and name in _ROOT else (*path, name)
        if is_dataclass(ours) and type(ours) is type(theirs):
            yield from _differences(ours, theirs, inner)
        else:
            yield inner, ours


def _words(path: tuple[str, ...], value: Any) -> list[str]:
    path = ("encoder", "engine") if path == ("engine",) else path  # --engine is what runs a whole job
    *groups, name = (part.replace("_", "-") for part in path)
    flag = ".".join([*groups, name])
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--{'.'.join([*groups, f'no-{name}'])}"]
    if isinstance(value, tuple):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}", str(value)]
