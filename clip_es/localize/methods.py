"""Which methods there are, and how each is made ready. A new one: a class like those here, and a line in `METHODS`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clip_es import published
from clip_es.config.run import MethodName, RunConfig
from clip_es.encoder import Encoder
from clip_es.errors import ConfigError, WeightsError, nearest
from clip_es.localize.base import Localizer
from clip_es.localize.cliper import Cliper
from clip_es.localize.clipseg.examples import class_prompts, digest, read_examples
from clip_es.localize.clipseg.localizer import ClipSeg
from clip_es.localize.clipseg.weights import load_decoder
from clip_es.localize.gradcam.localizer import ClipEs
from clip_es.refine.registry import ON_GRID
from clip_es.types import TextBank


@dataclass(frozen=True)
class Parts:
    """What every method is made of."""

    encoder: Encoder
    bank: TextBank
    config: RunConfig
    words: Sequence[Sequence[str]]
    """What each class is called; several words of a class are averaged."""
    templates: Sequence[str] | None = None
    """Sentences the user asked for in place of the method's own; the bank is made with them already."""
    class_id: Callable[[str], int] | None = None
    """From a class name to its 0-based id; raises DataError."""
    labelled: bool = True
    """Whether the labels of a picture will be known."""
    exact: bool = False
    """Whether the order of operations of the published code is wanted."""


class Method(NamedTuple):
    """A method and what can be said of it without making it."""

    make: Callable[[Parts], Localizer]
    finds_classes: bool
    """Whether it works without labels."""
    about: str


def build_localizer(parts: Parts) -> Localizer:
    """The localizer that `parts.config.method` names, ready to work. Raises ConfigError, WeightsError, DataError."""
    name = parts.config.method
    if name not in METHODS:
        raise ConfigError(
            "there is no such method", expected=", ".join(METHODS), found=name, next_step=nearest(name, METHODS) or None
        )
    if not parts.labelled and not METHODS[name].finds_classes:
        raise ConfigError(
            f"the method {name} explains labels, so it cannot work without any",
            found="--labels none",
            next_step="Pass --labels auto to have them found first, or --method cliper, which finds them itself.",
        )
    return METHODS[name].make(parts)


def weakly_supervised(localizer: Localizer) -> bool:
    """Whether masks made with it rest on CLIP, and labels at most: no mask was seen in any training."""
    return localizer.supervision == "none"


def _clip_es(parts: Parts) -> Localizer:
    kind = published.PublishedClipEs if parts.exact else ClipEs
    return kind(parts.encoder, parts.bank, parts.config.localize, parts.config.affinity.layers)


def _cliper(parts: Parts) -> Localizer:
    return Cliper(parts.encoder, parts.bank, parts.config.cliper, parts.config.affinity.layers, known=parts.labelled)


def _clipseg(parts: Parts) -> Localizer:
    config = parts.config.clipseg
    path = _decoder_path(config.decoder)
    decoder = load_decoder(path, config.layers).to(parts.encoder.device)
    sources, examples = {"decoder": hashlib.sha256(path.read_bytes()).hexdigest()}, []
    if config.examples is not None:
        if parts.class_id is None:
            raise ConfigError("examples need a vocabulary that knows the names of their folders", where=config.examples)
        examples = read_examples(config.examples, parts.class_id)
        sources["examples"] = digest(examples)
    told = decoder.about.get("example_side", "")
    side = int(told) if told.isdecimal() else None
    prompts = class_prompts(parts.encoder, parts.words, config, parts.templates, examples, side)
    return ClipSeg(
        parts.encoder,
        decoder,
        prompts,
        config,
        on_grid=any(name in ON_GRID for name in parts.config.refine),
        layers=parts.config.affinity.layers,
        sources=sources,
        supervision=decoder.about.get("supervision", "masks (PhraseCut)"),
    )


def _decoder_path(name: str) -> Path:
    if name != "scenes":
        return Path(name).expanduser()
    from clip_es.scenes.weights import shipped_decoder_path

    if not shipped_decoder_path().is_file():
        raise WeightsError(
            "this copy of the package ships no decoder",
            expected="scenes_clipseg.safetensors beside the scenes CLIP",
            next_step="Train one with `clip-es train-clipseg`, or pass --decoder FILE.",
        )
    return shipped_decoder_path()


METHODS: dict[MethodName, Method] = {
    "clip-es": Method(_clip_es, False, "where the labels are, by the gradient of their scores"),
    "cliper": Method(_cliper, True, "patches of all layers against the words; with labels or without"),
    "clipseg": Method(_clipseg, True, "a decoder that was trained on masks, asked with words or examples"),
}
