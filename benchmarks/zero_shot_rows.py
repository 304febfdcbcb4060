"""What `zero_shot_stage.py` trains: its rows, in the order of their weight, and word vectors of its own making."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from clip_es.scenes.draw import BACKGROUNDS, CLASSES, COLOURS, SceneConfig, draw_scene
from clip_es.segmentor.zero_shot.settings import ExtendSettings

FIRST = ("seen",)
TWO = ("seen", "unseen")
AGAIN = ("self-training", "unseen again")
Masks = Literal["truth", "pseudo"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    settings: ExtendSettings
    phases: tuple[str, ...]
    after: str | None = None
    """The row whose weights it begins with; None: from random ones."""
    conditions: Literal["clip", "words", "both"] = "clip"
    masks: Masks = "truth"


def rows(base: ExtendSettings) -> dict[str, Row]:
    """Every row, the more important first, those that others begin with before them."""
    nets, weights = base.networks, base.weights
    blocks = replace(base, sampler="blocks", block_steps=60)
    gated, top = (replace(base, self_training=kind) for kind in ("gated", "top-p"))
    nothing = replace(base, weights=replace(weights, synthetic=0.0))
    words = replace(base, networks=replace(nets, clip=False))
    return {
        "first phase": Row(base, FIRST),
        "pixel": Row(base, ("unseen",), "first phase"),
        "pixel+gated": Row(gated, AGAIN, "pixel"),
        "without generator": Row(nothing, ("unseen",), "first phase"),
        "gate alone": Row(replace(gated, weights=nothing.weights), AGAIN, "without generator"),
        "pixel+self-training": Row(top, AGAIN, "pixel"),
        "blocks": Row(blocks, ("blocks", "unseen"), "first phase"),
        "blocks+gated": Row(replace(blocks, self_training="gated"), AGAIN, "blocks"),
        "words, pixel": Row(words, TWO, None, "words"),
        "words, pixel+gated": Row(replace(words, self_training="gated"), AGAIN, "words, pixel", "words"),
        "both, pixel": Row(base, TWO, None, "both"),
        "without contextual module": Row(replace(base, networks=replace(nets, context=False)), TWO),
        "without reconstruction": Row(replace(base, noise="latent", content="none"), TWO),
        "without adversary": Row(replace(base, noise="latent", adversary="none"), TWO),
        "without KL": Row(replace(base, noise="latent", weights=replace(weights, kl=0.0)), TWO),
        "empirical blocks": Row(replace(base, sampler="empirical"), ("unseen",), "first phase"),
        "latent noise": Row(replace(base, noise="latent"), ("unseen",), "first phase"),
        "classifier with a hidden layer": Row(replace(base, networks=replace(nets, linear=False)), TWO),
        "trained path from names": Row(replace(base, noise="latent", networks=replace(nets, names="trained")), TWO),
        "without CLIP's patches": Row(words, TWO),
        "blocks+self-training": Row(replace(blocks, self_training="top-p"), AGAIN, "blocks"),
        "pseudo, pixel": Row(base, TWO, masks="pseudo"),
        "pseudo, pixel+gated": Row(gated, AGAIN, "pseudo, pixel", masks="pseudo"),
        "three scales": Row(replace(base, scales=(1.0, 0.75, 0.5)), TWO),
    }


EARLY = ("first phase", "pixel", "pixel+gated", "pixel+self-training", "blocks", "blocks+gated")
"""Rows whose further seeds come before those of the others."""


def wanted(known: dict[str, Row], names: list[str] | None) -> list[str]:
    """The rows asked for and those they begin with, in the order in which they are measured."""
    every = ["before", *known]
    every.insert(every.index("pixel+gated") + 1, "text head")
    every.insert(every.index("pseudo, pixel"), "pseudo, before")
    if names is None:
        return every
    kept: set[str] = set()
    for name in names:
        at: str | None = name
        while at is not None:
            kept.add(at)
            at = known[at].after if at in known else None
    return [name for name in every if name in kept]


def order(seeds: list[int], names: list[str]) -> Iterator[tuple[int, str]]:
    """The first seed of every row, then the others of the rows that matter most, then the rest."""
    yield from ((seeds[0], name) for name in names)
    for early in (True, False):
        yield from ((seed, name) for seed in seeds[1:] for name in names if (name in EARLY) == early)


def write_words(path: Path, scenes: int = 400, width: int = 16) -> None:
    """Vectors of the classes from what they are drawn with, in scenes of another seed."""
    others = [*CLASSES, *BACKGROUNDS, *COLOURS]
    joint = np.zeros((len(CLASSES), len(others)))
    for number in range(scenes):
        scene = draw_scene(9_999, number, SceneConfig((32, 32)))
        there = {CLASSES[thing.class_id] for thing in scene.objects} | set(scene.backgrounds)
        for thing in scene.objects:
            company = (there - {CLASSES[thing.class_id]}) | {thing.colour}
            joint[thing.class_id, [others.index(word) for word in company if word in others]] += 1
    joint /= max(joint.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(joint / (joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)))
    pmi = np.where(np.isfinite(pmi), np.maximum(pmi, 0), 0)
    u, s, _ = np.linalg.svd(pmi, full_matrices=False)
    found = (u * np.sqrt(s))[:, :width]
    lines = [
        " ".join([name.replace(" ", "_"), *(f"{value:.6f}" for value in row)])
        for name, row in zip(CLASSES, found, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
