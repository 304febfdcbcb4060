"""The published settings of CLIPer for each data set and backbone. They were chosen on the evaluation sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from clip_es.config.methods import CliperConfig
from clip_es.errors import ConfigError, nearest

Backbone = Literal["B/16", "L/14"]


def cliper_preset(data: str, backbone: Backbone = "B/16", *, sliding: bool = False) -> CliperConfig:
    """The published settings for a data set: voc21, voc20, context60, context59, object, stuff, ade or cityscapes.

    Those with 21, 60 or object have background; the others leave background pixels out of the evaluation. All
    thresholds were chosen on the evaluation set itself; say so in a comparison. `TEMPLATES` names the sentences.
    Raises ConfigError: no such data set or backbone. Source: the configuration files of CLIPer's published code.
    """
    if (data, backbone) not in _PUBLISHED:
        raise ConfigError(
            "there are no published settings of CLIPer for this",
            expected=", ".join(sorted({f"'{name}'" for name, _ in _PUBLISHED})) + " with B/16 or L/14",
            found=f"'{data}' with {backbone}",
            next_step=nearest(data, [name for name, _ in _PUBLISHED]) or None,
        )
    threshold, select, temperature, score, background = _PUBLISHED[data, backbone]
    side = {"B/16": 560, "L/14": 448}[backbone] if data == "cityscapes" else 336
    config = CliperConfig(
        select=select,
        threshold=threshold,
        temperature=temperature,
        short_side=side,
        score_threshold=score,
        background_threshold=background,
        normalise=data == "voc21",
        own_background=True,
        rule="published",
    )
    if not sliding:
        return config
    lower = {("context60", "L/14"): 0.2, ("object", "L/14"): 0.4}.get((data, backbone))
    if lower is not None:
        config = replace(config, score_threshold=lower, background_threshold=lower)
    return replace(config, window=336 if data.startswith("voc") else 224)


_PUBLISHED: dict[tuple[str, str], tuple[float, Literal[-1, -2], float, float, float]] = {
    # threshold, select, temperature, score threshold, background threshold
    ("voc21", "B/16"): (0.1, -1, 100.0, 0.7, 0.6),
    ("voc20", "B/16"): (0.1, -1, 100.0, 0.0, 0.001),
    ("context60", "B/16"): (0.2, -1, 100.0, 0.45, 0.45),
    ("context59", "B/16"): (0.2, -1, 100.0, 0.3, 0.3),
    ("object", "B/16"): (0.2, -1, 50.0, 0.3, 0.3),
    ("stuff", "B/16"): (0.2, -1, 50.0, 0.1, 0.1),
    ("ade", "B/16"): (0.2, -1, 100.0, 0.3, 0.3),
    ("cityscapes", "B/16"): (0.35, -1, 100.0, 0.0, 0.0001),
    ("voc21", "L/14"): (0.1, -2, 50.0, 0.5, 0.4),
    ("voc20", "L/14"): (0.2, -1, 70.0, 0.1, 0.0001),
    ("context60", "L/14"): (0.2, -2, 50.0, 0.3, 0.3),
    ("context59", "L/14"): (0.2, -2, 100.0, 0.45, 0.45),
    ("object", "L/14"): (0.1, -2, 50.0, 0.5, 0.5),
    ("stuff", "L/14"): (0.2, -2, 50.0, 0.2, 0.2),
    ("ade", "L/14"): (0.2, -1, 50.0, 0.2, 0.2),
    ("cityscapes", "L/14"): (0.35, -1, 100.0, 0.0, 0.0001),
}

TEMPLATES: dict[tuple[str, str], str] = {
    key: "imagenet80"
    if key in {("object", "B/16"), ("cityscapes", "B/16")}
    or key in {(name, "L/14") for name in ("context60", "object", "stuff", "ade")}
    else "scene15"
    for key in _PUBLISHED
}
"""Sentence templates published with each setting, by data set and backbone; names of packaged lists."""
